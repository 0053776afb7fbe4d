"""Callbacks that await a result resume when it is set, whatever the executor is doing at that moment."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import rclpy
from rclpy.exceptions import InvalidHandle
from rclpy.executors import MultiThreadedExecutor, SingleThreadedExecutor

from xsam_ros.runtime.rclpy_workarounds import AwaitableResult, ResumingExecutor, spin

Eventually = Callable[..., Any]


@pytest.fixture
def context() -> Iterator[Any]:
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    yield context
    rclpy.try_shutdown(context=context)


@pytest.fixture
def executor(context: Any) -> Iterator[ResumingExecutor]:
    executor = ResumingExecutor(threads=2, context=context)
    yield executor
    executor.shutdown(timeout_sec=1.0)


class _ObservedResult(AwaitableResult):
    """Counts how often it is asked whether it is done, and may get its result at that very moment."""

    def __init__(self, executor: Any, *, arrives: bool = False) -> None:
        super().__init__(executor)
        self.checks = 0
        self._arrives = arrives

    def done(self) -> bool:
        self.checks += 1
        was_done = super().done()
        if self._arrives:
            self._arrives = False
            setting = threading.Thread(target=self.set_result, args=("there",))
            setting.start()
            setting.join(10.0)
            assert not setting.is_alive(), "whoever provides the result must not have to wait"
        return was_done


def _turns(executor: Any, until: Callable[[], Any], eventually: Eventually) -> None:
    """Spin without waiting until something has happened."""
    eventually(lambda: executor.spin_once(timeout_sec=0.0) or until(), "a callback")


def test_a_result_resumes_the_callback_without_a_turn(
    executor: ResumingExecutor, eventually: Eventually
) -> None:
    """The executor does not spin any more when the result comes."""
    outcome = _ObservedResult(executor)
    ended = []

    async def callback() -> None:
        ended.append((await outcome, threading.current_thread()))

    executor.create_task(callback)
    _turns(executor, lambda: outcome.checks, eventually)
    assert not ended
    setting = threading.Thread(target=outcome.set_result, args=("there",))
    setting.start()
    setting.join(10.0)
    eventually(lambda: ended, "the rest of the callback")
    assert ended == [("there", setting)]


def test_a_result_that_comes_while_the_callback_looks_for_it(
    executor: ResumingExecutor, eventually: Eventually
) -> None:
    """One turn starts it; rclpy's own executor would need something else to wake it for another one."""
    outcome = _ObservedResult(executor, arrives=True)
    ended = []

    async def callback() -> None:
        ended.append(await outcome)

    executor.create_task(callback)
    executor.spin_once(timeout_sec=0.0)
    eventually(lambda: ended, "the rest of the callback")
    assert ended == ["there"]


def test_an_awaiting_callback_is_not_submitted_again(
    executor: ResumingExecutor, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = _ObservedResult(executor)

    async def callback() -> None:
        await outcome

    executor.create_task(callback)
    _turns(executor, lambda: outcome.checks > 1, eventually)
    submitted: list[Any] = []
    submit = ThreadPoolExecutor.submit

    def recorded(pool: ThreadPoolExecutor, function: Any, *arguments: Any) -> Any:
        submitted.extend(arguments)
        return submit(pool, function, *arguments)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", recorded)
    others = [executor.create_task(lambda: None) for _ in range(5)]
    _turns(executor, lambda: all(task.done() for task in others), eventually)
    assert set(submitted) == set(others)


def test_a_callback_may_end_the_waiting_of_another(
    executor: ResumingExecutor, eventually: Eventually
) -> None:
    """As a goal does that replaces an earlier one; it can still await something itself afterwards."""
    first, second = _ObservedResult(executor), _ObservedResult(executor)
    ended = []

    async def replaced() -> None:
        ended.append(await first)

    async def newer() -> None:
        first.set_result("replaced")
        ended.append(await second)

    executor.create_task(replaced)
    _turns(executor, lambda: first.checks, eventually)
    executor.create_task(newer)
    _turns(executor, lambda: second.checks, eventually)
    second.set_result("answered")
    eventually(lambda: len(ended) == 2, "both ends")
    assert ended == ["replaced", "answered"]


def test_it_takes_two_results_one_after_the_other(executor: ResumingExecutor, eventually: Eventually) -> None:
    outcomes = [
        _ObservedResult(executor, arrives=True),
        _ObservedResult(executor, arrives=True),
        _ObservedResult(executor),
    ]
    ended = []

    async def callback() -> None:
        for outcome in outcomes:
            ended.append(await outcome)

    executor.create_task(callback)
    _turns(executor, lambda: outcomes[-1].checks, eventually)
    outcomes[-1].set_result("last")
    eventually(lambda: len(ended) == 3, "the end")
    assert ended == ["there", "there", "last"]


def test_an_exception_ends_one_callback_only(
    executor: ResumingExecutor, eventually: Eventually, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise ValueError("a callback is broken")

    tasks = [executor.create_task(broken), executor.create_task(lambda: None)]
    _turns(executor, lambda: all(task.done() for task in tasks), eventually)
    eventually(lambda: "a callback is broken" in capfd.readouterr().err, "the message")


@pytest.mark.parametrize(
    "make", [SingleThreadedExecutor, functools.partial(MultiThreadedExecutor, num_threads=2)]
)
def test_with_an_executor_of_rclpy(make: Any, context: Any, eventually: Eventually) -> None:
    """Somebody may put the node into an executor of theirs."""
    executor = make(context=context)
    outcome = _ObservedResult(executor)
    ended = []

    async def callback() -> None:
        ended.append(await outcome)

    executor.create_task(callback)
    _turns(executor, lambda: outcome.checks, eventually)
    outcome.set_result("there")
    _turns(executor, lambda: ended, eventually)
    assert ended == ["there"]
    executor.shutdown(timeout_sec=1.0)


def test_something_that_is_destroyed_meanwhile_stops_nobody(context: Any, eventually: Eventually) -> None:
    """A subscription may go while the executor builds its wait set; what else arrived is still served."""

    class Executor(SingleThreadedExecutor):
        turns = 0

        def spin_once(self, timeout_sec: float | None = None) -> None:
            self.turns += 1
            if self.turns == 1:
                raise InvalidHandle("cannot use Destroyable because destruction was requested")
            super().spin_once(timeout_sec)

    executor = Executor(context=context)
    ended: list[str] = []
    executor.create_task(lambda: ended.append("served"))
    spin(executor, until=lambda: bool(ended) or executor.turns > 100)
    assert ended == ["served"]
    executor.shutdown(timeout_sec=1.0)
