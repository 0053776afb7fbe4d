"""The MCP server over a running node, as `--ros` starts it: pictures, earlier images, every camera."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("mcp")

from mcp import Client, StdioServerParameters

from tests.ros.conftest import ROOT, eventually
from tests.ros.node_client import NodeClient

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def node(module_ros: Any, module_spawn: Callable[..., Any]) -> None:
    for module in ("xsam_ros.camera_sim", "xsam_ros.segmenter_node"):
        module_spawn("-m", module, "--ros-args", "--params-file", "config/demo.yaml")
    client = NodeClient(module_ros)
    eventually(lambda: client.status.cameras and client.status.cameras[0].frames, "a frame", 60.0)


def test_the_server_over_a_node(node: None) -> None:
    """One of the demo's two cameras is not running: it is named, and costs the other one nothing."""
    arguments = ["-m", "xsam_agent_tools.mcp_server", "--ros", "/xsam", "--mode", "full"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    server = StdioServerParameters(
        command=sys.executable, args=arguments, cwd=str(ROOT), env={**os.environ, "PYTHONPATH": path}
    )

    async def main() -> None:
        async with Client(server) as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
            assert {"show_camera", "refine_object"} <= names

            async def call(name: str, **arguments: Any) -> tuple[dict[str, Any], int]:
                result = await client.call_tool(name, arguments)
                text, *pictures = result.content
                return json.loads(text.text), len(pictures)

            for _ in range(20):  # the first image comes when the new subscription has found its publisher
                if (await call("show_camera", camera="table"))[1]:
                    break
                await asyncio.sleep(0.5)
            found, pictures = await call("segment_objects", queries=["cup"], camera="all")
            assert found["status"] in ("ok", "unsure")
            assert pictures == 1
            table, moving = found["cameras"]
            assert (table["camera"], moving["camera"], moving["status"]) == ("table", "moving", "error")
            assert moving["code"] == "NO_FRAME"
            assert "not searched: moving" in found["hint"]
            again, pictures = await call("segment_objects", queries=["book"], image_id=table["image_id"])
            assert (again["image_id"], pictures) == (table["image_id"], 1)
            x, y = found["objects"][0]["center_xy"]
            marks = [{"type": "point", "x": x, "y": y}]
            refined, _ = await call("refine_object", object_id=found["objects"][0]["id"], add=marks)
            assert refined["parent"] == found["objects"][0]["id"]
            assert (await call("show_camera", camera="table"))[1] == 1

    asyncio.run(asyncio.wait_for(main(), 150.0))
