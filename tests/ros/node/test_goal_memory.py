"""A goal that has ended keeps its result for a while, but not its image."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image

from tests.ros.color_node import load
from xsam import Frame, NotActiveError, Query
from xsam_ros.client import RosSegmenter
from xsam_ros.node.node import SegmenterNode


def _large_images() -> int:
    gc.collect()
    return sum(1 for item in gc.get_objects() if type(item) is Image and len(item.data) > 1_000_000)


def test_refused_goals_keep_no_images(ros: Any) -> None:
    """150 refused goals of 6.2 MB once held 0.9 GB for 10 s."""
    # A name of its own: rclpy keeps the lifecycle services of a destroyed node until garbage collection.
    overrides = [Parameter("autostart", value=False)]
    node = SegmenterNode(
        "goal_memory", engine_factory=load, context=ros.context, parameter_overrides=overrides
    )
    ros.executor.add_node(node)
    try:
        with RosSegmenter("/goal_memory") as segmenter:
            frame = Frame(rgb=np.zeros((720, 1280, 3), np.uint8))
            for _ in range(3):
                with pytest.raises(NotActiveError):
                    segmenter.segment(frame, [Query(text="red")], deadline_s=20.0, on_stage=lambda _: None)
        assert _large_images() == 0
    finally:
        ros.executor.remove_node(node)
        node.stop()
        node.destroy_node()
