"""A chat model that follows a script: agents run with it offline, and the same way each time."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import Field

Policy = Callable[[list[BaseMessage]], AIMessage]
"""Returns the next message of the model, given the conversation so far."""


class ScriptedModel(BaseChatModel):
    """A chat model whose messages a function chooses."""

    policy: Any  # a `Policy`; declared as Any because pydantic must not validate it
    received: list[list[BaseMessage]] = Field(default_factory=list)
    """The conversation at each call."""
    bound_tools: list[Any] = Field(default_factory=list)

    def bind_tools(self, tools: Sequence[Any], **_: Any) -> ScriptedModel:
        """Keep the tools; the policy knows which it calls."""
        self.bound_tools[:] = tools
        return self

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        self.received.append(list(messages))
        return ChatResult(generations=[ChatGeneration(message=self.policy(messages))])


def tool_call(name: str, call_id: str | None = None, /, **arguments: Any) -> AIMessage:
    """Return a message that calls one tool."""
    return AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": call_id or name}])


def segment_and_report(messages: list[BaseMessage]) -> AIMessage:
    """Segment what the user lists, separated by ", ", then report what the tool found."""
    if isinstance(messages[-1], HumanMessage):
        return tool_call("segment_objects", queries=messages[-1].text.split(", "))
    found = json.loads(messages[-1].text)
    objects = [f"{item['label']} ({item['id']}): {_place(item)}" for item in found.get("objects", [])]
    return AIMessage(f"{found['status']}; {'; '.join(objects) or found['hint']}")


def _place(item: dict[str, Any]) -> str:
    """Return where an object is; one that was listed before, under another id, has no place of its own."""
    return item["where"] if "where" in item else f"the same as {item['same_as']}"
