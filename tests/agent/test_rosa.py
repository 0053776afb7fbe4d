"""NASA's ROSA with the tools, for real; runs where `jpl-rosa` is installed (it wants LangChain 0.3).

`test_frameworks.py` has ROSA's contract for everywhere else.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("rosa")

import rosa
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from xsam_agent_tools.tools import BUILDERS


class RosaPlanner(BaseChatModel):
    """Looks for mugs, locates the first one, and says where it is."""

    offered: list[str] = []  # noqa: RUF012

    def bind_tools(self, tools: Any, **_: Any) -> RosaPlanner:
        self.offered[:] = [tool.name for tool in tools]
        return self

    def _generate(self, messages: Any, *_: Any, **__: Any) -> ChatResult:
        answers = [json.loads(m.content) for m in messages if isinstance(m, ToolMessage)]
        if not answers:
            reply = _call("segment_objects", queries=["mug"])
        elif len(answers) == 1:
            reply = _call("locate_objects_3d", object_ids=[answers[0]["objects"][0]["id"]])
        else:
            reply = AIMessage(f"{answers[1]['objects'][0]['position_m']}")
        return ChatResult(generations=[ChatGeneration(message=reply)])

    @property
    def _llm_type(self) -> str:
        return "scripted"


def _call(name: str, **arguments: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": name}])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("streaming", [False, True])
def test_a_rosa_agent_sees(sim_tools, table, streaming: bool) -> None:
    model = RosaPlanner(offered=[])
    agent = rosa.ROSA(
        ros_version=2, llm=model, tools=list(sim_tools.values()), blacklist=["/secret"], streaming=streaming
    )
    reply = agent.invoke("Where is a mug?")
    assert set(BUILDERS) <= set(model.offered)  # ROSA drops what is no tool to it without a word
    (mug, *_) = [item for item in table.items if item.category == "mug"]
    x, y, z = mug.position_camera_m
    position = json.loads(reply.replace("'", '"'))
    assert position == pytest.approx({"x": x, "y": y, "z": z}, abs=0.01)
