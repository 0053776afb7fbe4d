"""Run a node in the main thread of its process until it is interrupted or ROS shuts down."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from typing import NoReturn

import rclpy
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import try_shutdown

from xsam.worker import SWITCH_INTERVAL_S
from xsam_ros.runtime.process import call_on_signals, end_process
from xsam_ros.runtime.rclpy_workarounds import ResumingExecutor, spin
from xsam_ros.runtime.shared_memory import remove_leftovers

_STOP_S = 0.4
"""How long the node, and then its executor, may take to stop when the process ends."""


def run_node(make_node: Callable[[], Node], *, arguments: Sequence[str] | None, threads: int = 2) -> NoReturn:
    """Initialize ROS, spin the node until SIGINT, SIGTERM or shutdown, clean up, and end the process.

    If the node has a method `stop`, it is called with `timeout_s` before the node is destroyed. The exit code
    is 0, or 2 if the node could not be created because of its parameters.
    """
    remove_leftovers()
    interrupted = threading.Event()
    # Not rclpy's handlers: they shut the context down while callbacks still use it.
    call_on_signals(interrupted.set)
    try:
        rclpy.init(
            args=None if arguments is None else list(arguments),
            signal_handler_options=SignalHandlerOptions.NO,
        )
    except Exception as error:  # rclpy's RCLError has no public name; a parameter file is missing or broken
        print(f"error: {error}", file=sys.stderr)
        end_process(2)
    try:
        node = make_node()
    except (InvalidParameterTypeException, InvalidParameterValueException) as error:
        print(f"error: {error}", file=sys.stderr)
        try_shutdown()
        end_process(2)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    executor = ResumingExecutor(threads=threads)
    executor.add_node(node)
    spin(executor, until=interrupted.is_set)
    stop = getattr(node, "stop", None)
    if stop is not None:
        stop(timeout_s=_STOP_S)
    executor.shutdown(timeout_sec=_STOP_S)
    node.destroy_node()
    try_shutdown()
    end_process(0)
