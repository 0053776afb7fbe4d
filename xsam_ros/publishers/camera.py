"""What the node publishes about a camera. Nothing is made for a topic without subscribers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from std_msgs.msg import Header, String
from visualization_msgs.msg import MarkerArray

from xsam.types.requests import Frame, Segments
from xsam_ros.messages.encode_images import compressed_from_rgb
from xsam_ros.messages.images import image_from_array
from xsam_ros.msg import SegmentationResult
from xsam_ros.publishers.detections import DETECTIONS, detections_2d, detections_3d
from xsam_ros.publishers.markers import markers, point_cloud
from xsam_ros.publishers.semantic import LABEL_INFO, ClassTable, label_info, label_json

_DEPTH = 5
_LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_JPEG_QUALITY = 85


class CameraOutputs:
    """Publishers of one camera; made on configure, they send in the active state only.

    `~/<camera>/…` is result, label_image, semantic, semantic/confidence, semantic/labels, overlay,
    overlay/compressed, markers and points; with vision_msgs also semantic/label_info, detections and
    detections_3d.
    """

    def __init__(self, node: LifecycleNode, camera: str) -> None:
        self._node = node
        self._camera = camera
        self._table = ClassTable()
        self._published_labels: tuple[str, ...] | None = None
        self._all: list[LifecyclePublisher] = []
        self._results = self._publisher(SegmentationResult, "result")
        self._label_image = self._publisher(Image, "label_image")
        self._semantic = self._publisher(Image, "semantic")
        self._confidence = self._publisher(Image, "semantic/confidence")
        self._labels = self._publisher(String, "semantic/labels", _LATCHED)
        self._overlay = self._publisher(Image, "overlay")
        self._overlay_jpeg = self._publisher(CompressedImage, "overlay/compressed")
        self._markers = self._publisher(MarkerArray, "markers")
        self._points = self._publisher(PointCloud2, "points")
        if LABEL_INFO is not None:
            self._label_info = self._publisher(LABEL_INFO, "semantic/label_info", _LATCHED)
        if DETECTIONS:
            array_2d, array_3d = DETECTIONS
            self._detections = self._publisher(array_2d, "detections")
            self._detections_3d = self._publisher(array_3d, "detections_3d")

    def publish(
        self, frame: Frame, results: Sequence[SegmentationResult], segments: Sequence[Segments]
    ) -> None:
        """Publish the answers to one request, or to one frame of a stream.

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
        drawn = _Drawn(frame, segments)
        _send(self._label_image, lambda: image_from_array(drawn.ids, "mono16", header))
        self._publish_semantic(frame, segments, header)
        _send(self._overlay, lambda: image_from_array(drawn.overlay, "rgb8", header))
        _send(self._overlay_jpeg, lambda: _compressed(drawn.overlay, header))
        _send(self._markers, lambda: markers(results))
        if frame.depth_m is not None and frame.intrinsics is not None:
            _send(self._points, lambda: point_cloud(frame, drawn.ids, header))
        if DETECTIONS:
            _send(self._detections, lambda: detections_2d(results))
            _send(self._detections_3d, lambda: detections_3d(results))

    def destroy(self) -> None:
        """Take the topics away."""
        while self._all:
            self._node.destroy_lifecycle_publisher(self._all.pop())

    def _publish_semantic(self, frame: Frame, segments: Sequence[Segments], header: Header) -> None:
        if not (_wanted(self._semantic) or _wanted(self._confidence)):
            return
        classes, confidence = self._table.semantic_image(frame.image_hw, segments)
        if self._table.labels != self._published_labels:  # before the image that needs it
            self._labels.publish(String(data=label_json(self._table)))
            if LABEL_INFO is not None:
                self._label_info.publish(label_info(self._table, header))
            self._published_labels = self._table.labels
        _send(self._semantic, lambda: image_from_array(classes, "mono8", header))
        _send(self._confidence, lambda: image_from_array(confidence, "mono8", header))

    def _publisher(
        self, message_type: type[Any], name: str, qos: QoSProfile | int = _DEPTH
    ) -> LifecyclePublisher:
        publisher: LifecyclePublisher = self._node.create_lifecycle_publisher(
            message_type, f"~/{self._camera}/{name}", qos
        )
        self._all.append(publisher)
        return publisher


class _Drawn:
    """What several topics show, made when the first of them is wanted."""

    def __init__(self, frame: Frame, segments: Sequence[Segments]) -> None:
        self._frame = frame
        self._segments = segments

    @cached_property
    def ids(self) -> NDArray[np.uint16]:
        """(H, W) instance ids, 0 = none. They count through all answers; the first answer wins an overlap."""
        return instance_ids(self._frame.image_hw, self._segments)

    @cached_property
    def overlay(self) -> NDArray[np.uint8]:
        """(H, W, 3) the image with all segments, their numbers, labels and distances."""
        return overlay(self._frame, self._segments)


def instance_ids(image_hw: tuple[int, int], segments: Sequence[Segments]) -> NDArray[np.uint16]:
    """(H, W) ids as in the messages, 0 = none; the first answer wins an overlap."""
    ids = np.zeros(image_hw, np.uint16)
    first_id = 1
    for answer in segments:
        own = answer.label_map()
        free = (ids == 0) & (own > 0)
        ids[free] = own[free] + np.uint16(first_id - 1)
        first_id += len(answer)
    return ids


def overlay(frame: Frame, segments: Sequence[Segments]) -> NDArray[np.uint8]:
    """All segments on the image: numbered by track where they are tracked, with their distance if known."""
    from xsam.draw.overlay import draw_overlay

    rgb = frame.rgb
    first_id = 1
    for answer in segments:
        if len(answer):
            numbers = [int(track) or first_id + i for i, track in enumerate(answer.track_ids)]
            labels = tuple(
                f"{label} {place.distance_m:.2f} m" if place is not None and place.valid else label
                for label, place in zip(answer.labels, answer.locations, strict=True)
            )
            rgb = draw_overlay(rgb, replace(answer, labels=labels), numbers=numbers)
        first_id += len(answer)
    return rgb


def _compressed(rgb: NDArray[np.uint8], header: Header) -> CompressedImage:
    return compressed_from_rgb(rgb, "jpeg", header, quality=_JPEG_QUALITY)


def _wanted(publisher: LifecyclePublisher) -> bool:
    return bool(publisher.is_activated and publisher.get_subscription_count() > 0)


def _send(publisher: LifecyclePublisher, make: Callable[[], Any]) -> None:
    if _wanted(publisher):
        publisher.publish(make())
