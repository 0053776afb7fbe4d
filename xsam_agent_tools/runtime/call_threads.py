"""Threads for blocking calls of asyncio programs."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from xsam.errors import QueueFullError

T = TypeVar("T")

MAX_CALLS = 32


class CallThreads:
    """Runs blocking calls on daemon threads of their own, a bounded number at a time.

    The default executor of asyncio is never used: it belongs to the program, it has few threads, and a call
    that waits for one of them does not notice that its deadline has passed.
    """

    def __init__(self, *, max_calls: int = MAX_CALLS) -> None:
        self._slots = threading.BoundedSemaphore(max_calls)
        self._max_calls = max_calls
        self._running: set[object] = set()  # changed by single operations, which are atomic

    @property
    def running(self) -> int:
        """Number of calls that are running."""
        return len(self._running)

    async def run(self, work: Callable[[], T]) -> T:
        """Return the result of `work()`, which starts at once; it goes on if the caller is cancelled.

        Raises:
            QueueFullError: too many calls are running already.
        """
        if not self._slots.acquire(blocking=False):
            raise QueueFullError(f"{self._max_calls} calls are running already")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        context = contextvars.copy_context()
        self._running.add(done)
        thread = threading.Thread(
            target=self._work, args=(context, work, loop, done), name="xsam-agent-call", daemon=True
        )
        try:
            thread.start()
        except BaseException:
            self._running.discard(done)
            self._slots.release()
            raise
        return await done

    def _work(
        self,
        context: contextvars.Context,
        work: Callable[[], T],
        loop: asyncio.AbstractEventLoop,
        done: asyncio.Future[T],
    ) -> None:
        settle: Callable[[Any], None]
        outcome: Any
        try:
            settle, outcome = done.set_result, context.run(work)
        except BaseException as error:
            settle, outcome = done.set_exception, error
        finally:
            self._running.discard(done)
            self._slots.release()

        def deliver() -> None:
            if not done.done():  # else the caller was cancelled
                settle(outcome)

        try:
            loop.call_soon_threadsafe(deliver)
        except RuntimeError:  # the loop was closed, and the caller with it
            return
