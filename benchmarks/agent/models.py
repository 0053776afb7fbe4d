"""Chat models that need no network: one that follows a policy, one that repeats a recording."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from benchmarks.agent.policies import Policy


class ScriptedModel(BaseChatModel):
    """A chat model without a mind of its own; its next message follows from the conversation so far."""

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> ScriptedModel:  # type: ignore[override]
        return self

    def reply(self, messages: list[BaseMessage]) -> AIMessage:
        raise NotImplementedError

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **_: Any
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self.reply(messages))])

    @property
    def _llm_type(self) -> str:
        return "scripted"


class PolicyModel(ScriptedModel):
    """Follows a policy: plays it from the start against the tools' answers so far."""

    policy: Any  # a `Policy`; a function, which pydantic must not look into

    def reply(self, messages: list[BaseMessage]) -> AIMessage:
        policy: Policy = self.policy
        request = next(message.text for message in messages if isinstance(message, HumanMessage))
        answers = [json.loads(m.text) for m in messages if isinstance(m, ToolMessage)]
        script = policy(request)
        try:
            step = next(script)
            for answer in answers:
                step = script.send(answer)
        except StopIteration as end:
            return AIMessage(str(end.value))
        number = f"call_{len(answers) + 1}"
        return AIMessage("", tool_calls=[{"name": step.tool, "args": step.arguments, "id": number}])


class ReplayModel(ScriptedModel):
    """Says what a model said when it was recorded, whatever the tools answer now."""

    recorded: list[Any]  # AIMessages

    def reply(self, messages: list[BaseMessage]) -> AIMessage:
        said = sum(isinstance(message, AIMessage) for message in messages)
        if said >= len(self.recorded):
            return AIMessage("")
        message: AIMessage = self.recorded[said]
        return message.model_copy(deep=True)
