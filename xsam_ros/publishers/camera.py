"""The topics published for each camera. Nothing is computed for a topic without subscribers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from std_msgs.msg import Header, String
from visualization_msgs.msg import MarkerArray

from xsam.types.requests import Frame, Segments
from xsam_ros.messages.encode_images import compressed_from_rgb
from xsam_ros.messages.image_messages import image_from_array
from xsam_ros.msg import SegmentationResult, StreamStatus
from xsam_ros.publishers.detections import DETECTIONS_2D, DETECTIONS_3D, detections_2d, detections_3d
from xsam_ros.publishers.markers import markers, point_cloud
from xsam_ros.publishers.semantic import LABEL_INFO, NO_CLASS, ClassTable, label_info, label_json
from xsam_ros.runtime.qos import NO_EVENTS, STREAM_STATUS_QOS

TOPICS: Mapping[str, type[Any] | None] = {
    "result": SegmentationResult,
    "stream": StreamStatus,
    "label_image": Image,
    "semantic": Image,
    "semantic/confidence": Image,
    "semantic/labels": String,
    "semantic/label_info": LABEL_INFO,
    "overlay": Image,
    "overlay/compressed": CompressedImage,
    "markers": MarkerArray,
    "points": PointCloud2,
    "detections": DETECTIONS_2D,
    "detections_3d": DETECTIONS_3D,
}
"""Message type of each topic under `~/<camera>/`; None = not published, because vision_msgs is missing."""

_TABLE_TOPICS = ("semantic/labels", "semantic/label_info")
_STREAM_TOPIC = "stream"
_LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_QUEUE = 5
_JPEG_QUALITY = 85


class CameraPublishers:
    """The publishers of one camera, one for each of `TOPICS`.

    Created on configure; they publish in the active state only, apart from the table of classes, which is
    there from the beginning, because consumers wait for it, and the status of the stream.

    While the camera has a stream, all topics but `result` and `stream` are that stream's: images cannot say
    whose they are, and those of somebody's request would come in between.
    """

    def __init__(self, node: LifecycleNode, camera: str) -> None:
        self._node = node
        self._lock = threading.Lock()
        no_class = node.get_parameter_or(f"{camera}.semantic_no_class", Parameter("", value=NO_CLASS)).value
        self._classes = ClassTable(no_class=int(no_class))
        self._published_labels: tuple[str, ...] | None = None
        types = {name: message_type for name, message_type in TOPICS.items() if message_type is not None}
        self._tables: dict[str, Publisher] = {
            name: node.create_publisher(
                types[name], f"~/{camera}/{name}", _LATCHED, event_callbacks=NO_EVENTS
            )
            for name in _TABLE_TOPICS
            if name in types
        }
        self._stream: Publisher = node.create_publisher(
            types[_STREAM_TOPIC], f"~/{camera}/{_STREAM_TOPIC}", STREAM_STATUS_QOS, event_callbacks=NO_EVENTS
        )
        self._stream_id = ""  # of the running stream
        self._publishers: dict[str, LifecyclePublisher] = {
            name: node.create_lifecycle_publisher(
                message_type, f"~/{camera}/{name}", _QUEUE, event_callbacks=NO_EVENTS
            )
            for name, message_type in types.items()
            if name not in (*_TABLE_TOPICS, _STREAM_TOPIC)
        }
        self._publish_table(Header(stamp=node.get_clock().now().to_msg()))

    def publish(
        self, frame: Frame, results: Sequence[SegmentationResult], segments: Sequence[Segments]
    ) -> None:
        """Publish the results of one request, or of one frame of a stream.

        Args:
            frame: the source image.
            results: as returned to the caller, with the header of the source image.
            segments: the segments of each result.
        """
        if results:
            with self._lock:  # of a stream's thread and the model's
                self._publish_all(frame, results, segments)

    def _publish_all(
        self, frame: Frame, results: Sequence[SegmentationResult], segments: Sequence[Segments]
    ) -> None:
        if self._has_subscribers("result"):
            for result in results:
                self._publishers["result"].publish(result)
        if results[0].stream_id != self._stream_id:
            return
        header = results[0].header
        images = _SharedImages(frame, segments)
        self._publish("label_image", lambda: image_from_array(images.ids, "mono16", header))
        self._publish_semantic(frame, segments, header)
        self._publish("overlay", lambda: image_from_array(images.overlay, "rgb8", header))
        self._publish("overlay/compressed", lambda: _compressed(images.overlay, header))
        self._publish("markers", lambda: markers(results))
        if frame.depth_m is not None and frame.intrinsics is not None:
            self._publish("points", lambda: point_cloud(frame, images.ids, header))
        self._publish("detections", lambda: detections_2d(results))
        self._publish("detections_3d", lambda: detections_3d(results))

    def publish_stream(self, status: StreamStatus) -> None:
        """Publish that the stream of the camera has started, changed or ended."""
        self._stream_id = status.stream_id if status.running else ""
        self._stream.publish(status)

    def destroy(self) -> None:
        """Remove the topics."""
        self._node.destroy_publisher(self._stream)
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        for table in self._tables.values():
            self._node.destroy_publisher(table)

    def _publish_semantic(self, frame: Frame, segments: Sequence[Segments], header: Header) -> None:
        images = ("semantic", "semantic/confidence")
        if any(map(self._has_subscribers, images)):
            class_ids, confidence = self._classes.semantic_image(frame.image_hw, segments)
            self._publish_table(header)  # goes out before the image that uses it
            self._publish("semantic", lambda: image_from_array(class_ids, "mono8", header))
            self._publish("semantic/confidence", lambda: image_from_array(confidence, "mono8", header))
        elif any(table.get_subscription_count() for table in self._tables.values()):
            self._classes.add(segments)
            self._publish_table(header)

    def _publish_table(self, header: Header) -> None:
        """Publish the table of classes if it has changed."""
        if self._classes.labels == self._published_labels:
            return
        self._tables["semantic/labels"].publish(String(data=label_json(self._classes)))
        if "semantic/label_info" in self._tables:
            self._tables["semantic/label_info"].publish(label_info(self._classes, header))
        self._published_labels = self._classes.labels

    def _publish(self, name: str, make: Callable[[], Any]) -> None:
        """Publish what `make` returns if the topic has subscribers."""
        if self._has_subscribers(name):
            self._publishers[name].publish(make())

    def _has_subscribers(self, name: str) -> bool:
        publisher = self._publishers.get(name)
        return publisher is not None and publisher.is_activated and publisher.get_subscription_count() > 0


class _SharedImages:
    """Images that several topics need, computed for the first one that has a subscriber."""

    def __init__(self, frame: Frame, segments: Sequence[Segments]) -> None:
        self._frame = frame
        self._segments = segments

    @cached_property
    def ids(self) -> NDArray[np.uint16]:
        """(H, W) instance ids, 0 = none; see `instance_ids`."""
        return instance_ids(self._frame.image_hw, self._segments)

    @cached_property
    def overlay(self) -> NDArray[np.uint8]:
        """(H, W, 3) RGB, the image with all segments drawn on it; see `overlay`."""
        return overlay(self._frame, self._segments)


def instance_ids(image_hw: tuple[int, int], segments: Sequence[Segments]) -> NDArray[np.uint16]:
    """Return (H, W) instance ids as in the messages, 0 = none; earlier results win overlaps."""
    ids = np.zeros(image_hw, np.uint16)
    first_id = 1
    for result in segments:
        own = result.label_map()
        free = (ids == 0) & (own > 0)
        ids[free] = own[free] + np.uint16(first_id - 1)
        first_id += len(result)
    return ids


def overlay(frame: Frame, segments: Sequence[Segments]) -> NDArray[np.uint8]:
    """Draw all segments on a copy of the image, with label, distance if known, and track id or else id."""
    from xsam.draw.overlay import draw_overlay

    rgb = frame.rgb
    first_id = 1
    for result in segments:
        if len(result):
            numbers = [int(track) or first_id + i for i, track in enumerate(result.track_ids)]
            labels = tuple(
                f"{label} {location.distance_m:.2f} m" if location is not None and location.valid else label
                for label, location in zip(result.labels, result.locations, strict=True)
            )
            rgb = draw_overlay(rgb, replace(result, labels=labels), numbers=numbers)
        first_id += len(result)
    return rgb


def _compressed(rgb: NDArray[np.uint8], header: Header) -> CompressedImage:
    return compressed_from_rgb(rgb, "jpeg", header, quality=_JPEG_QUALITY)
