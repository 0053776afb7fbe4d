"""Where pictures may stand in a conversation, for each provider's rules."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolCall

from support.scripted_model import ScriptedModel
from xsam_agent_tools.middleware import OverlayMiddleware
from xsam_agent_tools.picture_places import PICTURE_PLACES, RESPONSES_API, picture_places


def _refuses_images_in_tool_messages(messages: list[BaseMessage]) -> bool:
    return not any(m.type == "tool" and isinstance(m.content, list) for m in messages)


def _refuses_user_after_tool(messages: list[BaseMessage]) -> bool:
    pairs = itertools.pairwise(messages)
    return not any(first.type == "tool" and second.type == "human" for first, second in pairs)


def _model(kind: str, **fields: Any) -> Any:
    """Return a model that searches twice with two calls at once, then finishes."""

    class NamedModel(ScriptedModel):
        use_responses_api: bool = False
        model_name: str = ""

        @property
        def _llm_type(self) -> str:
            return kind

    def policy(messages: list[BaseMessage]) -> AIMessage:
        done = sum(isinstance(m, AIMessage) and bool(m.tool_calls) for m in messages)
        calls = [
            ToolCall(name="segment_objects", args={"queries": [query]}, id=f"{done}-{query}")
            for query in ("mug", "plate")
        ]
        return AIMessage("", tool_calls=calls) if done < 2 else AIMessage("done")

    profile = {
        "image_inputs": True,
        "image_tool_message": True,
    }  # what profiles promise is not what APIs accept
    return NamedModel(policy=policy, profile=profile, **fields)


@pytest.mark.parametrize("place", ["user", "tool"])
@pytest.mark.parametrize("kind", [*PICTURE_PLACES, "another-chat"])
def test_every_request_keeps_the_rules_of_its_provider(make_toolkit, kind: str, place: Any) -> None:
    if kind == RESPONSES_API:
        model = _model("openai-chat", use_responses_api=True)
    else:
        model = _model(kind)
    toolkit = make_toolkit(images="user")
    agent = create_agent(
        model, toolkit.get_tools(), middleware=[OverlayMiddleware(place=place, max_images=4)]
    )
    agent.invoke({"messages": [HumanMessage("look")]})
    places = picture_places(model)
    for request in model.received:
        if not places.in_tool_message:
            assert _refuses_images_in_tool_messages(request)
        if not places.user_after_tool:
            assert _refuses_user_after_tool(request)
    last = model.received[-1]
    blocks = [block for m in last if isinstance(m.content, list) for block in m.content]
    assert sum(block["type"] == "image" for block in blocks) == 4
    if place == "tool" and places.in_tool_message:
        assert [m.type for m in last] == ["human", "ai", "tool", "tool", "ai", "tool", "tool"]


def test_mistral_gets_a_message_of_the_assistant_in_between(make_toolkit) -> None:
    """Mistral: "Unexpected role 'user' after role 'tool'"."""
    model = _model("mistralai-chat")
    agent = create_agent(model, make_toolkit(images="user").get_tools(), middleware=[OverlayMiddleware()])
    state = agent.invoke({"messages": [HumanMessage("look")]})
    kinds = [m.type for m in model.received[1]]
    assert kinds == ["human", "ai", "tool", "tool", "ai", "human"]
    assert [m.type for m in state["messages"]].count("human") == 1  # the conversation itself is not changed


@pytest.mark.parametrize(
    ("fields", "in_tool_message", "user_after_tool"),
    [
        ({"_llm_type": "openai-chat"}, False, True),
        ({"_llm_type": "openai-chat", "use_responses_api": True}, True, True),
        ({"_llm_type": "openai-chat", "model_name": "mistralai/Devstral-Small-2"}, False, False),
        ({"_llm_type": "chat-ollama", "model": "ministral-3:8b"}, False, False),
        ({"_llm_type": "anthropic-chat", "model": "claude-sonnet-4-5"}, True, True),
        ({"_llm_type": "new", "profile": {"image_tool_message": True}}, True, True),
        ({"_llm_type": "new", "profile": None}, False, True),
        ({}, False, True),
    ],
)
def test_the_places_of_a_model(fields: dict[str, Any], in_tool_message: bool, user_after_tool: bool) -> None:
    places = picture_places(SimpleNamespace(**fields))
    assert (places.in_tool_message, places.user_after_tool) == (in_tool_message, user_after_tool)
