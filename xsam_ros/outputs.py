"""What the node publishes about a camera: results, label image, overlay. Nothing is made for nobody."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from xsam.structures import Frame, Segments
from xsam_ros.image_conversion import image_from_array
from xsam_ros.msg import SegmentationResult

_DEPTH = 5


class CameraOutputs:
    """Publishers of one camera; made on configure, they send in the active state only."""

    def __init__(self, node: LifecycleNode, camera: str) -> None:
        self._node = node
        self._results = self._publisher(SegmentationResult, f"~/{camera}/result")
        self._label_image = self._publisher(Image, f"~/{camera}/label_image")
        self._overlay = self._publisher(Image, f"~/{camera}/overlay")

    def publish(
        self, frame: Frame, results: Sequence[SegmentationResult], segments: Sequence[Segments]
    ) -> None:
        """Publish the answers to one request.

        Args:
            frame: the source image.
            results: the answers as they went to the caller, with the header of the source image.
            segments: the segments of each answer.
        """
        if not results:
            return
        for result in results:
            self._results.publish(result)
        header = results[0].header
        self._send(self._label_image, lambda: label_image(frame, segments, header))
        self._send(self._overlay, lambda: overlay_image(frame, segments, header))

    def destroy(self) -> None:
        """Take the topics away."""
        for publisher in (self._results, self._label_image, self._overlay):
            self._node.destroy_lifecycle_publisher(publisher)

    def _publisher(self, message_type: type[Any], topic: str) -> LifecyclePublisher:
        publisher: LifecyclePublisher = self._node.create_lifecycle_publisher(message_type, topic, _DEPTH)
        return publisher

    @staticmethod
    def _send(publisher: LifecyclePublisher, make: Callable[[], Any]) -> None:
        if publisher.get_subscription_count() > 0:
            publisher.publish(make())


def label_image(frame: Frame, segments: Sequence[Segments], header: Header) -> Image:
    """Instance ids as mono16, 0 = none. Ids count through all answers; the first answer wins an overlap."""
    ids = np.zeros(frame.image_hw, np.uint16)
    first_id = 1
    for answer in segments:
        own = answer.label_map()
        free = (ids == 0) & (own > 0)
        ids[free] = own[free] + np.uint16(first_id - 1)
        first_id += len(answer)
    return image_from_array(ids, "mono16", header)


def overlay_image(frame: Frame, segments: Sequence[Segments], header: Header) -> Image:
    """The source image with all segments drawn on it, numbered by their ids, as rgb8."""
    from xsam.draw import draw_overlay

    rgb = frame.rgb
    first_id = 1
    for answer in segments:
        if len(answer):
            rgb = draw_overlay(rgb, answer, numbers=range(first_id, first_id + len(answer)))
        first_id += len(answer)
    return image_from_array(rgb, "rgb8", header)
