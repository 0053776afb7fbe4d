"""A camera's subscriptions: QoS per topic, and reports of QoS problems and lost messages."""

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

from xsam_ros.cameras.buffer import TopicBuffer
from xsam_ros.cameras.camera import CameraBuffer, CameraTopics
from xsam_ros.cameras.graph import ExpectedTopic, topic_problem
from xsam_ros.cameras.parameters import CameraParameters
from xsam_ros.cameras.registration import TransformLookup, no_transforms
from xsam_ros.runtime.parameters import declare, read

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

_IMAGE_QUEUE = 1
_DEPTH_QUEUE = 5  # any depth image may be the one that matches a color image


def camera_qos(kind: str, *, depth: int) -> QoSProfile:
    """Return the QoS profile of a subscription.

    Args:
        kind: "sensor_data" (best effort, compatible with every publisher), "reliable", or "latched"
            (reliable and transient local: also delivers messages from before the subscription).
        depth: how many messages may wait for the callback.
    """
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.BEST_EFFORT if kind == "sensor_data" else ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if kind == "latched" else DurabilityPolicy.VOLATILE,
    )


def create_camera_buffer(node: Node, name: str, *, look_up: TransformLookup = no_transforms) -> CameraBuffer:
    """Declare the parameters of a camera unless they are declared already, and create its buffer."""
    declare(node, CameraParameters, prefix=f"{name}.")
    settings = functools.partial(read, node, CameraParameters, f"{name}.")
    topics = CameraTopics.from_parameters(name, settings())
    resolved = CameraTopics(
        image=node.resolve_topic_name(topics.image),
        depth=node.resolve_topic_name(topics.depth) if topics.depth else "",
        info=node.resolve_topic_name(topics.info) if topics.info else "",
        depth_info=node.resolve_topic_name(topics.depth_info) if topics.depth_info else "",
    )
    clock: Any = node.get_clock()  # a ROSClock
    return CameraBuffer(
        name,
        resolved,
        settings=settings,
        clock_ns=lambda: int(clock.now().nanoseconds),
        is_simulated=lambda: bool(clock.ros_time_is_active),
        look_up=look_up,
    )


class CameraSubscriptions:
    """The subscriptions that fill a camera's buffer until `destroy`."""

    def __init__(
        self, node: Node, buffer: CameraBuffer, *, parameters: CameraParameters | None = None
    ) -> None:
        """Subscribe.

        Args:
            node: whose subscriptions they are.
            buffer: where the messages go.
            parameters: of the camera, for a node that has no such parameters: it subscribes to the topics of
                the buffer. None = they are parameters of the node, to which remappings apply.
        """
        self._node = node
        self._group = MutuallyExclusiveCallbackGroup()
        self._subscriptions: list[Subscription] = []
        self._buffers: list[TopicBuffer] = []
        self._camera = name = buffer.name
        if parameters is None:
            parameters = read(node, CameraParameters, prefix=f"{name}.")
            topics = CameraTopics.from_parameters(name, parameters)
        else:
            topics = buffer.topic_names
        image_type = CompressedImage if parameters.compressed else Image
        depth_type = CompressedImage if parameters.depth_compressed else Image
        try:
            kind = parameters.image_qos or parameters.qos
            self._add(image_type, topics.image, buffer.image, kind, _IMAGE_QUEUE, "image", "compressed")
            if buffer.depth is not None:
                kind = parameters.depth_qos or parameters.qos
                self._add(
                    depth_type, topics.depth, buffer.depth, kind, _DEPTH_QUEUE, "depth", "depth_compressed"
                )
            kind = parameters.info_qos or parameters.qos
            if buffer.info is not None:
                self._add(CameraInfo, topics.info, buffer.info, kind, 1, "info")
            if buffer.depth_info is not None:
                self._add(
                    CameraInfo, topics.depth_info, buffer.depth_info, kind, 1, "depth_info", qos_role="info"
                )
        except BaseException:
            self.destroy()
            raise

    def destroy(self) -> None:
        """Unsubscribe. May be called repeatedly."""
        for buffer in self._buffers:
            buffer.explain_with(lambda received: "")
        while self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.pop())

    def _add(
        self,
        message_type: type[Any],
        topic: str,
        buffer: TopicBuffer,
        kind: str,
        depth: int,
        role: str,
        compressed_parameter: str = "",
        qos_role: str = "",
    ) -> None:
        """Subscribe.

        Args:
            message_type: of the topic.
            topic: as in the parameters.
            buffer: where messages go.
            kind: of `camera_qos`.
            depth: of the queue.
            role: image, depth, info or depth_info, the first part of the names of its parameters.
            compressed_parameter: name of the parameter that chooses the type; "" = there is none.
            qos_role: first part of the name of the QoS parameter, if it is another one.
        """
        prefix, qos = f"{self._camera}.", camera_qos(kind, depth=depth)
        parameter = f"{prefix}{qos_role or role}_qos"
        package, name = message_type.__module__.split(".")[0], message_type.__name__
        expected = ExpectedTopic(
            topic=buffer.topic,
            type_name=f"{package}/msg/{name}",
            qos=qos,
            topic_parameter=f"{prefix}{role}_topic",
            qos_parameter=parameter,
            compressed_parameter=f"{prefix}{compressed_parameter}" if compressed_parameter else "",
            may_be_latched=message_type is CameraInfo,
        )
        buffer.explain_with(lambda received: topic_problem(self._node, expected, received=received))
        self._buffers.append(buffer)

        def on_incompatible(event: Any) -> None:
            policy = str(qos_policy_name_from_kind(event.last_policy_kind)).replace("_QOS_POLICY", "")
            buffer.report_incompatible(policy, int(event.total_count_change))
            self._node.get_logger().warning(
                f"receiving nothing from a publisher on {buffer.topic}: its {policy} policy is incompatible "
                f"with {kind!r}, the value of parameter {parameter} (or qos)"
            )

        def on_lost(event: Any) -> None:
            buffer.report_lost(int(event.total_count_change))

        subscribe: Callable[..., Subscription] = functools.partial(
            self._node.create_subscription,
            message_type,
            topic,
            buffer.store,
            qos,
            callback_group=self._group,
            raw=True,  # deserialized only if the message is used
        )
        events = functools.partial(SubscriptionEventCallbacks, incompatible_qos=on_incompatible)
        for callbacks in (events(message_lost=on_lost), events()):  # not every middleware supports both
            with contextlib.suppress(UnsupportedEventTypeError):
                self._subscriptions.append(subscribe(event_callbacks=callbacks))
                return
        self._subscriptions.append(subscribe())
