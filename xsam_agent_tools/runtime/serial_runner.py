"""Blocking work with a deadline that holds even when the work ignores it."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TypeVar

from xsam.errors import DeadlineExceededError, QueueFullError

T = TypeVar("T")

# The work knows its deadline; waiting this much longer lets its own, better explained refusal win.
GRACE_S = 0.25


class OneAtATime:
    """Runs one piece of work at a time for callers on many threads.

    Each caller waits for its turn and for its work, never longer than its deadline. Work that
    hangs keeps its (daemon) thread and its turn; later callers are refused when their time is up.
    """

    def __init__(self, *, max_waiting: int = 16) -> None:
        self._turn = threading.Lock()
        self._places = threading.BoundedSemaphore(max_waiting)
        self._max_waiting = max_waiting

    def run(self, work: Callable[[float], T], *, deadline_s: float) -> T:
        """`work(seconds_left)`, on a thread of its own.

        Raises:
            QueueFullError: too many callers wait already.
            DeadlineExceededError: the turn did not come, or the work did not end, in time.
        """
        ends_s = time.monotonic() + deadline_s
        if not self._places.acquire(blocking=False):
            raise QueueFullError(f"{self._max_waiting} requests are waiting already")
        try:
            if not self._turn.acquire(timeout=deadline_s):
                raise DeadlineExceededError(f"the segmenter was busy for all of {deadline_s:.1f} s")
            future: Future[T] = Future()
            context = contextvars.copy_context()
            thread = threading.Thread(
                target=context.run,
                args=(self._work, work, ends_s, future),
                name="xsam-agent-look",
                daemon=True,
            )
            try:
                thread.start()
            except BaseException:
                self._turn.release()
                raise
            try:
                return future.result(timeout=max(0.0, ends_s - time.monotonic()) + GRACE_S)
            except FutureTimeoutError:
                if future.done():  # it ended just now, or raised a TimeoutError of its own
                    return future.result()
                raise DeadlineExceededError(f"no answer within {deadline_s:.1f} s") from None
        finally:
            self._places.release()

    def _work(self, work: Callable[[float], T], ends_s: float, future: Future[T]) -> None:
        try:
            result = work(max(0.0, ends_s - time.monotonic()))
        except BaseException as error:
            self._turn.release()
            future.set_exception(error)
        else:
            self._turn.release()
            future.set_result(result)
