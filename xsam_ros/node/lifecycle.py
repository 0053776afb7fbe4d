"""What rclpy's lifecycle node leaves out: failures that are told, and an answer to impossible transitions."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import traceback
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from xsam.errors import XSamError


class _Reporting(Protocol):
    last_error: str

    def get_logger(self) -> Any: ...


N = TypeVar("N", bound=_Reporting)


def reported(
    transition: Callable[[N, LifecycleState], TransitionCallbackReturn],
) -> Callable[[N, LifecycleState], TransitionCallbackReturn]:
    """Log what goes wrong in a transition and fail it; rclpy would swallow the exception."""

    @functools.wraps(transition)
    def guarded(node: N, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except XSamError as error:
            node.last_error = str(error)
            node.get_logger().error(f"{transition.__name__}: {error.code}: {error}")
        except Exception as error:  # whatever it is, the node stays up and says so
            node.last_error = f"{type(error).__name__}: {error}"
            node.get_logger().error(f"{transition.__name__} failed:\n{traceback.format_exc()}")
        return TransitionCallbackReturn.FAILURE

    return guarded


def give_memory_back() -> None:
    """Free what only cycles hold, and hand unused pages to the system; glibc keeps them otherwise."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # other C libraries have no malloc_trim
        ctypes.CDLL(None).malloc_trim(0)


def state_of(node: LifecycleNode) -> str:
    """Name of the node's state, such as "active"."""
    return str(node._state_machine.current_state[1])


def answer_invalid_transitions(node: LifecycleNode) -> None:
    """Answer an impossible transition with "no"; rclpy raises instead, and its caller waits for ever."""
    service = getattr(node, "_service_change_state", None)
    if service is None:
        return
    change_state = service.callback

    def guarded(request: Any, response: Any) -> Any:
        try:
            return change_state(request, response)
        except Exception as error:  # rclpy's RCLError has no public name
            wanted = request.transition.label or request.transition.id
            node.get_logger().warning(f"transition {wanted} is impossible from {state_of(node)}: {error}")
            response.success = False
            return response

    service.callback = guarded
    # A group of its own: loading takes seconds, in which get_state and the parameters still answer.
    service.callback_group = MutuallyExclusiveCallbackGroup()
    service.callback_group.add_entity(service)
