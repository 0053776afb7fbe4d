"""Chat models that need no network: one that follows a policy, one that replays a recording."""

from __future__ import annotations

import json
from collections.abc import Sequence

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from benchmarks.agent.policies import Policy
from support.scripted_model import ScriptedModel, tool_call


def policy_model(policy: Policy) -> ScriptedModel:
    """Return a model that follows a policy: it runs the policy anew against all that was said so far.

    The policy is sent what the language model reads, and nothing else: the text of the tools' results, and
    the user's later requests.
    """

    def next_message(messages: list[BaseMessage]) -> AIMessage:
        first, *heard = [m for m in messages if isinstance(m, (HumanMessage, ToolMessage))]
        script = policy(first.text)
        try:
            step = next(script)
            for message in heard:
                step = script.send(
                    json.loads(message.text) if isinstance(message, ToolMessage) else message.text
                )
        except StopIteration as end:
            return AIMessage(str(end.value))
        if isinstance(step, str):  # the end of a turn; the user will say more
            return AIMessage(step)
        number = sum(isinstance(message, ToolMessage) for message in messages) + 1
        return tool_call(step.tool, f"call_{number}", **step.arguments)

    return ScriptedModel(policy=next_message)


def replay_model(recorded: Sequence[AIMessage]) -> ScriptedModel:
    """Return a model that repeats recorded messages, whatever the tools return now."""

    def next_message(messages: list[BaseMessage]) -> AIMessage:
        index = sum(isinstance(message, AIMessage) for message in messages)
        return recorded[index].model_copy(deep=True) if index < len(recorded) else AIMessage("")

    return ScriptedModel(policy=next_message)
