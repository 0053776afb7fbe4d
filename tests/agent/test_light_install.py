"""`pip install xsam[agent]` installs no PyTorch, ROS, LangGraph or MCP: the tools work without them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # the file takes several seconds

ROOT = Path(__file__).parents[2]
ABSENT = (
    *("torch", "transformers", "tokenizers", "safetensors"),
    *("rclpy", "xsam_ros", "sensor_msgs", "langgraph", "langchain", "mcp", "mcp_types", "starlette"),
)
PROGRAM = """
import asyncio, json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from xsam.sim.oracle import SimulatedTable
from xsam_agent_tools import XSamToolkit

table = SimulatedTable(2000012, image_hw=(240, 320))
toolkit = XSamToolkit(table, ["front"], mode="full", images="user", frame_source=table.frame)
tools = {tool.name: tool for tool in toolkit.get_tools()}
found = json.loads(tools["segment_objects"].invoke({"queries": ["mug"]}))
ids = [item["id"] for item in found["objects"]]
again = json.loads(asyncio.run(tools["locate_objects_3d"].ainvoke({"object_ids": ids})))
print(json.dumps([found["status"], again["status"], len(tools)]))
"""


def _run(program: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", f"ABSENT = {ABSENT!r}\n{program}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)


def test_all_tools_work_with_the_extra_agent_alone() -> None:
    run = _run(PROGRAM)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == ["ok", "ok", 13]


@pytest.mark.parametrize("module", ["xsam_agent_tools.middleware", "xsam_agent_tools.mcp_server"])
def test_what_needs_another_extra_says_which_module_is_missing(module: str) -> None:
    run = _run(PROGRAM.partition("from xsam.sim")[0] + f"import {module}")
    assert run.returncode == 1
    assert "ModuleNotFoundError: No module named" in run.stderr
