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

from xsam_ros.runtime.rclpy_workarounds import AwaitableResult, ResumingExecutor, call_when_canceling, spin

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
    """A result that counts calls of `done`, and may be set during the first one."""

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
            assert not setting.is_alive(), "setting the result must not block"
        return was_done


def _turns(executor: Any, until: Callable[[], Any], eventually: Eventually) -> None:
    """Spin without blocking until something has happened."""
    eventually(lambda: executor.spin_once(timeout_sec=0.0) or until(), "a callback")


def test_a_result_resumes_the_callback_without_a_turn(
    executor: ResumingExecutor, eventually: Eventually
) -> None:
    """The executor no longer spins when the result is set."""
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


def test_a_result_that_is_set_while_the_callback_checks_for_it(
    executor: ResumingExecutor, eventually: Eventually
) -> None:
    """One turn is enough; rclpy's executors would sleep until something else wakes them."""
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


@pytest.mark.parametrize("shuts_down", [False, True])
def test_what_fails_because_ros_shuts_down_is_no_error(
    executor: ResumingExecutor, context: Any, eventually: Eventually, capfd: Any, shuts_down: bool
) -> None:
    """Ctrl-C while a model loaded ended in a traceback of rclpy: its state machine was gone."""

    def callback() -> None:
        if shuts_down:
            rclpy.try_shutdown(context=context)
        raise RuntimeError("state machine pointer is null")

    executor.create_task(callback)
    executor.spin_once(timeout_sec=0.0)
    executor.shutdown(timeout_sec=1.0)
    eventually(lambda: not _is_running("xsam_callback"), "the end of the pool's threads")
    assert ("state machine pointer is null" in capfd.readouterr().err) != shuts_down


def _is_running(name: str) -> bool:
    return any(thread.name.startswith(name) for thread in threading.enumerate())


def test_a_callback_may_resume_another_one(executor: ResumingExecutor, eventually: Eventually) -> None:
    """A goal that preempts another one does; it can still await a result itself afterwards."""
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


def test_a_callback_may_await_several_results(executor: ResumingExecutor, eventually: Eventually) -> None:
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
    """The node may be added to any executor."""
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


def test_an_entity_that_is_destroyed_meanwhile_does_not_stop_spinning(
    context: Any, eventually: Eventually
) -> None:
    """A subscription may be destroyed while the executor builds its wait set; other callbacks still run."""

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


class _FakeGoalHandle:
    """The states of a goal that `call_when_canceling` reads."""

    is_active = True
    is_cancel_requested = False


def test_call_when_canceling_waits_for_the_state(executor: ResumingExecutor, eventually: Eventually) -> None:
    """rclpy changes the state after the cancel callback has returned."""
    handle: Any = _FakeGoalHandle()
    calls: list[str] = []
    call_when_canceling(executor, handle, lambda: calls.append("canceling"))
    others = [executor.create_task(lambda: None) for _ in range(5)]
    _turns(executor, lambda: all(task.done() for task in others), eventually)
    assert calls == []
    handle.is_cancel_requested = True
    _turns(executor, lambda: calls, eventually)
    assert calls == ["canceling"]


def test_call_when_canceling_gives_up_when_the_goal_has_ended(
    executor: ResumingExecutor, eventually: Eventually
) -> None:
    handle: Any = _FakeGoalHandle()
    handle.is_active = False
    calls: list[str] = []
    call_when_canceling(executor, handle, lambda: calls.append("canceling"))
    others = [executor.create_task(lambda: None) for _ in range(5)]
    _turns(executor, lambda: all(task.done() for task in others), eventually)
    assert calls == []
