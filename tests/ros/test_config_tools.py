"""Files for other tools (RViz, Foxglove, SROS 2) name topics and services that a running node really has."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import domain_coordinator
import pytest
import rclpy
import yaml
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter

from tests.ros.color_node import ColorEngine
from xsam_ros.node.node import SegmenterNode
from xsam_ros.publishers.camera import TOPICS

_CONFIG = Path(__file__).resolve().parents[2] / "config"
_CAMERA_TOPICS = {f"/xsam/camera/{name}" for name in TOPICS}
_SYSTEM_TOPICS = {"/diagnostics", "/parameter_events", "/rosout", "/xsam/transition_event"}


def _strings(value: Any) -> list[str]:
    """Return all strings in a YAML or JSON document, keys included."""
    if isinstance(value, dict):
        return [text for pair in value.items() for item in pair for text in _strings(item)]
    if isinstance(value, list):
        return [text for item in value for text in _strings(item)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("name", ["xsam.rviz", "foxglove_layout.json"])
def test_displays_show_topics_of_the_demo(name: str) -> None:
    text = (_CONFIG / name).read_text()
    document = json.loads(text) if name.endswith("json") else yaml.safe_load(text)
    demo = yaml.safe_load((_CONFIG / "demo.yaml").read_text())["/**/xsam"]["ros__parameters"]
    topics = {
        item.split(".")[0] for item in _strings(document) if item.startswith(("/xsam/", "/diagnostics"))
    }
    assert topics, "it shows nothing"
    existing = {f"/xsam/{camera}/{topic}" for camera in demo["cameras"] for topic in TOPICS}
    assert topics - existing - {"/diagnostics"} == set()
    shown = {topic.split("/")[2] for topic in topics & existing}
    assert [name for name in shown if not demo[name].get("stream_text")] == [], "nothing would be published"


@pytest.fixture
def active_node() -> Iterator[SegmenterNode]:
    """An active node with one camera, in the test's process and in a domain of its own.

    Its lifecycle services stay on the network until the garbage collector finds them; other tests must not
    take them for those of their node.
    """
    overrides = {"autostart": False, "cameras": ["camera"]}
    context = rclpy.Context()
    with domain_coordinator.domain_id() as domain:
        rclpy.init(args=[], context=context, domain_id=domain)
        node = SegmenterNode(
            context=context,
            engine_factory=lambda _: ColorEngine(),
            parameter_overrides=[Parameter(name, value=value) for name, value in overrides.items()],
        )
        try:
            assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
            assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
            yield node
        finally:
            node.stop()
            node.destroy_node()
            rclpy.try_shutdown(context=context)


def _allowed(path: str) -> set[str]:
    """Return the names that the policy allows the segmenter node."""
    profile = ET.parse(_CONFIG / "sros2_policy.xml").getroot().find(".//profile[@node='xsam']")
    assert profile is not None
    return {item.text or "" for item in profile.findall(path)}


def _used(names_and_types: list[tuple[str, list[str]]]) -> tuple[set[str], set[str]]:
    """Split names into plain ones and those of actions, which the policy lists separately."""
    names = {name for name, _ in names_and_types}
    plain = {name for name in names if "/_action/" not in name}
    return plain, {name.split("/_action/")[0] for name in names - plain}


def test_the_policy_allows_what_the_node_uses_and_nothing_else(
    active_node: SegmenterNode, eventually: Callable[..., Any]
) -> None:
    assert ET.parse(_CONFIG / "sros2_policy.xml").getroot().get("version") == "0.2.0"
    of_node = active_node.get_name(), active_node.get_namespace()

    def published() -> set[str]:
        return _used(active_node.get_publisher_names_and_types_by_node(*of_node))[0]

    eventually(lambda: "/diagnostics" in published(), "the node's publishers")
    allowed = _allowed("topics[@publish='ALLOW']/topic")
    assert allowed == _CAMERA_TOPICS | _SYSTEM_TOPICS
    assert published() <= allowed
    subscribed, _ = _used(active_node.get_subscriber_names_and_types_by_node(*of_node))
    assert "/camera/image_raw" in subscribed
    assert subscribed <= _allowed("topics[@subscribe='ALLOW']/topic")
    served, actions = _used(active_node.get_service_names_and_types_by_node(*of_node))
    assert "/xsam/segment" in served
    from_jazzy_on = {"/xsam/get_type_description"}
    assert served | from_jazzy_on == _allowed("services[@reply='ALLOW']/service")
    assert actions == _allowed("actions[@execute='ALLOW']/action")
