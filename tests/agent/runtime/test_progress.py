"""Progress events reach the program that streams the graph, and do no harm elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from support.scripted_model import ScriptedModel
from xsam_agent_tools.runtime.progress import progress_reporter


def _search_once(messages: list[Any]) -> AIMessage:
    if any(isinstance(m, ToolMessage) for m in messages):
        return AIMessage("done")
    call = {"name": "segment_objects", "args": {"queries": ["mug"]}, "id": "1", "type": "tool_call"}
    return AIMessage("", tool_calls=[call])


def test_events_of_a_tool_call_in_a_graph(make_toolkit) -> None:
    agent = create_agent(ScriptedModel(policy=_search_once), make_toolkit().get_tools())
    events = list(agent.stream({"messages": [HumanMessage("look")]}, stream_mode="custom"))
    assert [event["stage"] for event in events] == ["looking", "answered"]
    assert all(event["type"] == "xsam_progress" for event in events)
    assert all(event["tool"] == "segment_objects" for event in events)
    assert events[0]["queries"] == ["mug"]
    assert (events[1]["status"], events[1]["image_id"]) == ("ok", "f1")


@pytest.mark.asyncio
async def test_events_on_the_async_side(make_toolkit) -> None:
    agent = create_agent(ScriptedModel(policy=_search_once), make_toolkit().get_tools())
    request = {"messages": [HumanMessage("look")]}
    events = [event async for event in agent.astream(request, stream_mode="custom")]
    assert [event["stage"] for event in events] == ["looking", "answered"]


def test_outside_a_graph_nothing_happens(tool, call) -> None:
    """`get_stream_writer` raises there; a tool once failed because of its own progress report."""
    progress_reporter("segment_objects")("looking", camera="front")
    assert call(tool, queries=["mug"])["status"] == "ok"
