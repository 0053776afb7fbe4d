"""Why nothing arrives on a topic: what its publishers offer, compared with what is requested."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

_COMPRESSED = "sensor_msgs/msg/CompressedImage"
_RAW = "sensor_msgs/msg/Image"
_MAX_LISTED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedTopic:
    """A subscription as the ROS graph sees it, and the parameters that set it up."""

    topic: str  # fully qualified
    type_name: str  # "sensor_msgs/msg/Image"
    qos: QoSProfile
    topic_parameter: str  # "front.image_topic"
    qos_parameter: str
    compressed_parameter: str = ""  # "" = there is none
    may_be_latched: bool = False  # the QoS parameter accepts "latched"


def topic_problem(node: Node, expected: ExpectedTopic, *, received: int) -> str:
    """Return what is wrong with the publishers of a topic and which parameter to set; "" = nothing.

    Args:
        node: for access to the ROS graph.
        expected: the subscription.
        received: messages that have arrived.
    """
    try:
        publishers = node.get_publishers_info_by_topic(expected.topic)
        if not publishers:
            return "" if received else _no_publisher(node, expected)
    except Exception:  # the node is being destroyed; rclpy names no common error
        return ""
    matching = [info for info in publishers if info.topic_type == expected.type_name]
    if not matching:
        return "" if received else _wrong_type(expected, publishers)
    if not received:
        return _wrong_qos(expected, matching)
    if len(matching) > 1:
        names = ", ".join(sorted(f"{info.node_namespace.rstrip('/')}/{info.node_name}" for info in matching))
        return f"{len(matching)} publishers send to {expected.topic}, and their messages mix: {names}"
    return ""


def _no_publisher(node: Node, expected: ExpectedTopic) -> str:
    others = [
        name
        for name, types in node.get_topic_names_and_types()
        if expected.type_name in types and name != expected.topic and node.count_publishers(name)
    ]
    near = difflib.get_close_matches(expected.topic, others, _MAX_LISTED, cutoff=0.0)
    listed = f"; published with this type: {', '.join(near)}" if near else ""
    return (
        f"nobody publishes on {expected.topic} ({expected.type_name}): is its driver running, and is "
        f"{expected.topic_parameter} right?{listed}"
    )


def _wrong_type(expected: ExpectedTopic, publishers: Sequence[Any]) -> str:
    offered = sorted({info.topic_type for info in publishers})
    problem = f"{expected.topic} is published as {', '.join(offered)}, not as {expected.type_name}"
    if expected.compressed_parameter and {*offered, expected.type_name} == {_COMPRESSED, _RAW}:
        value = "true" if _COMPRESSED in offered else "false"
        return f"{problem}: set {expected.compressed_parameter}: {value}"
    return f"{problem}: check {expected.topic_parameter}"


def _wrong_qos(expected: ExpectedTopic, publishers: Sequence[Any]) -> str:
    requested = expected.qos
    offers = [info.qos_profile for info in publishers]
    if requested.reliability == ReliabilityPolicy.RELIABLE and all(
        offer.reliability == ReliabilityPolicy.BEST_EFFORT for offer in offers
    ):
        return (
            f"the publisher on {expected.topic} is best effort, and reliable is requested (RELIABILITY): set "
            f"{expected.qos_parameter}: sensor_data"
        )
    if requested.durability == DurabilityPolicy.TRANSIENT_LOCAL and all(
        offer.durability == DurabilityPolicy.VOLATILE for offer in offers
    ):
        return (
            f"the publisher on {expected.topic} is volatile, and latched is requested (DURABILITY): set "
            f"{expected.qos_parameter}: reliable"
        )
    latched = any(offer.durability == DurabilityPolicy.TRANSIENT_LOCAL for offer in offers)
    if latched and expected.may_be_latched and requested.durability == DurabilityPolicy.VOLATILE:
        return (
            f"the publisher on {expected.topic} is latched (DURABILITY) and may have sent its only message "
            f"before: set {expected.qos_parameter}: latched"
        )
    return f"{expected.topic} has a compatible publisher that has not sent anything yet"
