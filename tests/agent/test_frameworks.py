"""Contracts of frameworks that accept LangChain tools, written out because they may not be installed."""

from __future__ import annotations

import functools
import inspect
import json
import pickle
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import StructuredTool, ToolException
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.prebuilt import ToolNode

from tests.agent.conftest import IN_A_THREAD
from tests.agent.table import as_call, assert_plain
from tests.agent.test_standard import EXAMPLES
from xsam_agent_tools.text.pictures import PictureSettings
from xsam_agent_tools.tools import BUILDERS


@pytest.fixture
def searched(make_tools, table, call):
    """Return a function that makes all tools, after a search that found mugs."""

    def make(images: str = "none", **settings: Any):
        tools = make_tools(segmenter=table, frame_source=table.frame, images=images, **settings)
        call(tools["segment_objects"], queries=["mug", "unicorn"])
        return tools

    return make


# ------------------------------------------------------------------------------------ NASA ROSA


class RosaTools:
    """ROSA's treatment of a list of tools: it keeps those with a name and a `func`, and may wrap that.

    Modeled on `ROSATools` in nasa-jpl/rosa, which silently skips any other tool.
    """

    def __init__(self, tools: list[Any], blacklist: list[str]) -> None:
        self.kept = []
        for tool in tools:
            if hasattr(tool, "name") and hasattr(tool, "func"):
                if blacklist and "blacklist" in tool.func.__code__.co_varnames:
                    tool.func = functools.partial(tool.func, blacklist=blacklist)
                self.kept.append(tool)


@pytest.mark.parametrize("name", BUILDERS)
def test_rosa_keeps_and_runs_every_tool(searched, name: str) -> None:
    tools = searched()
    rosa = RosaTools(list(tools.values()), blacklist=["/secret"])
    assert [tool.name for tool in rosa.kept] == list(BUILDERS)
    tool = next(tool for tool in rosa.kept if tool.name == name)
    observation = tool.run(EXAMPLES[name])  # as AgentExecutor calls it
    assert isinstance(observation, str)
    assert json.loads(observation)["status"] in ("ok", "no_match")
    failed = tool.run({"nonsense": 1})
    assert json.loads(failed)["code"] == "INVALID_ARGUMENTS"


@pytest.mark.parametrize("name", BUILDERS)
def test_every_tool_is_a_structured_tool_with_both_sides(tools, name: str) -> None:
    tool = tools[name]
    assert type(tool) is StructuredTool
    assert inspect.isfunction(tool.func)
    assert inspect.iscoroutinefunction(tool.coroutine)
    assert tool.response_format == "content_and_artifact"


# ------------------------------------------------------------------------------------------ RAI


def rai_messages(tool: Any, arguments: dict[str, Any]) -> list[Any]:
    """Return the messages that RAI makes of one tool call.

    Modeled on `ToolRunner` and `ToolMultimodalMessage` in RobotecAI/rai: an artifact must be a dict and is
    pickled; one with images makes a multimodal message, whose content must be a string and whose images
    are base64 PNGs, or are announced as such.
    """
    output = tool.invoke(as_call(tool, arguments), {"max_concurrency": 1})
    artifact = output.artifact
    if artifact is not None:
        if not isinstance(artifact, dict):
            raise ValueError("Artifact must be a dictionary with optional keys: 'images', 'audios'")
        pickle.dumps({output.tool_call_id: [artifact]})
    if artifact is None or not (artifact.get("images", []) or artifact.get("audios", [])):
        return [output]
    if not isinstance(output.content, str):
        raise ValueError("Content must be a string")
    urls = [f"data:image/png;base64,{image}" for image in artifact["images"]]
    blocks = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [ToolMessage(output.content, tool_call_id=output.tool_call_id), HumanMessage(blocks)]


@pytest.mark.parametrize("images", ["none", "tool"])
@pytest.mark.parametrize("name", BUILDERS)
def test_rai_accepts_every_result(searched, images: str, name: str) -> None:
    tools = searched(images, pictures=PictureSettings(format="png"))
    messages = rai_messages(tools[name], EXAMPLES[name])
    without = images == "none" or name in ("report_not_found", "perception_status")
    assert len(messages) == (1 if without else 2)
    assert isinstance(messages[0].content, str)
    if not without:
        for block in messages[1].content:
            assert block["image_url"]["url"].startswith("data:image/png;base64,iVBOR")


def test_rai_takes_errors(searched) -> None:
    (message,) = rai_messages(searched("tool")["inspect_object"], {"object_id": "f99/m1"})
    assert (message.status, message.artifact) == ("error", None)


# ------------------------------------------------------------------------------------ LangGraph


@pytest.mark.parametrize("images", ["none", "user"])
@pytest.mark.parametrize("name", BUILDERS)
def test_artifacts_are_plain_and_survive_a_checkpoint(searched, call, images: str, name: str) -> None:
    result = call(searched(images)[name], **EXAMPLES[name])
    artifact = result.artifact
    assert_plain(artifact)
    assert artifact["schema"].startswith("xsam_agent_tools/")
    assert artifact["result"] == result.json
    assert {"masks", "frame"} <= artifact.keys()
    serde = JsonPlusSerializer()
    assert serde.loads_typed(serde.dumps_typed(artifact)) == artifact
    assert json.loads(json.dumps(artifact)) == artifact


@pytest.mark.parametrize("name", BUILDERS)
def test_results_are_consistent(searched, call, name: str) -> None:
    result = call(searched()[name], **EXAMPLES[name])
    assert result["status"] in ("ok", "no_match", "ambiguous", "stale", "error")
    assert "NaN" not in result.message.content
    assert '": ' not in result.message.content  # compact
    if name == "perception_status":
        assert all("age_s" in camera for camera in result["cameras"])
    else:
        assert result["age_s"] >= 0
    for mask in result.artifact["masks"]:
        assert sorted(mask["rle"]) == ["counts", "size"]


def test_all_tools_in_one_tool_node(searched) -> None:
    """The calls of one message run on threads of their own, over one scene store."""
    from langgraph.graph import END, START, MessagesState, StateGraph

    tools = searched()
    graph = StateGraph(MessagesState).add_node("tools", ToolNode(list(tools.values())))
    graph.add_edge(START, "tools").add_edge("tools", END)
    calls = [as_call(tools[name], EXAMPLES[name]) | {"id": name} for name in BUILDERS]
    request: Any = {"messages": [AIMessage("", tool_calls=calls)]}
    messages = graph.compile().invoke(request, IN_A_THREAD)["messages"]
    results = {m.tool_call_id: m for m in messages if isinstance(m, ToolMessage)}
    assert results.keys() == BUILDERS.keys()
    assert {m.status for m in results.values()} == {"success"}


# ------------------------------------------------------------------------- no framework: the specs


@pytest.mark.parametrize("name", BUILDERS)
def test_a_spec_runs_without_langchain_messages(make_toolkit, table, name: str) -> None:
    """A server for another protocol needs name, description, schema, and a call with plain arguments."""
    toolkit = make_toolkit(mode="full", segmenter=table, frame_source=table.frame)
    specs = {spec.name: spec for spec in toolkit.specs}
    specs["segment_objects"].call({"queries": ["mug"]})
    content, artifact = specs[name].call(EXAMPLES[name])
    assert json.loads(content)["status"] in ("ok", "no_match")
    assert artifact["result"] == json.loads(content)
    with pytest.raises(ToolException) as caught:
        specs[name].call({"nonsense": 1})
    assert json.loads(str(caught.value))["code"] == "INVALID_ARGUMENTS"
