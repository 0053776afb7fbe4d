"""An executor that goes on with a callback in the moment in which what it awaits is there.

rclpy's executors look at every waiting callback at each of their turns. One that is being looked at when its
future gets its result is left out of the turn which that result brings about, and sleeps until something
else wakes the executor. `Outcome` and `ResumingExecutor` need no such turn: whoever sets the result resumes
the callback.
"""

from __future__ import annotations

import functools
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rclpy.context import Context
from rclpy.exceptions import InvalidHandle
from rclpy.executors import ConditionReachedException, Executor, ShutdownException, TimeoutException
from rclpy.logging import get_logger
from rclpy.task import Future, Task


class _Running(threading.local):
    """What a thread is running."""

    resume: Callable[[], None] | None = None
    awaited: Outcome | None = None

    def replace(
        self, resume: Callable[[], None] | None, awaited: Outcome | None
    ) -> tuple[Callable[[], None] | None, Outcome | None]:
        """Put something else in; returns what was there."""
        before = self.resume, self.awaited
        self.resume, self.awaited = resume, awaited
        return before


_running = _Running()


class Outcome(Future):
    """Something that a callback of a node awaits and another thread provides.

    Under a `ResumingExecutor`, `set_result` runs the rest of the callback before it returns; under another
    executor it is a future that wakes it.
    """

    def __init__(self, executor: Executor | None) -> None:
        super().__init__(executor=executor)
        self._wake = executor.wake if executor is not None else _nothing
        self._resume: Callable[[], None] | None = None

    def __await__(self) -> Any:
        while not (self.done() or self.cancelled()):
            self._resume = _running.resume
            _running.awaited = self
            yield self
        return self.result()

    def set_result(self, result: Any) -> None:
        """Provide it, from any thread."""
        super().set_result(result)
        (self._resume or self._wake)()


class ResumingExecutor(Executor):
    """Runs callbacks in a pool of threads, like rclpy's `MultiThreadedExecutor`.

    An exception in a callback is logged, and the executor goes on.
    """

    def __init__(self, *, threads: int, context: Context | None = None) -> None:
        """Start nothing yet.

        Args:
            threads: of the pool, at least 1; a callback that awaits something occupies none.
            context: None = the default one.
        """
        super().__init__(context=context)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="xsam_callback")
        self._awaited: dict[Task, Outcome] = {}

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Wait for a callback that can run, and hand it to the pool."""
        try:
            task, _, _ = self.wait_for_ready_callbacks(timeout_sec)
        except (ConditionReachedException, ShutdownException, TimeoutException):
            return
        awaited = self._awaited.get(task)
        if awaited is None or awaited.done():
            self._pool.submit(self._run, task)

    def spin_once_until_future_complete(self, future: Future, timeout_sec: Any = None) -> None:
        """The same, and wake up when the future is done."""
        future.add_done_callback(lambda _: self.wake())
        self.spin_once(getattr(timeout_sec, "timeout", timeout_sec))

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        """See `Executor.shutdown`; the threads end with what they are running."""
        ended = bool(super().shutdown(timeout_sec))
        self._pool.shutdown(wait=False, cancel_futures=True)
        return ended

    def _run(self, task: Task) -> None:
        """Run a callback until it ends or awaits something that is not there."""
        while not task.done():
            # There is an outer one when a callback sets the result that another callback awaits.
            outer = _running.replace(functools.partial(self._run, task), None)
            try:
                task()  # does nothing when another thread is running it
            finally:
                _, awaited = _running.replace(*outer)
            if task.done():
                self._awaited.pop(task, None)
                _log(task.exception())
                return
            if awaited is None:
                return  # it awaits something of rclpy's, or runs in another thread
            self._awaited[task] = awaited
            if not awaited.done():
                return  # `set_result` goes on from here
        self._awaited.pop(task, None)


def _nothing() -> None:
    pass


def _log(error: BaseException | None) -> None:
    """Say what a callback has raised."""
    logger = get_logger("xsam_ros")
    if isinstance(error, InvalidHandle):
        logger.debug(f"something was destroyed while a callback ran: {error}")
    elif error is not None:
        words = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        logger.error(f"error in a callback:\n{words}")
