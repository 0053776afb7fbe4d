"""Conversations as JSON files, to be scored again without the model.

A recording is `{"model", "segmenter", "conversations": {task: [message, …]}}`; a message has `role`
(user, assistant, tool), `content`, and `tool_calls` or `tool_call_id`. Images and artifacts are left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage, convert_to_messages

Conversations = dict[str, list[BaseMessage]]


def save_recording(path: Path, conversations: Conversations, *, model: str, segmenter: str) -> None:
    """Write conversations to a file."""
    rows = {task: [_row(message) for message in messages] for task, messages in conversations.items()}
    recording = {"model": model, "segmenter": segmenter, "conversations": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(recording, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load_recording(path: Path) -> tuple[str, Conversations]:
    """Read the model's name and its conversations from a file.

    Raises:
        ValueError: the file is not a recording.
    """
    try:
        recording = json.loads(path.read_text(encoding="utf-8"))
        conversations = {
            str(task): [_message(row) for row in rows] for task, rows in recording["conversations"].items()
        }
        return str(recording["model"]), conversations
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is not a recording: {error}") from error


def model_messages(messages: Sequence[BaseMessage]) -> list[AIMessage]:
    """Return the messages of the model."""
    return [message for message in messages if isinstance(message, AIMessage)]


def _row(message: BaseMessage) -> dict[str, Any]:
    if isinstance(message, AIMessage):
        calls = [{"name": c["name"], "args": c["args"], "id": c["id"]} for c in message.tool_calls]
        return {
            "role": "assistant",
            "content": message.text,
            **({"tool_calls": calls} if calls else {}),
        }
    if isinstance(message, ToolMessage):
        return {"role": "tool", "content": message.text, "tool_call_id": message.tool_call_id}
    role = "user" if isinstance(message, HumanMessage) else "system"
    return {"role": role, "content": message.text}


def _message(row: dict[str, Any]) -> BaseMessage:
    if row["role"] == "assistant":
        return AIMessage(row["content"], tool_calls=row.get("tool_calls", []))
    (message,) = convert_to_messages([row])
    return message
