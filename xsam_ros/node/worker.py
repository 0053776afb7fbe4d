"""One thread that owns the model, with a bounded queue in front of it.

Every job ends exactly once, with its value or a typed error, at its deadline at the latest: a second
thread watches the deadlines, so a caller is told in time even while the model is in the middle of
something. The model itself is stopped between stages, through the `on_stage` hook.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from xsam.errors import (
    DeadlineExceededError,
    ModelError,
    NotActiveError,
    OutOfMemoryError,
    QueueFullError,
    RequestCancelledError,
    XSamError,
    error_for_code,
)

T = TypeVar("T")
StageHook = Callable[[str], None]


class Job(Generic[T]):
    """One piece of work and how it ended."""

    def __init__(
        self,
        work: Callable[[StageHook], T],
        on_done: Callable[[T | XSamError], None],
        *,
        deadline_s: float,
        afterwards: Callable[[T], None] | None = None,
        on_moved: Callable[[int], None] | None = None,
    ) -> None:
        self.work = work
        self.afterwards = afterwards
        self.on_moved = on_moved
        self.allowed_s = deadline_s
        self.deadline = time.monotonic() + deadline_s
        self.stage = "waiting"
        self._on_done = on_done
        self._lock = threading.Lock()
        self._outcome: list[T | XSamError] = []

    @property
    def ended(self) -> bool:
        return bool(self._outcome)

    def end(self, outcome: T | XSamError) -> bool:
        """Report the outcome, unless one was reported before; says whether this one counted."""
        with self._lock:
            if self._outcome:
                return False
            self._outcome.append(outcome)
        self._on_done(outcome)
        return True

    def on_stage(self, stage: str) -> None:
        """Called by the work between stages; raises when the work has become pointless."""
        self.stage = stage
        if self._outcome:
            outcome = self._outcome[0]
            raise (
                _copy(outcome)
                if isinstance(outcome, XSamError)
                else RequestCancelledError("the job has ended")
            )
        if time.monotonic() >= self.deadline:
            raise self.deadline_error()

    def deadline_error(self) -> DeadlineExceededError:
        """What a caller is told when the time is up."""
        return DeadlineExceededError(f"no answer within {self.allowed_s:.2f} s (stage: {self.stage})")


class ModelWorker:
    """Runs jobs one after the other in one thread."""

    def __init__(self, *, queue_size: int, log_error: Callable[[str], None]) -> None:
        self._queue_size = queue_size
        self._log_error = log_error
        self._changed = threading.Condition()
        self._waiting: deque[Job[object]] = deque()
        self._background: deque[Job[object]] = deque()
        self._running: Job[object] | None = None
        self._gate: XSamError | None = NotActiveError("the node is not active")
        self._closed = False
        self._threads = [
            threading.Thread(target=self._run_jobs, name="xsam_model", daemon=True),
            threading.Thread(target=self._watch_deadlines, name="xsam_deadlines", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """A job is running."""
        return self._running is not None

    def submit(
        self,
        work: Callable[[StageHook], T],
        on_done: Callable[[T | XSamError], None],
        *,
        deadline_s: float,
        afterwards: Callable[[T], None] | None = None,
        on_moved: Callable[[int], None] | None = None,
        background: bool = False,
    ) -> Job[T]:
        """Queue a job.

        Args:
            work: runs in the model's thread; calls the hook it gets between stages.
            on_done: gets the value or the error, once, in any thread; must be quick.
            deadline_s: seconds from now.
            afterwards: runs in the model's thread after a success was reported.
            on_moved: gets the number of requests that go first, when it is queued and when that changes.
            background: run it when no other job waits, and give it no place in the queue; whoever submits
                such jobs has one at a time.

        Raises:
            NotActiveError: no jobs are taken now.
            QueueFullError: too many jobs are waiting.
            DeadlineExceededError: no time is left.
        """
        job = Job(work, on_done, deadline_s=deadline_s, afterwards=afterwards, on_moved=on_moved)
        if deadline_s <= 0.0:
            raise job.deadline_error()
        with self._changed:
            if self._closed:
                raise NotActiveError("the node is shutting down")
            if self._gate is not None:
                raise _copy(self._gate)
            if background:
                self._background.append(job)  # type: ignore[arg-type]
            elif len(self._waiting) >= self._queue_size:
                raise QueueFullError(f"{len(self._waiting)} requests are already waiting for the model")
            else:
                self._waiting.append(job)  # type: ignore[arg-type]
            queue = self._queue()
            self._changed.notify_all()
        if not background:
            self._tell_places(queue[-1:])
        return job

    def cancel(self, job: Job[T], error: XSamError) -> None:
        """End a job, and give up its place in the queue; a running one stops at its next stage."""
        with self._changed:
            for queue in (self._waiting, self._background):
                if job in queue:
                    queue.remove(job)  # type: ignore[arg-type]
            moved = self._queue()
        self._tell_places(moved)
        self._end(job, error)  # type: ignore[arg-type]

    def call(self, work: Callable[[], T], *, stage: str, timeout_s: float) -> T:
        """Run something in the model's thread, before everything that waits and past the gate; wait for it.

        Raises:
            DeadlineExceededError: it did not end in time; it goes on in the background.
            XSamError: what `work` raised.
        """
        ended = threading.Event()
        outcomes: list[T | XSamError] = []

        def on_done(outcome: T | XSamError) -> None:
            outcomes.append(outcome)
            ended.set()

        def run(on_stage: StageHook) -> T:
            on_stage(stage)
            return work()

        job = Job(run, on_done, deadline_s=timeout_s)
        with self._changed:
            if self._closed:
                raise NotActiveError("the node is shutting down")
            self._waiting.appendleft(job)  # type: ignore[arg-type]
            self._changed.notify_all()
        if not ended.wait(timeout_s):
            job.end(job.deadline_error())
            ended.wait()  # `end` has been called by somebody, so this is immediate
        outcome = outcomes[0]
        if isinstance(outcome, XSamError):
            raise outcome
        return outcome

    def accept(self) -> None:
        """Take jobs from now on."""
        with self._changed:
            self._gate = None

    def refuse(self, error: XSamError) -> None:
        """Take no jobs from now on, and end those that wait or run with the same error."""
        with self._changed:
            self._gate = error
            ending = [*self._waiting, *self._background, *([self._running] if self._running else [])]
            self._waiting.clear()
            self._background.clear()
        for job in ending:
            self._end(job, error)

    def close(self, *, timeout_s: float) -> bool:
        """Refuse everything, let a running job reach the end of its stage, and join the threads.

        Returns:
            False if the running job did not stop in time; the thread is left behind.
        """
        self.refuse(NotActiveError("the node is shutting down"))
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        until = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run_jobs(self) -> None:
        while True:
            with self._changed:
                self._running = None
                self._changed.wait_for(lambda: self._waiting or self._background or self._closed)
                queue = self._waiting or self._background
                if not queue:
                    self._changed.notify_all()
                    return
                job = self._running = queue.popleft()
                moved = self._queue()
            self._tell_places(moved)
            del moved
            self._run(job)
            del job  # the last reference to images and results, while the thread waits for the next job

    def _run(self, job: Job[object]) -> None:
        outcome: object
        try:
            job.on_stage("starting")
            outcome = job.work(job.on_stage)
        except XSamError as error:
            outcome = error
        except MemoryError as error:
            outcome = OutOfMemoryError(f"out of memory in stage {job.stage}: {error}")
        except Exception as error:  # the thread has to survive whatever a model raises; the caller is told
            self._log_error(f"error in stage {job.stage}:\n{traceback.format_exc()}")
            outcome = ModelError(f"{type(error).__name__} in stage {job.stage}: {error}")
        counted = self._end(job, outcome)
        if counted and job.afterwards is not None and not isinstance(outcome, XSamError):
            try:
                job.afterwards(outcome)
            except Exception:  # the answer is out; what follows it must not take the thread down
                self._log_error(f"error after an answer:\n{traceback.format_exc()}")

    def _queue(self) -> list[tuple[Job[object], int]]:
        """The requests that wait, each with the number of those that go first."""
        running = self._running is not None
        return [(job, place + running) for place, job in enumerate(self._waiting)]

    def _tell_places(self, queue: list[tuple[Job[object], int]]) -> None:
        for job, ahead in queue:
            if job.on_moved is not None and not job.ended:
                try:
                    job.on_moved(ahead)
                except Exception:  # a broken callback concerns its caller only
                    self._log_error(f"error while telling a place in the queue:\n{traceback.format_exc()}")

    def _end(self, job: Job[object], outcome: object) -> bool:
        try:
            return job.end(outcome)
        except Exception:  # a broken callback concerns its caller only
            self._log_error(f"error while reporting an outcome:\n{traceback.format_exc()}")
            return False

    def _watch_deadlines(self) -> None:
        while True:
            with self._changed:
                queued = (*self._waiting, *self._background)
                if self._closed and not queued and self._running is None:
                    return
                jobs = [job for job in (*queued, self._running) if job is not None and not job.ended]
                now = time.monotonic()
                late = [job for job in jobs if job.deadline <= now]
                for job in late:
                    for queue in (self._waiting, self._background):
                        if job in queue:
                            queue.remove(job)
                if not late:
                    next_s = min((job.deadline - now for job in jobs), default=None)
                    self._changed.wait(next_s)
            for job in late:
                self._end(job, job.deadline_error())


def _copy(error: XSamError) -> XSamError:
    """A fresh exception: one raised twice would collect tracebacks, and with them images, of both places."""
    return error_for_code(error.code, error.message, hint=error.hint)
