"""Blocking work with a deadline."""

from __future__ import annotations

import contextvars
import threading
import time

import pytest

from xsam import DeadlineExceededError, QueueFullError
from xsam.types.deadline import Deadline
from xsam_agent_tools.runtime.serial_runner import GRACE_S, SerialRunner


def test_result_and_error_come_through() -> None:
    runner = SerialRunner()
    assert runner.run(lambda deadline: deadline.remaining_s, deadline_s=5) == pytest.approx(5, abs=0.5)
    with pytest.raises(KeyError, match="mine"):
        runner.run(lambda _: {}["mine"], deadline_s=5)
    with pytest.raises(TimeoutError, match="mine"):
        runner.run(_raise_timeout, deadline_s=5)
    assert runner.run(lambda _: "still works", deadline_s=5) == "still works"


def _raise_timeout(_: Deadline) -> None:
    raise TimeoutError("mine")


@pytest.mark.slow
def test_work_that_hangs_is_abandoned() -> None:
    """A client that waited forever once blocked the whole agent."""
    runner, release = SerialRunner(), threading.Event()
    started = time.monotonic()
    try:
        with pytest.raises(DeadlineExceededError, match="no answer"):
            runner.run(lambda _: release.wait(30), deadline_s=0.1)
        with pytest.raises(DeadlineExceededError, match="busy"):
            runner.run(lambda _: None, deadline_s=0.1)
        assert time.monotonic() - started < 0.2 + GRACE_S + 2
    finally:
        release.set()
    assert runner.run(lambda _: "back", deadline_s=5) == "back"


def test_one_at_a_time_and_waiting_uses_up_the_deadline() -> None:
    runner = SerialRunner()
    running, most, remaining = [0], [0], []

    def work(deadline: Deadline) -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        remaining.append(deadline.remaining_s)
        time.sleep(0.05)
        running[0] -= 1

    threads = [threading.Thread(target=runner.run, args=(work,), kwargs={"deadline_s": 5}) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert most == [1]
    assert min(remaining) <= 5 - 0.14
    assert len(remaining) == 4


def test_too_many_waiting_are_refused_at_once() -> None:
    runner, release, started = SerialRunner(max_waiting=1), threading.Event(), threading.Event()

    def work(_: Deadline) -> None:
        started.set()
        release.wait(30)

    thread = threading.Thread(target=runner.run, args=(work,), kwargs={"deadline_s": 20})
    thread.start()
    try:
        assert started.wait(10)
        with pytest.raises(QueueFullError):
            runner.run(lambda _: None, deadline_s=20)
    finally:
        release.set()
        thread.join(10)
    assert runner.run(lambda _: 1, deadline_s=5) == 1


def test_context_variables_reach_the_work() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    token = variable.set("set")
    try:
        assert SerialRunner().run(lambda _: variable.get(), deadline_s=5) == "set"
    finally:
        variable.reset(token)
