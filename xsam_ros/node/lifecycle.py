"""Help for the transitions of the lifecycle node: reported failures, and memory that is really released."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import traceback
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn

from xsam.errors import NotActiveError, XSamError

_ON_THE_WAY = ("configuring", "activating")


class _ReportingNode(Protocol):
    last_error: str

    def get_logger(self) -> Any: ...


N = TypeVar("N", bound=_ReportingNode)


def reported(
    transition: Callable[[N, LifecycleState], TransitionCallbackReturn],
) -> Callable[[N, LifecycleState], TransitionCallbackReturn]:
    """Log the exception of a transition, keep it as the node's `last_error`, and fail the transition.

    rclpy 7.1 swallows exceptions here and reports nothing: https://github.com/ros2/rclpy/pull/1673.
    """

    @functools.wraps(transition)
    def guarded(node: N, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except NotActiveError as error:  # interrupted, as by Ctrl-C while the model loads
            node.last_error = str(error)
            node.get_logger().info(f"{transition.__name__} was interrupted: {error.message}")
        except XSamError as error:
            node.last_error = str(error)
            node.get_logger().error(f"{transition.__name__}: {error.code}: {error}")
        except (InvalidParameterValueException, InvalidParameterTypeException) as error:
            node.last_error = str(error)
            node.get_logger().error(f"{transition.__name__}: {error}")
        except Exception as error:  # whatever it is, the node stays up and reports it
            node.last_error = f"{type(error).__name__}: {error}"
            node.get_logger().error(f"{transition.__name__} failed:\n{traceback.format_exc()}")
        return TransitionCallbackReturn.FAILURE

    return guarded


def not_active(state: str) -> NotActiveError:
    """Return the refusal of a request in a lifecycle state that is not the active one."""
    if state in _ON_THE_WAY:
        hint = "wait: a model takes seconds to minutes to load; the state in ~/get_status becomes active"
        return NotActiveError(f"the node is {state}", hint=hint)
    return NotActiveError(f"the node is {state}")


def settle_memory() -> None:
    """Spare the garbage collector modules and the model, which stay: 0.1 to 0.2 s in each full pass."""
    gc.collect()
    gc.freeze()


def release_memory() -> None:
    """Free objects in reference cycles, and return unused pages to the system; glibc keeps them otherwise."""
    gc.unfreeze()  # what `settle_memory` took for permanent
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # other C libraries have no malloc_trim
        ctypes.CDLL(None).malloc_trim(0)
