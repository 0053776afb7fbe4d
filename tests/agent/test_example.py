"""The examples run from end to end, with scripted models; the only sockets are those of ROS."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import sys
from pathlib import Path
from types import ModuleType

import cv2
import pytest

import xsam
from tests.agent.table import MASKS, new_frame
from xsam import FakeSegmenter
from xsam.sim import annotate, render, sample_scene

EXAMPLES = Path(__file__).parents[2] / "examples"


def _load(monkeypatch: pytest.MonkeyPatch, segmenter: FakeSegmenter):
    class Loader:
        @staticmethod
        def load(name: str) -> FakeSegmenter:
            assert name == "tiny"
            return segmenter

    monkeypatch.setitem(xsam.__dict__, "XSam", Loader)  # setattr would load the engine
    return _example("agent_in_process")


def _example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_simulated_table(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = sample_scene(7)
    view = render(scene, image_hw=(480, 640))
    name, ids = None, view.instance_ids
    masks: dict[str, list] = {}
    for item in annotate(scene, view):
        name = item.category
        masks.setdefault(name, []).append(ids == item.instance_id)
    example = _load(monkeypatch, FakeSegmenter(masks))
    reply = example.main(find=[name, "unicorn"])
    assert re.match(rf"ok; {name} \(f1[a-z]{{5}}/m1\): ", reply)


def test_image_file_and_absence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "table.png"
    assert cv2.imwrite(str(path), new_frame().rgb)
    example = _load(monkeypatch, FakeSegmenter(MASKS))
    reply = example.main(image=path, find=["the plate"])
    assert re.fullmatch(r"ok; the plate \(f1[a-z]{5}/m1\): center, bottom", reply)
    reply = example.main(image=path, find=["unicorn"])
    assert reply.startswith("no_match; not in this image")


# ------------------------------------------------------------------------------- the robot planner


@pytest.mark.slow
def test_the_planner_grasps_the_requested_object() -> None:
    plan = _example("agent_robot_planner").main("the blue mug")
    assert plan["report"] == "I hold the blue mug."
    assert plan["pose"]["frame"] == "base_link"
    assert len(plan["pose"]["orientation_xyzw"]) == 4


@pytest.mark.parametrize(
    ("request_", "report"), [("the mug", "Several fit 'the mug'"), ("the fork", "I do not see 'the fork'")]
)
@pytest.mark.slow
def test_the_planner_does_not_move_when_it_is_not_sure(request_: str, report: str) -> None:
    plan = _example("agent_robot_planner").main(request_)
    assert plan["report"].startswith(report)
    assert "pose" not in plan


def test_the_gripper_of_the_planner_can_miss() -> None:
    example = _example("agent_robot_planner")
    gripper = example.SimulatedGripper(example.SEED)
    assert gripper.grasp([0.0, 0.0, 0.8]) == ""
    thing = sample_scene(example.SEED).objects[2]
    assert gripper.grasp(list(thing.position_m)) == f"{thing.color} {thing.category}"


# ---------------------------------------------------------------------------------------- ROS, MCP


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.asyncio
async def test_an_agent_and_an_mcp_client_over_ros(monkeypatch: pytest.MonkeyPatch) -> None:
    """Camera, segmenter and MCP server are processes that are connected by DDS only."""
    pytest.importorskip("xsam_ros.client", exc_type=ImportError)
    mcp = pytest.importorskip("mcp")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    example = _example("agent_over_ros")
    arguments = ["-m", "xsam_agent_tools.mcp_server", "--ros", "/xsam", "--mode", "full"]
    with example.running_node() as node:
        reply = await asyncio.to_thread(example.main, node=node, find=["mug"])
        assert re.match(r"ok; mug \(f1[a-z]{5}/m1\): ", reply)
        server = mcp.StdioServerParameters(command=sys.executable, args=arguments, env=dict(os.environ))
        async with mcp.Client(server, read_timeout_seconds=120) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            cameras = tools["segment_objects"].input_schema["properties"]["camera"]["enum"]
            found = (await client.call_tool("segment_objects", {"queries": ["mug"]})).structured_content
            ids = {"object_ids": [found["objects"][0]["id"]]}
            located = (await client.call_tool("locate_objects_3d", ids)).structured_content
            status = (await client.call_tool("perception_status", {})).structured_content
    assert cameras == ["table"]  # as the node says
    assert (found["status"], found["camera"]) == ("ok", "table")
    assert 0.3 < located["objects"][0]["distance_m"] < 2.0  # measured by the node
    assert status["state"] == "active"
