"""Images for models with vision, and limits, inside a real agent."""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolCall, ToolMessage
from langchain_core.tools import tool as langchain_tool
from langgraph.checkpoint.memory import InMemorySaver

from support.scripted_model import ScriptedModel, tool_call
from xsam_agent_tools.middleware import (
    OverlayMiddleware,
    artifact_images,
    insert_images,
    perception_middleware,
)

SEES, BLIND = {"image_inputs": True}, {"image_inputs": False}


def _searching_model(profile: Any, *, searches: int = 3, calls_at_once: int = 1) -> ScriptedModel:
    """Return a model that calls `segment_objects` some times, then finishes."""

    def next_message(messages: list[BaseMessage]) -> AIMessage:
        done = sum(isinstance(m, AIMessage) for m in messages)
        calls = [
            ToolCall(name="segment_objects", args={"queries": [query]}, id=f"{done}-{n}")
            for n, query in enumerate(["mug", "plate"][:calls_at_once])
        ]
        return AIMessage("", tool_calls=calls) if done < searches else AIMessage("done")

    return ScriptedModel(policy=next_message, profile=profile)


def _run(make_toolkit, model: ScriptedModel, middleware: list[Any], **settings: Any) -> list[BaseMessage]:
    toolkit = make_toolkit(**{"images": "user", **settings})
    agent = create_agent(model, toolkit.get_tools(), middleware=middleware)
    messages: list[BaseMessage] = agent.invoke({"messages": [HumanMessage("look")]})["messages"]
    return messages


def _images(message: BaseMessage) -> list[str]:
    blocks = message.content if isinstance(message.content, list) else []
    return [b["base64"] for b in blocks if isinstance(b, dict) and b["type"] == "image"]


def _texts(message: BaseMessage) -> str:
    return message.text


def test_the_newest_images_come_in_a_user_message(make_toolkit) -> None:
    model = _searching_model(SEES)
    messages = _run(make_toolkit, model, [OverlayMiddleware(max_images=1)])
    last = model.received[-1]
    assert [m.type for m in last] == ["human", "ai", "tool", "human"] + ["ai", "tool", "human"] * 2
    assert [len(_images(m)) for m in last if m.type == "human"] == [0, 0, 0, 1]
    newest = next(m for m in reversed(messages) if isinstance(m, ToolMessage))
    assert _images(last[-1]) == artifact_images(newest)
    assert "image f3" in _texts(last[-1])
    assert "not by the user" in _texts(last[-1])
    assert all(isinstance(m.content, str) for m in last if m.type == "tool")


