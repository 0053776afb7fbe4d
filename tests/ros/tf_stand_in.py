"""The part of `tf2_ros` that the node uses, for environments without it: transforms come as messages.

A driver publishes `geometry_msgs/TransformStamped` on `/test_transforms`; they hold at every stamp.
"""

from __future__ import annotations

from typing import Any

from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.time import Time


class TransformException(Exception):
    """A transform is not known."""


class Buffer:
    """The transforms that have arrived."""

    def __init__(self, node: Node | None = None) -> None:
        self.known: dict[tuple[str, str], TransformStamped] = {}

    def can_transform(self, target_frame: str, source_frame: str, time: Time) -> bool:
        return (target_frame, source_frame) in self.known

    def lookup_transform(self, target_frame: str, source_frame: str, time: Time) -> TransformStamped:
        if not self.can_transform(target_frame, source_frame, time):
            raise TransformException(f"{source_frame!r} is not connected to {target_frame!r}")
        return self.known[target_frame, source_frame]


class TransformListener:
    """A subscription that fills a buffer."""

    def __init__(self, buffer: Buffer, node: Node, *, spin_thread: bool) -> None:
        self._node = node

        def on_transform(message: Any) -> None:
            buffer.known[message.header.frame_id, message.child_frame_id] = message

        self._subscription = node.create_subscription(TransformStamped, "/test_transforms", on_transform, 10)

    def unregister(self) -> None:
        self._node.destroy_subscription(self._subscription)
