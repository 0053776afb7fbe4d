from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.polling import poll_until
from xsam import (
    DeadlineExceededError,
    ModelError,
    NotActiveError,
    OutOfMemoryError,
    QueueFullError,
    RequestCancelledError,
    XSamError,
)
from xsam.types.deadline import Deadline, StageHook
from xsam.worker import ModelWorker

Eventually = Callable[..., Any]


@pytest.fixture
def errors() -> list[str]:
    return []


@pytest.fixture
def eventually() -> Eventually:
    """Return a function that waits until a condition is true."""

    def wait(condition: Callable[[], Any], description: str, timeout_s: float = 30.0) -> Any:
        return poll_until(condition, description, timeout_s=timeout_s)

    return wait


@pytest.fixture
def worker(errors: list[str]) -> Iterator[ModelWorker]:
    worker = ModelWorker(queue_size=2, log_error=errors.append)
    worker.accept()
    yield worker
    assert worker.close(timeout_s=5.0)


class Gate:
    """Work that blocks until the test releases it."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.released = threading.Event()

    def __call__(self, on_stage: StageHook) -> str:
        self.entered.set()
        assert self.released.wait(10.0)
        on_stage("after the gate")
        return "done"


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.released.set()


def test_jobs_run_in_order(worker: ModelWorker, eventually: Eventually) -> None:
    outcomes: list[Any] = []
    for index in range(2):
        worker.submit(lambda _, index=index: index, outcomes.append, deadline=Deadline(5.0))
    eventually(lambda: outcomes == [0, 1], "both outcomes")


def test_a_full_queue_refuses_at_once(worker: ModelWorker, gate: Gate, eventually: Eventually) -> None:
    outcomes: list[Any] = []
    worker.submit(gate, outcomes.append, deadline=Deadline(10.0))
    assert gate.entered.wait(5.0)
    for _ in range(2):
        worker.submit(lambda _: "next", outcomes.append, deadline=Deadline(10.0))
    assert (worker.busy, worker.waiting) == (True, 2)
    with pytest.raises(QueueFullError, match="2 requests"):
        worker.submit(lambda _: "too many", outcomes.append, deadline=Deadline(10.0))
    gate.released.set()
    eventually(lambda: outcomes == ["done", "next", "next"], "everything that was queued")


def test_deadlines_hold_while_the_model_is_stuck(
    worker: ModelWorker, gate: Gate, eventually: Eventually
) -> None:
    """Both the running and the waiting job end in time, although the model is stuck."""
    outcomes: dict[str, Any] = {}
    ended_s: dict[str, float] = {}

    def note(name: str) -> Callable[[Any], None]:
        def on_done(outcome: Any) -> None:
            outcomes[name], ended_s[name] = outcome, time.monotonic()

        return on_done

    started_s = time.monotonic()
    worker.submit(gate, note("running"), deadline=Deadline(0.2))
    worker.submit(lambda _: "late", note("waiting"), deadline=Deadline(0.3))
    eventually(lambda: len(outcomes) == 2, "both refusals", 5.0)
    assert isinstance(outcomes["running"], DeadlineExceededError)
    assert isinstance(outcomes["waiting"], DeadlineExceededError)
    assert "waiting" in outcomes["waiting"].message
    assert 0.2 <= ended_s["running"] - started_s < 2.0
    assert not gate.released.is_set()
    assert worker.waiting == 0, "a job that has ended must not count for the queue"


@pytest.mark.parametrize("first_s", [None, 3600.0])
def test_a_deadline_holds_that_comes_before_those_that_are_watched(
    worker: ModelWorker, gate: Gate, eventually: Eventually, first_s: float | None
) -> None:
    outcomes: list[Any] = []
    worker.submit(gate, lambda _: None, deadline=Deadline(first_s))
    assert gate.entered.wait(5.0)
    for allowed_s in (0.2, 0.1):
        worker.submit(lambda _: "late", outcomes.append, deadline=Deadline(allowed_s))
    eventually(lambda: len(outcomes) == 2, "both refusals", 5.0)
    assert all(isinstance(outcome, DeadlineExceededError) for outcome in outcomes)
    assert "0.1 s" in outcomes[0].message


def test_a_job_that_has_ended_stops_at_its_next_stage(worker: ModelWorker, eventually: Eventually) -> None:
    stages: list[int] = []

    def work(on_stage: StageHook) -> None:
        for step in range(10_000):
            on_stage(f"step {step}")
            stages.append(step)
            time.sleep(0.005)

    outcomes: list[Any] = []
    job = worker.submit(work, outcomes.append, deadline=Deadline(60.0))
    eventually(lambda: stages, "the first stage")
    assert job.end(RequestCancelledError("cancelled"))
    eventually(lambda: not worker.busy, "the model to be free", 5.0)
    assert [type(outcome) for outcome in outcomes] == [RequestCancelledError]


def test_an_outcome_is_reported_once(worker: ModelWorker, gate: Gate, eventually: Eventually) -> None:
    outcomes: list[Any] = []
    job = worker.submit(gate, outcomes.append, deadline=Deadline(10.0))
    assert job.end(RequestCancelledError("no"))
    assert not job.end(RequestCancelledError("no again"))
    gate.released.set()
    eventually(lambda: not worker.busy, "the model to be free")
    assert len(outcomes) == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("bad shape"), ModelError),
        (MemoryError("no room"), OutOfMemoryError),
        (QueueFullError("odd"), QueueFullError),
    ],
)
def test_errors_are_typed_and_the_thread_survives(
    worker: ModelWorker,
    errors: list[str],
    eventually: Eventually,
    error: Exception,
    expected: type[XSamError],
) -> None:
    def work(_: StageHook) -> None:
        raise error

    outcomes: list[Any] = []
    worker.submit(work, outcomes.append, deadline=Deadline(5.0))
    worker.submit(lambda _: "alive", outcomes.append, deadline=Deadline(5.0))
    eventually(lambda: len(outcomes) == 2, "both outcomes")
    assert type(outcomes[0]) is expected
    assert error.args[0] in outcomes[0].message
    assert outcomes[1] == "alive"
    assert any("Traceback" in line for line in errors) == isinstance(error, ValueError)


def test_refuse_ends_waiting_and_running_jobs(
    worker: ModelWorker, gate: Gate, eventually: Eventually
) -> None:
    outcomes: list[Any] = []
    worker.submit(gate, outcomes.append, deadline=Deadline(10.0))
    assert gate.entered.wait(5.0)
    worker.submit(lambda _: "never", outcomes.append, deadline=Deadline(10.0))
    worker.refuse(NotActiveError("off"))
    assert [type(outcome) for outcome in outcomes] == [NotActiveError, NotActiveError]
    with pytest.raises(NotActiveError, match="off"):
        worker.submit(lambda _: "never", outcomes.append, deadline=Deadline(10.0))
    worker.accept()
    gate.released.set()
    worker.submit(lambda _: "again", outcomes.append, deadline=Deadline(10.0))
    eventually(lambda: outcomes[2:] == ["again"], "an outcome after accepting again")


def test_no_job_is_accepted_before_accept() -> None:
    worker = ModelWorker(queue_size=1, log_error=print)
    with pytest.raises(NotActiveError):
        worker.submit(lambda _: 1, print, deadline=Deadline(1.0))
    assert worker.close(timeout_s=5.0)


def test_no_time_left(worker: ModelWorker) -> None:
    with pytest.raises(DeadlineExceededError):
        worker.submit(lambda _: 1, print, deadline=Deadline(0.0))


def test_call_runs_in_the_model_thread_while_jobs_are_refused(worker: ModelWorker) -> None:
    worker.refuse(NotActiveError("off"))
    assert worker.call(lambda: threading.current_thread().name, stage="look", timeout_s=5.0) == "xsam_model"


def test_call_raises_and_keeps_its_deadline(worker: ModelWorker, gate: Gate) -> None:
    def work() -> None:
        raise OutOfMemoryError("no room for the weights")

    with pytest.raises(OutOfMemoryError, match="weights"):
        worker.call(work, stage="load", timeout_s=5.0)
    with pytest.raises(DeadlineExceededError):
        worker.call(lambda: gate(lambda _: None), stage="wait", timeout_s=0.1)


def test_publishing_follows_a_success_only(
    worker: ModelWorker, errors: list[str], eventually: Eventually
) -> None:
    events: list[Any] = []

    def fail(_: StageHook) -> None:
        raise ModelError("broken")

    def publish(value: Any) -> None:
        events.append(f"published {value}")
        raise RuntimeError("a subscriber went away")

    worker.submit(lambda _: "value", events.append, deadline=Deadline(5.0), on_success=publish)
    worker.submit(fail, lambda error: events.append(error.code), deadline=Deadline(5.0), on_success=publish)
    eventually(lambda: events == ["value", "published value", "MODEL_ERROR"], "three events")
    assert "a subscriber went away" in errors[0]


def test_close_reports_a_model_that_does_not_stop() -> None:
    gate = Gate()
    worker = ModelWorker(queue_size=1, log_error=print)
    worker.accept()
    worker.submit(gate, lambda _: None, deadline=Deadline(60.0))
    assert gate.entered.wait(5.0)
    assert not worker.close(timeout_s=0.1)
    gate.released.set()
    assert worker.close(timeout_s=5.0)


def test_background_jobs_wait_for_every_request_and_do_not_count_for_the_queue(
    worker: ModelWorker, gate: Gate, eventually: Eventually
) -> None:
    outcomes: list[Any] = []
    worker.submit(gate, outcomes.append, deadline=Deadline(10.0))
    assert gate.entered.wait(5.0)
    for number in range(3):
        worker.submit(
            lambda _, n=number: f"stream {n}", outcomes.append, deadline=Deadline(10.0), background=True
        )
    for number in range(2):
        worker.submit(lambda _, n=number: f"request {n}", outcomes.append, deadline=Deadline(10.0))
    assert worker.waiting == 2, "the queue counts requests only"
    gate.released.set()
    expected = ["done", "request 0", "request 1", "stream 0", "stream 1", "stream 2"]
    eventually(lambda: outcomes == expected, "requests first")


def test_background_jobs_have_deadlines_and_end_with_the_node(
    worker: ModelWorker, gate: Gate, eventually: Eventually
) -> None:
    outcomes: list[Any] = []
    worker.submit(gate, outcomes.append, deadline=Deadline(10.0))
    assert gate.entered.wait(5.0)
    worker.submit(lambda _: "late", outcomes.append, deadline=Deadline(0.1), background=True)
    eventually(lambda: len(outcomes) == 1, "the deadline")
    assert isinstance(outcomes[0], DeadlineExceededError)
    worker.submit(lambda _: "never", outcomes.append, deadline=Deadline(10.0), background=True)
    worker.refuse(NotActiveError("off"))
    assert [type(outcome) for outcome in outcomes[1:]] == [NotActiveError, NotActiveError]


def test_a_cancelled_job_leaves_the_queue(worker: ModelWorker, gate: Gate, eventually: Eventually) -> None:
    outcomes: list[Any] = []
    ahead: dict[str, list[int]] = {name: [] for name in ("first", "second", "third")}

    def submit(name: str) -> Any:
        return worker.submit(
            lambda _: name, outcomes.append, deadline=Deadline(10.0), on_queue_position=ahead[name].append
        )

    worker.submit(gate, outcomes.append, deadline=Deadline(10.0))
    assert gate.entered.wait(5.0)
    first = submit("first")
    submit("second")
    assert ahead == {"first": [1], "second": [2], "third": []}
    worker.cancel(first, RequestCancelledError("not any more"))
    assert [outcome.message for outcome in outcomes] == ["not any more"]
    submit("third")
    assert (worker.waiting, ahead["second"], ahead["third"]) == (2, [2, 1], [2])
    worker.cancel(first, RequestCancelledError("again"))
    gate.released.set()
    eventually(lambda: outcomes[1:] == ["done", "second", "third"], "the others")
    assert (ahead["first"], ahead["third"][-1]) == ([1], 1)


def test_a_running_job_is_cancelled_at_its_next_stage(
    worker: ModelWorker, gate: Gate, eventually: Eventually
) -> None:
    outcomes: list[Any] = []
    job = worker.submit(gate, outcomes.append, deadline=Deadline(10.0))
    assert gate.entered.wait(5.0)
    worker.cancel(job, RequestCancelledError("not any more"))
    assert len(outcomes) == 1
    gate.released.set()
    eventually(lambda: not worker.busy, "the model to stop")
    assert [type(outcome) for outcome in outcomes] == [RequestCancelledError]
