"""A thread that owns the model, with a bounded queue in front of it: in the ROS node and in the server.

Every job ends exactly once, with its value or a typed error, at its deadline at the latest: a second thread
watches the deadlines, so that a job ends in time even while the model is in the middle of a stage. The model
itself stops between stages, through the `on_stage` hook.
"""

from __future__ import annotations

import math
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from xsam.errors import (
    ModelError,
    NotActiveError,
    OutOfMemoryError,
    QueueFullError,
    RequestCancelledError,
    XSamError,
    error_for_code,
)
from xsam.types.deadline import Deadline, StageHook

T = TypeVar("T")

SWITCH_INTERVAL_S = 0.0005
"""For `sys.setswitchinterval` in programs with a worker: how long a thread keeps Python's global lock when
others want it. With the default of 5 ms, each request waits for it several times while the model's thread
computes."""


class Job(Generic[T]):
    """A piece of work for the model's thread, and its outcome."""

    def __init__(
        self,
        work: Callable[[StageHook], T],
        on_done: Callable[[T | XSamError], None],
        *,
        deadline: Deadline,
        on_success: Callable[[T], None] | None = None,
        on_queue_position: Callable[[int], None] | None = None,
    ) -> None:
        self.work = work
        self.deadline = deadline
        self.on_success = on_success
        self.on_queue_position = on_queue_position
        self.stage = "waiting"
        self._on_done = on_done
        self._lock = threading.Lock()
        self._outcome: list[T | XSamError] = []

    @property
    def ended(self) -> bool:
        return bool(self._outcome)

    def end(self, outcome: T | XSamError) -> bool:
        """Report the outcome, unless one was reported before; return whether this one counted."""
        with self._lock:
            if self._outcome:
                return False
            self._outcome.append(outcome)
        self._on_done(outcome)
        return True

    def on_stage(self, stage: str) -> None:
        """Note the stage that begins; raise if the job has ended or its deadline has passed."""
        self.stage = stage
        if self._outcome:
            outcome = self._outcome[0]
            raise (
                _copy(outcome)
                if isinstance(outcome, XSamError)
                else RequestCancelledError("the job has ended")
            )
        self.deadline.check(stage)


