"""Quality of service of the node's services and of those who call them."""

from __future__ import annotations

from rclpy.qos import QoSProfile

SERVICE_QOS = QoSProfile(depth=100)
"""Reliable, as usual, but with room for more than ten messages. The answers to all clients of a service reach
each of them: with ten, one is pushed out when its client has no time while ten others are answered."""

ACTION_QOS = {f"{service}_service_qos_profile": SERVICE_QOS for service in ("goal", "result", "cancel")}
