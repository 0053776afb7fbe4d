"""Run a node in the main thread of its process until it is interrupted or ROS shuts down."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence

import rclpy
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.signals import uninstall_signal_handlers
from rclpy.utilities import try_shutdown

from xsam_ros.runtime.rclpy_workarounds import ResumingExecutor, spin

_SWITCH_INTERVAL_S = 0.0005
"""How long a thread keeps Python's global lock when others want it. With the default of 5 ms, each request
waits for it several times while the model's thread computes."""


def run_node(make_node: Callable[[], Node], *, arguments: Sequence[str] | None, threads: int = 2) -> int:
    """Initialize ROS, spin the node until SIGINT, SIGTERM or shutdown, and clean up.

    If the node has a method `stop`, it is called before the node is destroyed.

    Returns:
        Exit code: 0, or 2 if the node could not be created because of its parameters.
    """
    rclpy.init(args=None if arguments is None else list(arguments))
    try:
        node = make_node()
    except (InvalidParameterTypeException, InvalidParameterValueException) as error:
        print(f"error: {error}", file=sys.stderr)
        try_shutdown()
        return 2
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    executor = ResumingExecutor(threads=threads)
    executor.add_node(node)
    try:
        spin(executor)
    finally:
        # A second Ctrl-C, or the one that a launch file adds to the terminal's, would interrupt the cleanup
        # or kill the process while the interpreter exits, which takes seconds with PyTorch.
        uninstall_signal_handlers()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        stop = getattr(node, "stop", None)
        if stop is not None:
            stop()
        executor.shutdown(timeout_sec=2.0)
        node.destroy_node()
        try_shutdown()
    return 0
