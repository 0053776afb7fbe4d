"""Measure what it takes to start: imports, help, and the answer about one picture.

Processor seconds of a new process and its children, so that other programs matter little; bytecode is there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from xsam.media.image_files import write_image
from xsam.sim import render, sample_scene

REPETITIONS = 3
_PYTHON = [sys.executable, "-c"]
_COMMANDS: dict[str, list[str]] = {
    "python": [*_PYTHON, "pass"],
    "import_xsam": [*_PYTHON, "import xsam"],
    "help": [sys.executable, "-m", "xsam", "--help"],
    "segment_help": [sys.executable, "-m", "xsam", "segment", "--help"],
    "import_torch": [*_PYTHON, "import torch"],
    "import_engine": [*_PYTHON, "from xsam import XSam"],
}


def measure_starting(log: Callable[[str], None]) -> dict[str, Any]:
    """Return the processor seconds of each command; medians of those that begin anew each time."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "picture.png"
        write_image(picture, render(sample_scene(2_000_000), image_hw=(480, 640)).rgb)
        commands = {
            **_COMMANDS,
            "segment": [sys.executable, "-m", "xsam", "segment", str(picture), "mug", "--threads", "1"],
        }
        figures: dict[str, Any] = {}
        for name, command in commands.items():
            _processor_seconds(command)  # so that the files are in memory
            figures[f"{name}_s"] = round(median(_processor_seconds(command) for _ in range(REPETITIONS)), 3)
            log(f"starting: {name} {figures[f'{name}_s']} s")
    return figures


def _processor_seconds(command: list[str]) -> float:
    """Run a command, whatever it answers, and return the processor time that it took."""
    before = os.times()
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    after = os.times()
    if done.returncode not in (0, 3, 4):  # found, not found, in doubt
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode()[-500:]}")
    return after.children_user - before.children_user + after.children_system - before.children_system
