"""Results as vision_msgs detections, if that package is installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xsam_ros.messages.frames import copied_header
from xsam_ros.msg import Instance, SegmentationResult

try:
    from vision_msgs.msg import (
        Detection2D,
        Detection2DArray,
        Detection3D,
        Detection3DArray,
        ObjectHypothesisWithPose,
    )
except ImportError:  # the Python wheels of ROS lack it
    Detection2DArray = Detection3DArray = None

DETECTIONS_2D: type[Any] | None = Detection2DArray
DETECTIONS_3D: type[Any] | None = Detection3DArray
"""Types of the messages; None without vision_msgs."""


def detections_2d(results: Sequence[SegmentationResult]) -> Any:
    """Build a vision_msgs/Detection2DArray of all boxes; `id` is the track id, or else the instance id."""
    message = Detection2DArray(header=copied_header(results[0].header))
    for result in results:
        for instance in result.instances:
            detection = Detection2D(header=copied_header(result.header), id=_id(instance))
            box = instance.box
            detection.bbox.center.position.x = (box.x_min + box.x_max) / 2
            detection.bbox.center.position.y = (box.y_min + box.y_max) / 2
            detection.bbox.size_x = float(box.x_max - box.x_min)
            detection.bbox.size_y = float(box.y_max - box.y_min)
            detection.results = [_hypothesis(instance)]
            message.detections.append(detection)
    return message


def detections_3d(results: Sequence[SegmentationResult]) -> Any:
    """Build a vision_msgs/Detection3DArray of the oriented boxes of all instances with a known location."""
    message = Detection3DArray(header=copied_header(results[0].header))
    for result in results:
        for instance in result.instances:
            location = instance.location
            if not location.valid:
                continue
            # All locations of a result share one frame: that of the image, or the target frame.
            message.header.frame_id = location.frame_id
            detection = Detection3D(header=copied_header(message.header), id=_id(instance))
            detection.bbox.center, detection.bbox.size = location.box_pose, location.box_size
            hypothesis = _hypothesis(instance)
            hypothesis.pose.pose = location.box_pose
            detection.results = [hypothesis]
            message.detections.append(detection)
    return message


def _id(instance: Instance) -> str:
    return str(instance.track_id or instance.id)


def _hypothesis(instance: Instance) -> Any:
    hypothesis = ObjectHypothesisWithPose()
    hypothesis.hypothesis.class_id = instance.label
    hypothesis.hypothesis.score = float(instance.score)
    return hypothesis
