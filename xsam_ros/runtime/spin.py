"""Run a node until it is told to stop, through everything that rclpy throws on the way."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable, Sequence

import rclpy
from rclpy.exceptions import InvalidHandle, InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import Executor, ExternalShutdownException
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.signals import uninstall_signal_handlers
from rclpy.utilities import try_shutdown

from xsam_ros.runtime.executor import ResumingExecutor

_SPIN_S = 0.1
"""Longest sleep of the executor. With `spin()` some 5 % of SIGINT and SIGTERM get lost."""

_SWITCH_S = 0.0005
"""How long a thread keeps Python's lock when others want it. The default, ten times that, is added several
times to each answer while the model's thread computes."""


def run_node(make_node: Callable[[], Node], *, arguments: Sequence[str] | None, threads: int = 2) -> int:
    """Initialize ROS, spin the node until SIGINT, SIGTERM or shutdown, and clean up.

    A node that has a method `stop()` gets it called before it is destroyed.

    Returns:
        Exit code: 0, or 2 when the node could not be made from its parameters.
    """
    rclpy.init(args=None if arguments is None else list(arguments))
    try:
        node = make_node()
    except (InvalidParameterTypeException, InvalidParameterValueException) as error:
        print(f"error: {error}", file=sys.stderr)
        try_shutdown()
        return 2
    sys.setswitchinterval(_SWITCH_S)
    executor = ResumingExecutor(threads=threads)
    executor.add_node(node)
    try:
        spin(executor)
    finally:
        # A second Ctrl-C, or the one that a launch file adds to that of the terminal, would interrupt the
        # cleaning up, or kill the process while the interpreter ends, which takes seconds with PyTorch.
        uninstall_signal_handlers()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        stop = getattr(node, "stop", None)
        if stop is not None:
            stop()
        executor.shutdown(timeout_sec=2.0)
        node.destroy_node()
        try_shutdown()
    return 0


def spin(executor: Executor, *, until: Callable[[], bool] = lambda: False) -> None:
    """Spin until ROS shuts down or the condition is true; it is looked at ten times a second.

    An exception in a callback is logged, and the node lives on.
    """
    while executor.context.ok() and not until():
        try:
            executor.spin_once(timeout_sec=_SPIN_S)
        except (ExternalShutdownException, KeyboardInterrupt):
            return
        except (
            InvalidHandle
        ) as error:  # it was destroyed while the executor looked at it; the next turn knows
            get_logger("xsam_ros").debug(f"something was destroyed meanwhile: {error}")
        except Exception:  # one bad callback must not take the robot's perception down
            if not executor.context.ok():
                return
            get_logger("xsam_ros").error(f"error in a callback:\n{traceback.format_exc()}")
