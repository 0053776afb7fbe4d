"""Robotec's RAI with the tools, for real; runs where `rai-core` is installed.

`test_frameworks.py` has RAI's contract for everywhere else.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("rai.agents.langchain.core", exc_type=ImportError)

from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from rai.agents.langchain.core import ToolRunner, create_conversational_agent
from rai.messages import HumanMultimodalMessage

from tests.agent.table import as_call
from tests.agent.test_standard import EXAMPLES
from xsam_agent_tools.tools import BUILDERS

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _artifacts_go_to_a_folder_of_the_test(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def searched(make_tools, table, call):
    """All tools with pictures, after a look that found mugs."""
    tools = make_tools(segmenter=table, frame_source=table.frame, images="tool")
    call(tools["segment_objects"], queries=["mug"])
    return tools


@pytest.mark.parametrize("name", BUILDERS)
def test_the_tool_runner_takes_every_answer(searched, name: str) -> None:
    message = AIMessage("", tool_calls=[as_call(searched[name], EXAMPLES[name])])
    messages = ToolRunner(list(searched.values())).invoke({"messages": [message]})["messages"]
    (answer,) = [m for m in messages if isinstance(m, ToolMessage)]
    assert answer.status == "success", answer.content
    shown = [m for m in messages if isinstance(m, HumanMultimodalMessage)]
    assert len(shown) == (0 if name in ("report_not_found", "perception_status") else 1)
    text = answer.content if isinstance(answer.content, str) else answer.content[0]["text"]
    assert json.loads(text)["status"] in ("ok", "no_match")


class RaiPlanner(GenericFakeChatModel):
    """Looks for mugs and counts them."""

    messages: Any = iter(())

    def bind_tools(self, tools: Any, **_: Any) -> RaiPlanner:
        return self

    def _generate(self, messages: Any, *_: Any, **__: Any) -> ChatResult:
        answers = [m for m in messages if isinstance(m, ToolMessage)]
        reply = AIMessage(
            "", tool_calls=[{"name": "segment_objects", "args": {"queries": ["mug"]}, "id": "1"}]
        )
        if answers:
            pictures = sum(isinstance(m, HumanMultimodalMessage) for m in messages)
            reply = AIMessage(f"done after {len(answers)} answer and {pictures} picture")
        return ChatResult(generations=[ChatGeneration(message=reply)])


def test_a_rai_agent_sees(make_tools, table) -> None:
    tools = make_tools(segmenter=table, frame_source=table.frame, images="tool")
    agent = create_conversational_agent(RaiPlanner(), list(tools.values()), system_prompt="You see.")
    state = agent.invoke({"messages": [HumanMessage("How many mugs are there?")]})
    assert state["messages"][-1].content == "done after 1 answer and 1 picture"
