"""The demo under the real `launch`, through launch_testing, if ROS is installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

_LAUNCH_TEST = Path(__file__).with_name("demo_launch.py")
_TIMEOUT_S = 300.0


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("launch_testing") is None or importlib.util.find_spec("launch_ros") is None,
    reason="the ROS packages launch_testing and launch_ros are not installed here; they are not on PyPI",
)
def test_the_demo_becomes_active(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "launch_testing.launch_test", str(_LAUNCH_TEST)]
    done = subprocess.run(
        command, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=_TIMEOUT_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