class ModelWorker:
    """A thread that runs jobs one after the other."""

    def __init__(self, *, queue_size: int, log_error: Callable[[str], None], owner: str = "the node") -> None:
        """Start the threads; jobs are refused until `accept` is called.

        Args:
            queue_size: jobs that may wait.
            log_error: gets the traceback of what is a bug, in any thread.
            owner: whose worker this is, for messages.
        """
        self._queue_size = queue_size
        self._log_error = log_error
        self._owner = owner
        lock = threading.RLock()
        self._changed = threading.Condition(lock)  # the model's thread waits for it
        self._sooner = threading.Condition(lock)  # a deadline comes before those that are watched
        self._watched_until_s = math.inf
        self._waiting: deque[Job[object]] = deque()
        self._background: deque[Job[object]] = deque()
        self._running: Job[object] | None = None
        self._gate: XSamError | None = NotActiveError(f"{owner} is not active")
        self._closed = False
        self._threads = [
            threading.Thread(target=self._run_jobs, name="xsam_model", daemon=True),
            threading.Thread(target=self._watch_deadlines, name="xsam_deadlines", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Number of jobs in the queue."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """True while a job is running."""
        return self._running is not None

    def submit(
        self,
        work: Callable[[StageHook], T],
        on_done: Callable[[T | XSamError], None],
        *,
        deadline: Deadline,
        on_success: Callable[[T], None] | None = None,
        on_queue_position: Callable[[int], None] | None = None,
        background: bool = False,
    ) -> Job[T]:
        """Queue a job.

        Args:
            work: runs in the model's thread; calls the hook that it gets between stages.
            on_done: gets the value or the error, once, in any thread; must return quickly.
            deadline: the job ends with an error when it passes.
            on_success: gets the value in the model's thread, after `on_done`.
            on_queue_position: gets the number of requests ahead, at once and whenever that changes.
            background: run the job when no other job is waiting; it does not count for the size of the queue.
                A caller submits one such job at a time.

        Raises:
            NotActiveError: jobs are not accepted now.
            QueueFullError: too many jobs are waiting.
            DeadlineExceededError: the deadline has passed.
        """
        job = Job(
            work, on_done, deadline=deadline, on_success=on_success, on_queue_position=on_queue_position
        )
        deadline.check(job.stage)
        with self._changed:
            if self._closed:
                raise NotActiveError(f"{self._owner} is shutting down")
            if self._gate is not None:
                raise _copy(self._gate)
            if background:
                self._background.append(job)  # type: ignore[arg-type]
            elif len(self._waiting) >= self._queue_size:
                raise QueueFullError(f"{len(self._waiting)} requests are already waiting for the model")
            else:
                self._waiting.append(job)  # type: ignore[arg-type]
            positions = self._positions()
            self._changed.notify()
            self._watch(deadline)
        if not background:
            self._report_positions(positions[-1:])
        return job

    def cancel(self, job: Job[T], error: XSamError) -> None:
        """End a job and remove it from the queue; a running one stops at its next stage."""
        with self._changed:
            for queue in (self._waiting, self._background):
                if job in queue:
                    queue.remove(job)  # type: ignore[arg-type]
            positions = self._positions()
        self._report_positions(positions)
        self._end(job, error)  # type: ignore[arg-type]

    def call(self, work: Callable[[], T], *, stage: str, timeout_s: float) -> T:
        """Run a function in the model's thread, ahead of all jobs and whether they are accepted or not.

        Raises:
            DeadlineExceededError: it did not return in time; it keeps running in the background.
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

        job = Job(run, on_done, deadline=Deadline(timeout_s))
        with self._changed:
            if self._closed:
                raise NotActiveError(f"{self._owner} is shutting down")
            self._waiting.appendleft(job)  # type: ignore[arg-type]
            self._changed.notify()
            self._watch(job.deadline)
        if not ended.wait(job.deadline.timeout_s):
            job.end(job.deadline.error(job.stage))
            ended.wait()  # somebody has called `end`, so this returns at once
        outcome = outcomes[0]
        if isinstance(outcome, XSamError):
            raise outcome
        return outcome

    def accept(self) -> None:
        """Accept jobs from now on."""
        with self._changed:
            self._gate = None

    def refuse(self, error: XSamError) -> None:
        """Refuse jobs from now on, and end waiting and running jobs with the same error."""
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
            False if the running job did not stop in time; its thread is left behind.
        """
        self.refuse(NotActiveError(f"{self._owner} is shutting down"))
        with self._changed:
            self._closed = True
            self._changed.notify()
            self._sooner.notify()
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
                    self._sooner.notify()
                    return
                job = self._running = queue.popleft()
                positions = self._positions()
            self._report_positions(positions)
            del positions
            self._run(job)
            del job  # else it keeps images and results alive while the thread waits for the next job

    def _run(self, job: Job[object]) -> None:
        outcome: object
        try:
            job.on_stage("starting")
            outcome = job.work(job.on_stage)
        except XSamError as error:
            outcome = error
        except MemoryError as error:
            outcome = OutOfMemoryError(f"out of memory in stage {job.stage}: {error}")
        except (
            Exception
        ) as error:  # the thread must survive whatever a model raises; the caller gets the error
            self._log_error(f"error in stage {job.stage}:\n{traceback.format_exc()}")
            outcome = ModelError(f"{type(error).__name__} in stage {job.stage}: {error}")
        counted = self._end(job, outcome)
        if counted and job.on_success is not None and not isinstance(outcome, XSamError):
            try:
                job.on_success(outcome)
            except Exception:  # the caller has its results; publishing them must not end the thread
                self._log_error(f"error after a job has ended:\n{traceback.format_exc()}")

    def _positions(self) -> list[tuple[Job[object], int]]:
        """Return the waiting requests, each with the number of requests ahead."""
        running = self._running is not None
        return [(job, index + running) for index, job in enumerate(self._waiting)]

    def _report_positions(self, positions: list[tuple[Job[object], int]]) -> None:
        for job, ahead in positions:
            if job.on_queue_position is not None and not job.ended:
                try:
                    job.on_queue_position(ahead)
                except Exception:  # a broken callback is its caller's problem only
                    self._log_error(f"error while reporting a queue position:\n{traceback.format_exc()}")

    def _end(self, job: Job[object], outcome: object) -> bool:
        try:
            return job.end(outcome)
        except Exception:  # a broken callback is its caller's problem only
            self._log_error(f"error while reporting an outcome:\n{traceback.format_exc()}")
            return False

    def _watch(self, deadline: Deadline) -> None:
        """Wake the other thread if this deadline is the next one: most requests end long before theirs."""
        if time.monotonic() + deadline.remaining_s < self._watched_until_s:
            self._sooner.notify()

    def _watch_deadlines(self) -> None:
        while True:
            with self._changed:
                queued = (*self._waiting, *self._background)
                if self._closed and not queued and self._running is None:
                    return
                jobs = [job for job in (*queued, self._running) if job is not None and not job.ended]
                late = [job for job in jobs if job.deadline.expired]
                for job in late:
                    for queue in (self._waiting, self._background):
                        if job in queue:
                            queue.remove(job)
                if not late:
                    timeouts_s = [job.deadline.timeout_s for job in jobs]
                    del queued, jobs  # a job holds its image and results, and the wait may be long
                    wait_s = min((s for s in timeouts_s if s is not None), default=None)
                    self._watched_until_s = math.inf if wait_s is None else time.monotonic() + wait_s
                    self._sooner.wait(wait_s)
            for job in late:
                self._end(job, job.deadline.error(job.stage))


def _copy(error: XSamError) -> XSamError:
    """Return a fresh exception: one that is raised twice keeps both tracebacks, and their images, alive."""
    return error_for_code(error.code, error.message, hint=error.hint)
