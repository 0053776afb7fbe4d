"""Quality of service that the node and its clients share."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, QoSProfile

try:
    from rclpy.event_handler import PublisherEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks

SERVICE_QOS = QoSProfile(depth=100)
"""Reliable, as usual, but with room for more than ten messages. The responses to all clients of a service
reach each of them: with a depth of ten, a client that is busy while ten others get theirs would lose its
own."""

ACTION_QOS = {f"{service}_service_qos_profile": SERVICE_QOS for service in ("goal", "result", "cancel")}

STREAM_STATUS_QOS = QoSProfile(depth=8, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""Latched: who comes late still learns that a stream has ended, also when another one has started since."""

NO_EVENTS = PublisherEventCallbacks(use_default_callbacks=False)
"""For publishers. By default, rclpy waits for two events of each in every turn of the executor, to log that a
subscriber cannot be served: with the publishers of a camera, that is half of a turn. Such a subscriber logs
it as well."""
