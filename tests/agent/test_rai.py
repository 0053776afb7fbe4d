"""The tools in Robotec's real RAI; runs where `rai-core` is installed.

`test_frameworks.py` has RAI's contract for everywhere else.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("rai.agents.langchain.core", exc_type=ImportError)

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from rai.agents.langchain.core import ToolRunner, create_conversational_agent
from rai.messages import HumanMultimodalMessage

from support.scripted_model import ScriptedModel, tool_call
from tests.agent.table import as_call
from tests.agent.test_standard import EXAMPLES
from xsam_agent_tools.text.pictures import PictureSettings
from xsam_agent_tools.tools import BUILDERS

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _artifacts_go_to_a_folder_of_the_test(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def searched(make_tools, table, call):
    """Make all tools with images, after a search that found mugs."""
    png = PictureSettings(format="png")
    tools = make_tools(segmenter=table, frame_source=table.frame, images="tool", pictures=png)
    call(tools["segment_objects"], queries=["mug", "unicorn"])
    return tools


@pytest.mark.parametrize("name", BUILDERS)
def test_the_tool_runner_accepts_every_result(searched, name: str) -> None:
    message = AIMessage("", tool_calls=[as_call(searched[name], EXAMPLES[name])])
    messages = ToolRunner(list(searched.values())).invoke({"messages": [message]})["messages"]
    (result,) = [m for m in messages if isinstance(m, ToolMessage)]
    assert result.status == "success", result.content
    shown = [m for m in messages if isinstance(m, HumanMultimodalMessage)]
    assert len(shown) == (0 if name in ("report_not_found", "perception_status") else 1)
    text = result.content if isinstance(result.content, str) else result.content[0]["text"]
    assert json.loads(text)["status"] in ("ok", "no_match")


def _count_mugs(messages: list[Any]) -> AIMessage:
    """Search for mugs, then report how many tool results and images came."""
    results = sum(isinstance(m, ToolMessage) for m in messages)
    if not results:
        return tool_call("segment_objects", queries=["mug"])
    images = sum(isinstance(m, HumanMultimodalMessage) for m in messages)
    return AIMessage(f"done after {results} result and {images} image")


def test_a_rai_agent_sees(make_tools, table) -> None:
    tools = make_tools(segmenter=table, frame_source=table.frame, images="tool")
    agent = create_conversational_agent(
        ScriptedModel(policy=_count_mugs), list(tools.values()), system_prompt="You see."
    )
    state = agent.invoke({"messages": [HumanMessage("How many mugs are there?")]})
    assert state["messages"][-1].content == "done after 1 result and 1 image"
