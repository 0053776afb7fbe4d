"""Blocking work with a deadline that holds even when the work ignores it."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TypeVar

from xsam.errors import DeadlineExceededError, QueueFullError
from xsam.types.deadline import Deadline

T = TypeVar("T")

# The work knows its deadline; waiting this much longer lets its own, more specific error win.
GRACE_S = 0.25


class SerialRunner:
    """Runs work for callers on many threads, one piece at a time.

    Each caller waits for its turn and for its work, never longer than its deadline. Work that
    hangs keeps its (daemon) thread and its turn; later callers are refused when their time is up.
    """

    def __init__(self, *, max_waiting: int = 32) -> None:
        self._turn = threading.Lock()
        self._slots = threading.BoundedSemaphore(max_waiting)
        self._max_waiting = max_waiting

    def run(self, work: Callable[[Deadline], T], *, deadline_s: float) -> T:
        """Call `work(deadline)` on a new thread and return its result.

        Raises:
            QueueFullError: too many callers are waiting already.
            DeadlineExceededError: the turn did not come, or the work did not end, in time.
        """
        deadline = Deadline(deadline_s)
        if not self._slots.acquire(blocking=False):
            raise QueueFullError(f"{self._max_waiting} requests are waiting already")
        try:
            if not self._turn.acquire(timeout=deadline_s):
                raise DeadlineExceededError(f"the segmenter was busy for all of {deadline_s:.1f} s")
            future: Future[T] = Future()
            context = contextvars.copy_context()
            thread = threading.Thread(
                target=context.run,
                args=(self._work, work, deadline, future),
                name="xsam-agent-capture",
                daemon=True,
            )
            try:
                thread.start()
            except BaseException:
                self._turn.release()
                raise
            try:
                return future.result(timeout=deadline.remaining_s + GRACE_S)
            except FutureTimeoutError:
                if future.done():  # it ended just now, or raised a TimeoutError of its own
                    return future.result()
                raise deadline.error() from None
        finally:
            self._slots.release()

    def _work(self, work: Callable[[Deadline], T], deadline: Deadline, future: Future[T]) -> None:
        try:
            result = work(deadline)
        except BaseException as error:
            self._turn.release()
            future.set_exception(error)
        else:
            self._turn.release()
            future.set_result(result)
