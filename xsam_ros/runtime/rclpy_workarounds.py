"""Everything that works around rclpy 7.1 (ROS 2 Jazzy) or reaches into its private attributes.

Each part says which issue it works around and when it can be removed. Nothing else in the package may depend
on how rclpy works inside, except for `bounded_requests`.
"""

from __future__ import annotations

import functools
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.context import Context
from rclpy.exceptions import InvalidHandle
from rclpy.executors import (
    ConditionReachedException,
    Executor,
    ExternalShutdownException,
    ShutdownException,
    TimeoutException,
)
from rclpy.lifecycle import LifecycleNode
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.task import Future, Task

RESULT_TIMEOUT_S = 10
"""How long an action server keeps the result of a goal that has ended, with all its masks.

Works around the default of 15 minutes, https://github.com/ros2/rcl/issues/1103. Remove when the oldest
supported rclpy has https://github.com/ros2/rclpy/pull/1171.
"""

_SPIN_TIMEOUT_S = 0.1
"""Longest sleep of the executor.

Works around SIGINT and SIGTERM, about 5 % of which do not wake `Executor.spin`: no issue known (rclpy 7.1).
Remove when `tests/ros/node/test_lifecycle.py` passes a hundred times in a row with `Executor.spin`.
"""


# ------------------------------------------------------------------------------------- executor


class _ThreadState(threading.local):
    """The callback that a thread is running, and what that callback awaits."""

    resume: Callable[[], None] | None = None
    awaited: AwaitableResult | None = None

    def replace(
        self, resume: Callable[[], None] | None, awaited: AwaitableResult | None
    ) -> tuple[Callable[[], None] | None, AwaitableResult | None]:
        """Set both and return the previous values."""
        before = self.resume, self.awaited
        self.resume, self.awaited = resume, awaited
        return before


_thread_state = _ThreadState()


class AwaitableResult(Future):
    """A result that a callback of a node awaits and another thread provides.

    Under a `ResumingExecutor`, `set_result` runs the rest of the callback before it returns. Under another
    executor it is a future that wakes the executor.
    """

    def __init__(self, executor: Executor | None) -> None:
        super().__init__(executor=executor)
        self._wake = executor.wake if executor is not None else _do_nothing
        self._resume: Callable[[], None] | None = None

    def __await__(self) -> Any:
        while not (self.done() or self.cancelled()):
            self._resume = _thread_state.resume
            _thread_state.awaited = self
            yield self
        return self.result()

    def set_result(self, result: Any) -> None:
        """Provide the result; may be called from any thread."""
        super().set_result(result)
        (self._resume or self._wake)()


