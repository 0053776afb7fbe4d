"""The reason why nothing arrives, from the publishers that are really there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from xsam import NoFrameError
from xsam_ros.cameras.camera import CameraBuffer
from xsam_ros.cameras.subscriptions import CameraSubscriptions, create_camera_buffer

Eventually = Callable[..., Any]
_RELIABLE, _BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT
_VOLATILE, _LATCHED = DurabilityPolicy.VOLATILE, DurabilityPolicy.TRANSIENT_LOCAL


@contextmanager
def _camera(ros: Any, name: str, **parameters: Any) -> Iterator[CameraBuffer]:
    for key, value in parameters.items():
        ros.node.declare_parameter(f"{name}.{key}", value)
    buffer = create_camera_buffer(ros.node, name)
    subscriptions = CameraSubscriptions(ros.node, buffer)
    try:
        yield buffer
    finally:
        subscriptions.destroy()
        assert buffer.statistics().image.problem == ""


@pytest.mark.parametrize(
    ("name", "message_type", "reliability", "parameters", "problem"),
    [
        (
            "one",
            CompressedImage,
            _RELIABLE,
            {},
            "/one/image_raw is published as sensor_msgs/msg/CompressedImage, not as sensor_msgs/msg/Image: "
            "set one.compressed: true",
        ),
        (
            "two",
            Image,
            _RELIABLE,
            {"compressed": True, "image_topic": "/two/image_raw"},
            "/two/image_raw is published as sensor_msgs/msg/Image, not as sensor_msgs/msg/CompressedImage: "
            "set two.compressed: false",
        ),
        (
            "three",
            CameraInfo,
            _RELIABLE,
            {},
            "published as sensor_msgs/msg/CameraInfo, not as sensor_msgs/msg/Image: check three.image_topic",
        ),
        (
            "four",
            Image,
            _BEST_EFFORT,
            {"qos": "reliable"},
            "is best effort, and reliable is requested (RELIABILITY): set four.image_qos: sensor_data",
        ),
        ("five", Image, _RELIABLE, {}, "a compatible publisher that has not sent anything yet"),
    ],
)
def test_a_publisher_that_does_not_fit(
    ros: Any,
    module_ros: Any,
    eventually: Eventually,
    name: str,
    message_type: Any,
    reliability: Any,
    parameters: dict[str, Any],
    problem: str,
) -> None:
    """A publisher was there, with another type or policy, and the message said: is its driver running?"""
    qos = QoSProfile(depth=1, reliability=reliability)
    publisher = module_ros.node.create_publisher(message_type, f"/{name}/image_raw", qos)
    with _camera(ros, name, **parameters) as buffer:
        eventually(lambda: problem in buffer.statistics().image.problem, problem)
        with pytest.raises(NoFrameError) as caught:
            buffer.newest_frame(max_age_s=1.0, max_side_px=100)
        assert problem in caught.value.message
    module_ros.node.destroy_publisher(publisher)


@pytest.mark.parametrize(
    ("name", "durability", "kind", "value"),
    [("info_a", _LATCHED, "reliable", "latched"), ("info_b", _VOLATILE, "latched", "reliable")],
)
def test_durability_of_the_camera_info(
    ros: Any, module_ros: Any, eventually: Eventually, name: str, durability: Any, kind: str, value: str
) -> None:
    qos = QoSProfile(depth=1, durability=durability)
    publisher = module_ros.node.create_publisher(CameraInfo, f"/{name}/info", qos)
    with _camera(ros, name, info_topic=f"/{name}/info", info_qos=kind) as buffer:
        info = buffer.info
        assert info is not None
        eventually(lambda: f"set {name}.info_qos: {value}" in info.statistics().problem, "the reason")
    module_ros.node.destroy_publisher(publisher)


def test_nobody_publishes(ros: Any, module_ros: Any, eventually: Eventually) -> None:
    """The topic that was meant is named."""
    publisher = module_ros.node.create_publisher(Image, "/wrist/color/image_raw", 1)
    with _camera(ros, "wrist") as buffer:
        eventually(lambda: "/wrist/color/image_raw" in buffer.statistics().image.problem, "the other topic")
        assert "nobody publishes on /wrist/image_raw" in buffer.statistics().image.problem
        assert "wrist.image_topic" in buffer.statistics().image.problem
    module_ros.node.destroy_publisher(publisher)


def test_two_publishers_on_one_topic(ros: Any, module_ros: Any, eventually: Eventually) -> None:
    publishers = [module_ros.node.create_publisher(Image, "/twice/image_raw", 1) for _ in range(2)]
    with _camera(ros, "twice") as buffer:

        def said() -> bool:
            publishers[0].publish(Image())
            return "2 publishers send to /twice/image_raw" in buffer.statistics().image.problem

        eventually(said, "the two publishers")
    for publisher in publishers:
        module_ros.node.destroy_publisher(publisher)