def test_older_images_become_a_line_of_text(make_toolkit) -> None:
    """In another project images piled up in the context until the request was refused."""
    model = _searching_model(SEES, searches=6)
    _run(make_toolkit, model, [OverlayMiddleware(max_images=2)])
    for request in model.received:
        assert sum(len(_images(m)) for m in request) <= 2
    last = model.received[-1]
    shown = [_texts(m) for m in last if m.type == "human"][1:]
    assert ["not shown any more" in text for text in shown] == [True] * 4 + [False] * 2
    assert [f"image f{n}" in text for n, text in enumerate(shown, 1)] == [True] * 6
    assert [len(_images(m)) for m in last if m.type == "human"] == [0, 0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize("profile", [BLIND, {}, None])
def test_models_that_cannot_see_get_text_only(make_toolkit, profile) -> None:
    model = _searching_model(profile)
    _run(make_toolkit, model, [OverlayMiddleware()])
    assert all(isinstance(m.content, str) for request in model.received for m in request)
    assert [m.type for m in model.received[-1]] == ["human"] + ["ai", "tool"] * 3


def test_the_profile_can_be_overruled(make_toolkit) -> None:
    model = _searching_model(None)
    _run(make_toolkit, model, [OverlayMiddleware(sees=True)])
    assert _images(model.received[-1][-1])


def test_results_of_parallel_calls_stay_together(make_toolkit) -> None:
    """Providers refuse a user message between the answers to one message's tool calls."""
    model = _searching_model(SEES, searches=1, calls_at_once=2)
    _run(make_toolkit, model, [OverlayMiddleware(max_images=2)])
    last = model.received[-1]
    assert [m.type for m in last] == ["human", "ai", "tool", "tool", "human"]
    assert len(_images(last[-1])) == 2


def test_images_in_tool_messages_where_the_model_accepts_them(make_toolkit) -> None:
    takes = {**SEES, "image_tool_message": True}
    model = _searching_model(takes, searches=2)
    messages = _run(make_toolkit, model, [OverlayMiddleware(max_images=1, place="tool")], images="tool")
    tools = [m for m in model.received[-1] if m.type == "tool"]
    assert [len(_images(m)) for m in tools] == [0, 1]
    assert json.loads(tools[1].content[0]["text"])["image_id"] == "f2"
    assert all(isinstance(m.content, str) for m in messages if m.type == "tool")  # the state has the text
    other = _searching_model(SEES, searches=1)
    _run(make_toolkit, other, [OverlayMiddleware(place="tool")], images="tool")
    assert [len(_images(m)) for m in other.received[-1]] == [0, 0, 0, 1]  # OpenAI: in a user message


def test_the_state_is_not_changed(make_toolkit) -> None:
    saver, config = InMemorySaver(), {"configurable": {"thread_id": "a"}}
    toolkit = make_toolkit(images="user")
    agent = create_agent(
        _searching_model(SEES),
        toolkit.get_tools(),
        middleware=perception_middleware(),
        checkpointer=saver,
    )
    agent.invoke({"messages": [HumanMessage("look")]}, config)
    kept = agent.get_state(config).values["messages"]
    assert [m.type for m in kept] == ["human"] + ["ai", "tool"] * 3 + ["ai"]
    assert all(isinstance(m.content, str) for m in kept)


@pytest.mark.asyncio
async def test_async(make_toolkit) -> None:
    model = _searching_model(SEES)
    agent = create_agent(
        model, make_toolkit(images="user").get_tools(), middleware=perception_middleware(max_images=1)
    )
    await agent.ainvoke({"messages": [HumanMessage("look")]})
    assert sum(len(_images(m)) for m in model.received[-1]) == 1


def test_call_limits_end_an_agent_that_searches_forever(make_toolkit) -> None:
    model = _searching_model(BLIND, searches=1000)
    messages = _run(make_toolkit, model, perception_middleware(tool_calls=4, model_calls=7), images="none")
    results = [m for m in messages if isinstance(m, ToolMessage)]
    assert [m.status for m in results] == ["success"] * 4 + ["error"] * 3
    assert len(model.received) == 7
    assert isinstance(messages[-1], AIMessage)


def test_only_the_tools_of_this_package_are_counted(make_toolkit) -> None:
    """A `move` of the robot was refused at call 26, and a run with 40 of them was ended."""

    @langchain_tool
    def move(step: int) -> str:
        """Move the robot."""
        return f"moved {step}"

    def policy(messages: list[BaseMessage]) -> AIMessage:
        done = sum(isinstance(m, ToolMessage) and m.name == "move" for m in messages)
        if done == 60:
            return AIMessage("done")
        looked = isinstance(messages[-1], ToolMessage) and messages[-1].name == "segment_objects"
        if done % 20 == 10 and not looked:
            return tool_call("segment_objects", queries=["mug"])
        return tool_call("move", step=done)

    agent = create_agent(
        ScriptedModel(policy=policy),
        [*make_toolkit().get_tools(), move],
        middleware=perception_middleware(tool_calls=2),
    )
    messages = agent.invoke({"messages": [HumanMessage("go")]}, {"recursion_limit": 1000})["messages"]
    results = [m for m in messages if isinstance(m, ToolMessage)]
    assert [m.status for m in results if m.name == "move"] == ["success"] * 60
    searches = [m for m in results if m.name == "segment_objects"]
    assert [m.status for m in searches] == ["success", "success", "error"]
    refusal = json.loads(searches[-1].content)
    assert (refusal["code"], refusal["retryable"]) == ("CALL_LIMIT", False)
    assert messages[-1].text == "done"


def test_the_limit_counts_calls_at_the_same_time_and_starts_again_with_each_request(make_toolkit) -> None:
    model = _searching_model(BLIND, searches=1, calls_at_once=2)
    toolkit = make_toolkit(images="none")
    agent = create_agent(model, toolkit.get_tools(), middleware=perception_middleware(tool_calls=1))
    messages = agent.invoke({"messages": [HumanMessage("look")]})["messages"]
    assert [m.status for m in messages if isinstance(m, ToolMessage)] == ["success", "error"]
    again = _searching_model(BLIND, searches=3)
    agent = create_agent(again, toolkit.get_tools(), middleware=perception_middleware(tool_calls=1))
    later = agent.invoke({"messages": [*messages, HumanMessage("look again")]})["messages"]
    assert [m.status for m in later[len(messages) :] if isinstance(m, ToolMessage)] == ["success"]


@pytest.mark.parametrize("limits", [{"tool_calls": 0}, {"model_calls": -1}])
def test_limits_must_be_positive(limits) -> None:
    with pytest.raises(ValueError, match="positive"):
        perception_middleware(**limits)


def test_other_tools_and_errors_are_left_alone() -> None:
    foreign = ToolMessage("x", tool_call_id="1", artifact={"images": ["AAAA"], "schema": "theirs"})
    failed = ToolMessage("x", tool_call_id="2", artifact=None, status="error")
    plain = ToolMessage("x", tool_call_id="3", artifact=["AAAA"])
    messages = [HumanMessage("a"), foreign, failed, plain]
    assert [artifact_images(m) for m in messages] == [[]] * 4
    assert insert_images(messages, max_images=2) == messages


@pytest.mark.parametrize("settings", [{"max_images": 0}, {"place": "system"}])
def test_wrong_settings(settings) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        OverlayMiddleware(**settings)
