"""Files for other tools (RViz, Foxglove, SROS 2) name topics and services that the nodes have."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import yaml

_CONFIG = Path(__file__).resolve().parents[2] / "config"
_SOURCE = _CONFIG.parent / "xsam_ros"
_OTHER_TOPICS = {"/diagnostics", "/clock", "/tf", "/tf_static", "/parameter_events", "/rosout"}


def _outputs() -> set[str]:
    """Names behind `~/<camera>/`, as the node creates them."""
    source = (_SOURCE / "publishers" / "camera_outputs.py").read_text()
    return set(re.findall(r'self\._publisher\([\w ]+, "([\w/]+)"', source))


def _strings(value: Any) -> list[str]:
    """All texts of a YAML or JSON document, keys as well."""
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
    existing = {f"/xsam/{camera}/{output}" for camera in demo["cameras"] for output in _outputs()}
    assert topics - existing - _OTHER_TOPICS == set()
    shown = {topic.split("/")[2] for topic in topics & existing}
    assert [name for name in shown if not demo[name].get("stream_text")] == [], "nothing would come"


def test_the_policy_allows_all_topics_and_services_and_no_others() -> None:
    policy = ET.parse(_CONFIG / "sros2_policy.xml").getroot()
    assert policy.get("version") == "0.2.0"
    profile = policy.find(".//profile[@node='xsam']")
    assert profile is not None
    published = {item.text or "" for item in profile.findall("topics[@publish='ALLOW']/topic")}
    assert {f"/xsam/camera/{output}" for output in _outputs()} <= published
    others = {f"/xsam/camera/{output}" for output in _outputs()} | _OTHER_TOPICS | {"/xsam/transition_event"}
    assert published - others == set()
    served = {item.text or "" for item in profile.findall("services[@reply='ALLOW']/service")}
    created = set(re.findall(r'"~/(\w+)"', (_SOURCE / "node" / "node.py").read_text()))
    assert created
    assert {f"/xsam/{name}" for name in created} <= served
