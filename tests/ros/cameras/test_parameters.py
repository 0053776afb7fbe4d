"""Parameters of cameras: what is refused, and the YAML files for common cameras."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import rclpy
import yaml
from rcl_interfaces.srv import DescribeParameters
from rclpy.parameter import Parameter

from xsam_ros.cameras.camera import CameraTopics
from xsam_ros.cameras.parameters import CameraParameters
from xsam_ros.node.parameters import NodeParameters, invalid_reason, validator
from xsam_ros.runtime.parameters import declare, read

_CONFIG = Path(__file__).resolve().parents[3] / "config"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_topic", ""),
        ("image_topic", "/camera/color/image_raw"),
        ("depth_topic", "~/depth"),
        ("info_topic", "camera_info"),
        ("info_qos", "latched"),
        ("image_qos", ""),
        ("sync_tolerance_s", 0),
        ("max_depth_lag_s", 2.0),
        ("memory", "off"),
        ("memory", False),  # as YAML reads off
        ("memory_mb", 0),
        ("target_frame", "robot1/base_link"),
        ("frame_override", "camera-2.color_optical_frame"),
    ],
)
def test_right_values(name: str, value: object) -> None:
    assert invalid_reason(name, value) == ""


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("image_topic", "/no spaces", "must not contain characters"),
        ("depth_topic", "/ends/", "must not end with"),
        ("info_topic", "1st", "must not start with a number"),
        ("image_topic", 3, "expected str"),
        ("image_topic", "/front//image", "repeated"),
        ("image_topic", "/" + "a" * 300, "255"),
        ("image_topic", "{nothing}/image", "nothing"),
        ("compressed", "jpeg", "expected bool"),
        ("qos", "", "sensor_data, reliable"),
        ("image_qos", "latched", "'' (empty), sensor_data, reliable"),
        ("sync_tolerance_s", -0.01, "0.0 to 1.0 s"),
        ("max_depth_lag_s", 2.5, "0.0 to 2.0 s"),
        ("buffer_mb", 0, "1 to 4096 MB"),
        ("memory", "on", "expected one of auto, off, got 'on'"),
        ("memory", True, "expected str, got True"),
        ("memory_mb", -1, "0 to 1048576 MB"),
        ("memory_refresh_frames", 1.5, "expected int"),
        (
            "target_frame",
            "/map",
            "the frame '/map' begins with a slash; names of frames in TF have none, as in 'map'",
        ),
        ("frame_override", "/camera_optical", "begins with a slash"),
        ("target_frame", "base link", "white space"),
        ("target_frame", "map\n", "white space"),
        ("frame_override", "lens\0", "cannot be printed"),
        ("target_frame", "m" * 100_000, "has 100000 characters, at most 256 are allowed"),
    ],
)
def test_wrong_values(name: str, value: object, expected: str) -> None:
    reason = invalid_reason(name, value)
    assert expected in reason
    assert "\n" not in reason


def test_on_a_node(ros: Any) -> None:
    """The tolerance may change while the node runs; topics and memory only while it is unconfigured."""
    ros.node.add_on_set_parameters_callback(validator(lambda: False))
    declare(ros.node, CameraParameters, prefix="front.")

    def put(name: str, value: Any) -> Any:
        return ros.node.set_parameters([Parameter(f"front.{name}", value=value)])[0]

    assert put("sync_tolerance_s", 0.05).successful
    assert read(ros.node, CameraParameters, prefix="front.").sync_tolerance_s == 0.05
    for name, value in (("depth_topic", "/d"), ("buffer_mb", 3), ("compressed", True)):
        refused = put(name, value)
        assert not refused.successful
        assert refused.reason.startswith(f"front.{name}: it can only change while the node is unconfigured")
    assert not put("sync_tolerance_s", 5.0).successful
    name = f"{ros.node.get_fully_qualified_name()}/describe_parameters"
    request = DescribeParameters.Request(names=["front.info_qos", "front.max_depth_lag_s"])
    quality, lag = ros.call(DescribeParameters, name, request).descriptors
    assert "latched" in quality.additional_constraints
    assert (lag.floating_point_range[0].from_value, lag.floating_point_range[0].to_value) == (0.0, 2.0)
    assert "[unit: s]" in lag.description


def test_an_empty_list_of_cameras(ros: Any) -> None:
    """An empty list in YAML has no type; the node once ended with an exception of rclpy."""
    node = rclpy.create_node("no_cameras", context=ros.context, cli_args=["--ros-args", "-p", "cameras:=[]"])
    try:
        node.add_on_set_parameters_callback(validator(lambda: True))
        declare(node, NodeParameters)
        assert read(node, NodeParameters).cameras == ()
        assert not node.set_parameters([Parameter("cameras", value=3)])[0].successful
        assert node.set_parameters([Parameter("cameras", value=["front"])])[0].successful
        assert read(node, NodeParameters).cameras == ("front",)
    finally:
        node.destroy_node()


@pytest.mark.parametrize("value", ["off", "'off'"])
def test_the_word_off(ros: Any, value: str) -> None:
    """YAML reads off as false, on the command line and in files."""
    given = ["--ros-args", "-p", f"memory:={value}"]
    node = rclpy.create_node("forgetful", context=ros.context, cli_args=given)
    try:
        node.add_on_set_parameters_callback(validator(lambda: True))
        declare(node, NodeParameters)
        assert read(node, NodeParameters).memory == "off"
        assert node.set_parameters([Parameter("memory", value="auto")])[0].successful
        assert read(node, NodeParameters).memory == "auto"
        assert not node.set_parameters([Parameter("memory", value=True)])[0].successful
    finally:
        node.destroy_node()


@pytest.mark.parametrize("path", sorted(_CONFIG.glob("camera_*.yaml")), ids=lambda path: path.stem)
def test_the_files_for_common_cameras(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# ")
    parameters = yaml.safe_load(text)["/**"]["ros__parameters"]
    assert parameters.pop("use_sim_time", True) is True
    names = parameters.pop("cameras")
    assert invalid_reason("cameras", names) == ""
    for name in names:
        camera = parameters.pop(name)
        assert set(camera) <= {row.name for row in fields(CameraParameters)}
        for key, value in camera.items():
            assert invalid_reason(key, value) == "", key
        topics = CameraTopics.from_parameters(name, CameraParameters(**camera))
        assert len({topics.image, topics.depth, topics.info} - {""}) == (3 if topics.depth else 1)
    assert set(parameters) <= {row.name for row in fields(NodeParameters)}


def test_the_main_file_names_them() -> None:
    main = (_CONFIG / "xsam.yaml").read_text()
    assert [path.name for path in _CONFIG.glob("camera_*.yaml") if path.name not in main] == []
