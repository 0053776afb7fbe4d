"""Subscriptions of a camera: quality of service by topic, and what the middleware reports about it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
)
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from xsam_ros.cameras.buffer import TopicStream
from xsam_ros.cameras.camera import CameraSlot, CameraTopics
from xsam_ros.node.parameters import CameraParameters, declare, read

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

_IMAGE_DEPTH = 1
_DEPTH_DEPTH = 5  # each depth image may be the one that belongs to a color image


def camera_qos(kind: str, *, depth: int) -> QoSProfile:
    """Quality of service of a subscription.

    Args:
        kind: "sensor_data" (best effort: fits every publisher), "reliable", or "latched" (also transient
            local: messages from before the subscription).
        depth: messages that may wait for the callback.
    """
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.BEST_EFFORT if kind == "sensor_data" else ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if kind == "latched" else DurabilityPolicy.VOLATILE,
    )


def make_slot(node: Node, name: str) -> CameraSlot:
    """Declare the parameters of a camera, as far as they are not, and make its slot."""
    declare(node, CameraParameters, prefix=f"{name}.")
    settings = functools.partial(read, node, CameraParameters, f"{name}.")
    topics = CameraTopics.of(name, settings())
    resolved = CameraTopics(
        image=node.resolve_topic_name(topics.image),
        depth=node.resolve_topic_name(topics.depth) if topics.depth else "",
        info=node.resolve_topic_name(topics.info) if topics.info else "",
    )
    return CameraSlot(
        name, resolved, settings=settings, clock_ns=lambda: int(node.get_clock().now().nanoseconds)
    )


class CameraSubscriptions:
    """The subscriptions that fill a slot, until `destroy`."""

    def __init__(self, node: Node, slot: CameraSlot) -> None:
        self._node = node
        self._group = MutuallyExclusiveCallbackGroup()
        self._subscriptions: list[Subscription] = []
        name = slot.name
        parameters: CameraParameters = read(node, CameraParameters, prefix=f"{name}.")
        topics = CameraTopics.of(name, parameters)
        image_type = CompressedImage if parameters.compressed else Image
        depth_type = CompressedImage if parameters.depth_compressed else Image
        try:
            kind = parameters.image_qos or parameters.qos
            self._add(image_type, topics.image, slot.image, kind, _IMAGE_DEPTH, f"{name}.image_qos")
            if slot.depth is not None:
                kind = parameters.depth_qos or parameters.qos
                self._add(depth_type, topics.depth, slot.depth, kind, _DEPTH_DEPTH, f"{name}.depth_qos")
            if slot.info is not None:
                kind = parameters.info_qos or parameters.qos
                self._add(CameraInfo, topics.info, slot.info, kind, 1, f"{name}.info_qos")
        except BaseException:
            self.destroy()
            raise

    def destroy(self) -> None:
        """Unsubscribe. May be called more than once."""
        while self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.pop())

    def _add(
        self, message_type: type[Any], topic: str, stream: TopicStream, kind: str, depth: int, parameter: str
    ) -> None:
        def on_incompatible(event: Any) -> None:
            policy = str(qos_policy_name_from_kind(event.last_policy_kind)).replace("_QOS_POLICY", "")
            stream.report_incompatible(policy, int(event.total_count_change))
            self._node.get_logger().warning(
                f"nothing is received from a publisher on {stream.topic}: its {policy} policy does not fit "
                f"{kind!r}, which parameter {parameter} (or qos) asks for"
            )

        def on_lost(event: Any) -> None:
            stream.report_lost(int(event.total_count_change))

        subscribe: Callable[..., Subscription] = functools.partial(
            self._node.create_subscription,
            message_type,
            topic,
            stream.store,
            camera_qos(kind, depth=depth),
            callback_group=self._group,
            raw=True,  # deserialized only if this very message is used
        )
        events = functools.partial(SubscriptionEventCallbacks, incompatible_qos=on_incompatible)
        for callbacks in (events(message_lost=on_lost), events()):  # not every middleware reports both
            with contextlib.suppress(UnsupportedEventTypeError):
                self._subscriptions.append(subscribe(event_callbacks=callbacks))
                return
        self._subscriptions.append(subscribe())
