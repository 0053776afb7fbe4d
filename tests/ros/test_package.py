"""Files of the ROS package that must agree with each other or with the code."""

from __future__ import annotations

import ast
import os
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from xsam import __version__
from xsam_ros.cameras.parameters import CameraParameters
from xsam_ros.node.parameters import NodeParameters, invalid_reason
from xsam_ros.runtime.parameters import Change

ROOT = Path(__file__).resolve().parents[2]
INTERFACES = sorted([*ROOT.glob("msg/*.msg"), *ROOT.glob("srv/*.srv"), *ROOT.glob("action/*.action")])


def test_versions_agree() -> None:
    assert ElementTree.parse(ROOT / "package.xml").findtext("version") == __version__


def test_every_interface_is_built() -> None:
    listed = re.findall(r'"((?:msg|srv|action)/\w+\.\w+)"', (ROOT / "CMakeLists.txt").read_text())
    assert sorted(listed) == [str(path.relative_to(ROOT)) for path in INTERFACES]


@pytest.mark.parametrize("path", INTERFACES, ids=lambda path: path.name)
def test_interfaces_are_explained(path: Path) -> None:
    """Each file begins with its purpose; numeric fields carry a comment with unit or meaning."""
    text = path.read_text()
    assert text.startswith("# ")
    numbers = [
        line for line in text.splitlines() if re.match(r"(float|u?int)\d+ \w+ *[^=]*$", line.split("#")[0])
    ]
    for line in numbers:
        if not re.match(r"uint8 (task|kind|status) 0", line):
            assert "#" in line, f"{path.name}: {line}"


def test_the_package_needs_nothing_of_this_environment() -> None:
    for name in ("package.xml", "CMakeLists.txt"):
        text = (ROOT / name).read_text()
        for word in ("venv", "site-packages", "/opt/", "/home/", "/root/"):
            assert word not in text, f"{name}: {word}"


def test_dependencies_are_declared() -> None:
    """Everything the code imports from ROS must be in package.xml; the pip environment would not notice."""
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    declared = {element.text for element in package if element.tag.endswith("depend")}
    used = set()
    for path in [*ROOT.glob("xsam_ros/**/*.py"), *ROOT.glob("launch/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                used.add(node.module.split(".")[0])
            elif isinstance(node, ast.Import):
                used.update(alias.name.split(".")[0] for alias in node.names)
    ros = {name for name in used if name.endswith(("_msgs", "_interfaces", "launch", "launch_ros", "rclpy"))}
    assert ros <= declared | {"builtin_interfaces"}, ros - declared


@pytest.mark.parametrize("name", ["xsam_node", "xsam_camera_sim", "xsam_page"])
def test_programs_can_be_run(name: str) -> None:
    path = ROOT / "scripts" / name
    assert path.read_text().startswith("#!/usr/bin/env python3\n")
    assert os.access(path, os.X_OK)


def test_the_yaml_has_the_defaults() -> None:
    parameters = yaml.safe_load((ROOT / "config" / "xsam.yaml").read_text())["/**"]["ros__parameters"]
    camera = parameters.pop("camera")
    expected = {row.name: row.default for row in fields(NodeParameters)}
    assert {**parameters, "cameras": tuple(parameters["cameras"])} == expected
    assert camera == {row.name: row.default for row in fields(CameraParameters)}


def test_the_demo_uses_parameters_that_exist() -> None:
    demo = yaml.safe_load((ROOT / "config" / "demo.yaml").read_text())
    node = demo["/**/xsam"]["ros__parameters"]
    cameras = {name: node.pop(name) for name in list(node) if name in node["cameras"]}
    for name, value in [*node.items(), *(item for camera in cameras.values() for item in camera.items())]:
        assert invalid_reason(name, value) == "", name
    assert set(cameras) == set(node["cameras"])


@pytest.mark.parametrize(
    "row", [*fields(NodeParameters), *fields(CameraParameters)], ids=lambda row: row.name
)
def test_every_parameter_is_documented_and_bounded(row: Any) -> None:
    spec = row.metadata["spec"]
    assert spec.description.endswith((".", ", ..."))
    default = list(row.default) if isinstance(row.default, tuple) else row.default
    assert invalid_reason(row.name, default) == ""
    if type(row.default) in (int, float):
        assert type(spec.minimum) is type(spec.maximum) is type(row.default), (
            "messages take the exact type only"
        )
        assert invalid_reason(row.name, type(row.default)(spec.maximum + 1)) != ""
        assert invalid_reason(row.name, type(row.default)(spec.minimum - 1)) != ""
    if row.name.endswith(("_s", "_px", "_hz")):
        assert spec.unit == row.name.rsplit("_", 1)[1].replace("hz", "Hz")
    assert spec.change in Change


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", 3),
        ("autostart", 1),
        ("queue_size", True),
        ("queue_size", 0),
        ("default_timeout_s", "30"),
        ("default_timeout_s", float("nan")),
        ("default_timeout_s", True),
        ("dtype", "float8"),
        ("qos", "fast"),
        ("cameras", "front"),
        ("cameras", [1]),
        ("cameras", ["front", "front"]),
        ("cameras", ["model"]),
        ("cameras", ["../etc"]),
        ("cameras", ["Front"]),
        ("cameras", [""]),
        ("cameras", ["a" * 33]),
    ],
)
def test_wrong_values(name: str, value: object) -> None:
    assert invalid_reason(name, value) != ""


def test_an_integer_will_do_for_seconds() -> None:
    assert invalid_reason("default_timeout_s", 30) == ""


def test_no_cameras() -> None:
    assert invalid_reason("cameras", None) == ""


def test_the_dds_profile_is_sound() -> None:
    root = ElementTree.parse(ROOT / "config" / "fastdds_large_images.xml").getroot()
    space = {"d": "http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles"}
    defined = {item.text for item in root.findall(".//d:transport_descriptor/d:transport_id", space)}
    used = {item.text for item in root.findall(".//d:userTransports/d:transport_id", space)}
    assert used == defined
