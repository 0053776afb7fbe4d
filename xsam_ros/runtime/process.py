"""How the process of a node ends, in every stage of its life; imports nothing that takes time."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LONGEST_CLEANUP_S = 1.5
"""A process that gets a signal ends within this time, whatever its threads are doing."""


MainFunction = Callable[[Sequence[str] | None], int]
"""Gets the command line, None = that of the process; returns the exit code."""


def run_entry_point(load: Callable[[], MainFunction], arguments: Sequence[str] | None) -> int:
    """Import a node and run it; SIGINT and SIGTERM end the process with exit code 0, also during the import.

    Args:
        load: imports what takes time, and returns the node's main function.
        arguments: for that function.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: end_process(0))
    try:
        run = load()
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("xsam"):
            raise  # the workspace was not built or not sourced; the traceback says where
        print(
            f"error: the Python package {error.name!r} is not installed; run pip install '.[model]' in the "
            f"folder of X-SAM with the Python of this node ({sys.executable})",
            file=sys.stderr,
        )
        return 2
    return run(arguments)


def call_on_signals(on_signal: Callable[[], None]) -> None:
    """Call a function on the first SIGINT or SIGTERM, and end the process soon after, whatever happens.

    Further signals are ignored: a second Ctrl-C, or the one that a launch file adds to the terminal's,
    would interrupt the cleanup.
    """

    def handle(*_: Any) -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        threading.Thread(target=_end_soon, name="xsam_exit", daemon=True).start()
        on_signal()

    for number in STOP_SIGNALS:
        signal.signal(number, handle)


def end_process(code: int) -> NoReturn:
    """End the process without waiting for threads and finalizers.

    PyTorch takes 2 s to unload, and a thread that loads or runs a model cannot be interrupted: one that is
    still inside PyTorch or ROS when the interpreter finalizes aborts the process.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # closed, or a pipe that nobody reads
            continue
    os._exit(code)


def _end_soon() -> None:
    threading.Event().wait(_LONGEST_CLEANUP_S)
    end_process(0)
