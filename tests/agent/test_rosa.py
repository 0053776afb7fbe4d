"""The tools in NASA's real ROSA; runs where `jpl-rosa` is installed (it needs LangChain 0.3).

`test_frameworks.py` has ROSA's contract for everywhere else.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("rosa")

import rosa
from langchain_core.messages import AIMessage, ToolMessage

from support.scripted_model import ScriptedModel, tool_call
from xsam_agent_tools.tools import BUILDERS


def _locate_a_mug(messages: list[Any]) -> AIMessage:
    """Search for mugs, locate the first one, and report its position."""
    results = [json.loads(m.content) for m in messages if isinstance(m, ToolMessage)]
    if not results:
        return tool_call("segment_objects", queries=["mug"])
    if len(results) == 1:
        return tool_call("locate_objects_3d", object_ids=[results[0]["objects"][0]["id"]])
    return AIMessage(f"{results[1]['objects'][0]['position_m']}")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("streaming", [False, True])
def test_a_rosa_agent_sees(sim_tools, table, streaming: bool) -> None:
    model = ScriptedModel(policy=_locate_a_mug)
    agent = rosa.ROSA(
        ros_version=2, llm=model, tools=list(sim_tools.values()), blacklist=["/secret"], streaming=streaming
    )
    reply = agent.invoke("Where is a mug?")
    bound = {tool.name for tool in model.bound_tools}
    assert bound >= set(BUILDERS)  # ROSA drops a tool that it does not accept without any message
    (mug, *_) = [item for item in table.items if item.category == "mug"]
    x, y, z = mug.position_camera_m
    position = json.loads(reply.replace("'", '"'))
    assert position == pytest.approx({"x": x, "y": y, "z": z}, abs=0.01)
