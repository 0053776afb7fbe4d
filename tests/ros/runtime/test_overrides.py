"""Parameters that nobody reads are named, with what was probably meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.ros.node_client import NodeClient
from xsam_ros.runtime.overrides import unknown_parameter_warnings, unused_file_warnings

_KNOWN = ["model", "device", "use_sim_time", "front.image_topic", "front.depth_topic"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("modle", "did you mean 'model'?"),
        ("front.image_topc", "did you mean 'front.image_topic'?"),
        ("frnt.depth_topic", "did you mean 'front.depth_topic'?"),
        ("zzz", "no parameter with a similar name"),
    ],
)
def test_the_nearest_name_is_named(given: str, expected: str) -> None:
    (warning,) = unknown_parameter_warnings(["model", given], _KNOWN)
    assert repr(given) in warning
    assert expected in warning


def test_parameters_of_a_camera_that_is_not_used_are_one_warning() -> None:
    """With `cameras:=front` each of 25 parameters of the file's section "camera" had a line."""
    given = ["camera.image_topic", "camera.depth_topic", "camera.qos", "front.image_topic", "modle"]
    group, misspelled = unknown_parameter_warnings(given, _KNOWN)
    assert "3 parameters of 'camera' have no effect" in group
    assert "there are: 'front'" in group
    assert "'modle'" in misspelled


def test_known_names_are_fine() -> None:
    assert unknown_parameter_warnings(["model", "front.image_topic"], _KNOWN) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        (
            "xsamm:\n  ros__parameters:\n    model: tiny\n",
            "no parameters for node /xsam; its sections: 'xsamm'",
        ),
        ("model: tiny\n", "no parameters for node /xsam; its sections: 'model'"),
    ],
)
def test_a_file_for_nobody(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(text)
    (warning,) = unused_file_warnings(["x", "--ros-args", "--params-file", str(file)], "/xsam", [])
    assert str(file) in warning
    assert expected in warning


def test_a_file_for_this_node(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("/**/xsam:\n  ros__parameters:\n    front:\n      image_topic: /a\n")
    arguments = ["x", "--ros-args", "--params-file", str(file)]
    assert unused_file_warnings(arguments, "/xsam", ["front.image_topic"]) == []


def test_the_node_warns_and_runs(spawn: Callable[..., Any], ros: Any, eventually: Callable[..., Any]) -> None:
    process = spawn(
        "tests/ros/color_node.py",
        params={"cameras": "[front]", "modle": "tiny", "front.image_topc": "/a", "front.qos": "reliable"},
    )
    eventually(lambda: NodeClient(ros).active, "the active state")
    assert "parameter 'modle' is not known and has no effect; did you mean 'model'?" in process.output
    assert "did you mean 'front.image_topic'?" in process.output
    assert "front.qos" not in process.output


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"front.qos": "best"}, "front.qos"),
        ({"front.buffer_mb": 0}, "front.buffer_mb"),
        ({"front.stream_rate_hz": 1e-10}, "rate_hz must be 0"),
        ({"front.qos": 5}, "front.qos"),
        ({"front.frame_override": "/front_optical"}, "begins with a slash"),
        ({"front.image_topic": "/front//image"}, "front.image_topic"),
        ({"front.stream_text": "x" * 3000}, "front.stream_text"),
    ],
)
def test_bad_values_of_cameras_are_found_before_the_model_loads(
    spawn: Callable[..., Any],
    ros: Any,
    eventually: Callable[..., Any],
    params: dict[str, Any],
    message: str,
) -> None:
    process = spawn("tests/ros/color_node.py", params={"cameras": "[front]", "model": "endless", **params})
    eventually(lambda: message in NodeClient(ros).status.last_error, "the reason")
    assert NodeClient(ros).status.state == "unconfigured"
    for wrong in ("loading model", "Traceback", "is not known and has no effect"):
        assert wrong not in process.output


def test_a_missing_file_is_one_line(spawn: Callable[..., Any]) -> None:
    process = spawn("tests/ros/color_node.py", "--ros-args", "--params-file", "/nowhere/my.yaml", exit_code=2)
    assert process.wait() == 2, process.output
    assert "/nowhere/my.yaml" in process.output
    assert "Traceback" not in process.output
