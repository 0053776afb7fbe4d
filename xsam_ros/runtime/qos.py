"""Quality of service of the node's services and of their clients."""

from __future__ import annotations

from rclpy.qos import QoSProfile

SERVICE_QOS = QoSProfile(depth=100)
"""Reliable, as usual, but with room for more than ten messages. The responses to all clients of a service
reach each of them: with a depth of ten, a client that is busy while ten others get theirs would lose its
own."""

ACTION_QOS = {f"{service}_service_qos_profile": SERVICE_QOS for service in ("goal", "result", "cancel")}
