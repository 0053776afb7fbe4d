"""For `launch_test`: the demo's launch file starts a node that activates, streams, and ends cleanly.

launch_test tests/ros/demo_launch.py
"""

from __future__ import annotations

import time
import unittest
from pathlib import Path
from typing import Any

import launch_testing.actions
import launch_testing.asserts
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

from xsam_ros.client import RosSegmenter

_DEMO = Path(__file__).resolve().parents[2] / "launch" / "demo.launch.py"
_PATIENCE_S = 120.0


def generate_test_description() -> LaunchDescription:
    """Launch the unchanged demo; the tests do the waiting."""
    demo = IncludeLaunchDescription(PythonLaunchDescriptionSource(str(_DEMO)))
    return LaunchDescription([demo, launch_testing.actions.ReadyToTest()])


class TestRunning(unittest.TestCase):
    """Checks while everything is running."""

    def test_the_node_becomes_active_and_streams(self) -> None:
        until = time.monotonic() + _PATIENCE_S
        with RosSegmenter("/xsam") as segmenter:
            while True:
                status = segmenter.status(deadline_s=_PATIENCE_S)
                answers = {camera.name: camera.stream.answers for camera in status.cameras}
                if status.state == "active" and answers.get("moving"):
                    return
                assert time.monotonic() < until, f"{status.state}, {answers}: {status.last_error}"
                time.sleep(0.2)


@launch_testing.post_shutdown_test()
class TestEnded(unittest.TestCase):
    """Checks after all processes were interrupted."""

    def test_all_processes_ended_cleanly(self, proc_info: Any) -> None:
        launch_testing.asserts.assertExitCodes(proc_info)
