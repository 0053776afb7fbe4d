"""Chat models that need no network: one that follows a policy, one that replays a recording."""

from __future__ import annotations

import json
from collections.abc import Sequence

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from benchmarks.agent.policies import Policy
from support.scripted_model import ScriptedModel, tool_call


def policy_model(policy: Policy) -> ScriptedModel:
    """Return a model that follows a policy: it runs the policy anew against all tool results so far."""

    def next_message(messages: list[BaseMessage]) -> AIMessage:
        request = next(message.text for message in messages if isinstance(message, HumanMessage))
        results = [json.loads(m.text) for m in messages if isinstance(m, ToolMessage)]
        script = policy(request)
        try:
            step = next(script)
            for result in results:
                step = script.send(result)
        except StopIteration as end:
            return AIMessage(str(end.value))
        return tool_call(step.tool, f"call_{len(results) + 1}", **step.arguments)

    return ScriptedModel(policy=next_message)


def replay_model(recorded: Sequence[AIMessage]) -> ScriptedModel:
    """Return a model that repeats recorded messages, whatever the tools return now."""

    def next_message(messages: list[BaseMessage]) -> AIMessage:
        index = sum(isinstance(message, AIMessage) for message in messages)
        return recorded[index].model_copy(deep=True) if index < len(recorded) else AIMessage("")

    return ScriptedModel(policy=next_message)