class ResumingExecutor(Executor):
    """An executor that runs callbacks in a thread pool, like rclpy's `MultiThreadedExecutor`.

    It resumes a callback as soon as the `AwaitableResult` that it awaits is set. An exception in a callback
    is logged, and the executor keeps running.

    Works around https://github.com/ros2/rclpy/issues/1467: rclpy's executors poll awaiting callbacks once per
    turn. A callback that is polled while its future gets its result misses the turn that the result causes,
    and sleeps until something else wakes the executor. Remove when the oldest supported rclpy resumes
    callbacks by itself (https://github.com/ros2/rclpy/pull/1469); `AwaitableResult`
    becomes a plain `Future` then.
    """

    def __init__(self, *, threads: int, context: Context | None = None) -> None:
        """Create the thread pool.

        Args:
            threads: size of the pool, at least 1; a callback that awaits something occupies no thread.
            context: None = the default context.
        """
        super().__init__(context=context)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="xsam_callback")
        self._awaited: dict[Task, AwaitableResult] = {}

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Wait for a callback that can run, and submit it to the pool."""
        try:
            task, _, _ = self.wait_for_ready_callbacks(timeout_sec)
        except (ConditionReachedException, ShutdownException, TimeoutException):
            return
        awaited = self._awaited.get(task)
        if awaited is None or awaited.done():
            self._pool.submit(self._run, task)

    def spin_once_until_future_complete(self, future: Future, timeout_sec: Any = None) -> None:
        """Run `spin_once`, but also wake up when the future is done."""
        future.add_done_callback(lambda _: self.wake())
        self.spin_once(getattr(timeout_sec, "timeout", timeout_sec))

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        """See `Executor.shutdown`; pool threads end once their current callback returns."""
        ended = bool(super().shutdown(timeout_sec))
        self._pool.shutdown(wait=False, cancel_futures=True)
        return ended

    def _run(self, task: Task) -> None:
        """Run a callback until it ends or awaits a result that is not set yet."""
        while not task.done():
            # There is an outer callback when one callback sets the result that another one awaits.
            outer = _thread_state.replace(functools.partial(self._run, task), None)
            try:
                task()  # does nothing while another thread runs it
            finally:
                _, awaited = _thread_state.replace(*outer)
            if task.done():
                self._awaited.pop(task, None)
                if self.context.ok():  # else rclpy has destroyed what the callback works with
                    _log_exception(task.exception())
                return
            if awaited is None:
                return  # it awaits a plain rclpy future, or another thread runs it
            self._awaited[task] = awaited
            if not awaited.done():
                return  # `set_result` resumes it
        self._awaited.pop(task, None)


def spin(executor: Executor, *, until: Callable[[], bool] = lambda: False) -> None:
    """Spin until ROS shuts down or `until` returns true; it is checked ten times a second.

    An exception in a callback is logged, and spinning continues.

    Works around https://github.com/ros2/rclpy/issues/1098 (an exception in a callback ends the executor) and
    https://github.com/ros2/rclpy/issues/1206, https://github.com/ros2/rclpy/issues/1355 (`InvalidHandle` when
    an entity is destroyed while the executor builds its wait set). Remove when both are fixed.
    """
    while executor.context.ok() and not until():
        try:
            executor.spin_once(timeout_sec=_SPIN_TIMEOUT_S)
        except (ExternalShutdownException, KeyboardInterrupt):
            return
        except (
            InvalidHandle
        ) as error:  # destroyed while the executor built its wait set; gone in the next turn
            _log_exception(error)
        except Exception as error:  # one bad callback must not stop the robot's perception
            if not executor.context.ok():
                return
            _log_exception(error)


def call_in_executor(executor: Executor, function: Callable[[], None]) -> None:
    """Call `function` in the thread that spins `executor`.

    Works around https://github.com/ros2/rclpy/issues/1123: an `ActionClient` drops a response that arrives
    before it has noted the request, so it must be used in the thread that receives its responses. Remove when
    the oldest supported rclpy has https://github.com/ros2/rclpy/pull/1308.
    """
    executor.create_task(function)


def call_when_canceling(
    executor: Executor | None, handle: ServerGoalHandle, function: Callable[[], None]
) -> None:
    """Call `function` in the executor once the goal's state is CANCELING; not at all if the goal ends before.

    Call this in the cancel callback: usually, the state has changed by the executor's next turn.

    Works around the order of events: rclpy changes the state only after the cancel callback has returned, and
    `ServerGoalHandle.canceled` fails before that. No issue known (rclpy 7.1); the same in C++ is
    https://github.com/ros2/rclcpp/issues/2449. Remove when a cancel callback can end the goal itself.
    """

    def check() -> None:
        if handle.is_cancel_requested:
            function()
        elif handle.is_active:
            schedule()

    def schedule() -> None:
        if executor is not None:  # None once the node has left its executor
            executor.create_task(check)

    schedule()


def _do_nothing() -> None:
    pass


def _log_exception(error: BaseException | None) -> None:
    logger = get_logger("xsam_ros")
    if isinstance(error, InvalidHandle):
        logger.debug(f"an entity was destroyed while a callback ran: {error}")
    elif error is not None:
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        logger.error(f"exception in a callback:\n{text}")


# ------------------------------------------------------------------------------------ lifecycle


def lifecycle_state(node: LifecycleNode) -> str:
    """Return the name of the node's lifecycle state, such as "active".

    Works around the lack of a public getter: no issue known (rclpy 7.1). Remove when there is one.
    """
    return str(node._state_machine.current_state[1])


def given_parameters(node: Node) -> tuple[str, ...]:
    """Return the names of the parameters that the node was given at startup, known or not.

    Works around the lack of a public getter: no issue known (rclpy 7.1). Remove when there is one.
    """
    return tuple(node._parameter_overrides)


def destroy_lifecycle_services(node: LifecycleNode) -> None:
    """Destroy the lifecycle services of a node; call before `destroy_node`.

    Works around rclpy destroying only its wrappers of them: no issue known (rclpy 7.1). The services stay
    until the state machine is garbage, take the requests for a new node of that name, and keep its clients
    from seeing the service as ready. Remove when `destroy_node` destroys the state machine.
    """
    node._state_machine.destroy_when_not_in_use()


def reject_invalid_transitions(node: LifecycleNode) -> None:
    """Respond to an impossible transition with success = false, and keep the other services responsive.

    Works around https://github.com/ros2/rclpy/issues/1209: rclpy raises an exception instead, and the caller
    of the service waits forever. Remove when the oldest supported rclpy has
    https://github.com/ros2/rclpy/pull/1319.

    The service also gets a callback group of its own, which rclpy does not let a node choose: no issue known
    (rclpy 7.1). Loading a model takes seconds, in which `get_state` and the parameter services must respond.
    """
    service = getattr(node, "_service_change_state", None)
    if service is None:
        return
    change_state = service.callback

    def guarded(request: Any, response: Any) -> Any:
        try:
            return change_state(request, response)
        except Exception as error:  # rclpy's RCLError has no public name
            transition = request.transition.label or request.transition.id
            state = lifecycle_state(node)
            node.get_logger().warning(f"transition {transition} is not possible from state {state}: {error}")
            response.success = False
            return response

    service.callback = guarded
    service.callback_group = MutuallyExclusiveCallbackGroup()
    service.callback_group.add_entity(service)
