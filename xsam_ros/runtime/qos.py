"""Quality of service that the node and its clients share."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, QoSProfile

SERVICE_QOS = QoSProfile(depth=100)
"""Reliable, as usual, but with room for more than ten messages. The responses to all clients of a service
reach each of them: with a depth of ten, a client that is busy while ten others get theirs would lose its
own."""

ACTION_QOS = {f"{service}_service_qos_profile": SERVICE_QOS for service in ("goal", "result", "cancel")}

STREAM_STATUS_QOS = QoSProfile(depth=8, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""Latched: who comes late still learns that a stream has ended, also when another one has started since."""
