"""Progress events of a running tool, for whoever streams the agent with `stream_mode="custom"`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

Progress = Callable[..., None]


def progress_of(tool: str) -> Progress:
    """A function that sends `{"type": "xsam_progress", "tool": …, "stage": …, …}` to the stream.

    Outside a LangGraph run it does nothing: `get_stream_writer` raises there. Take it on the thread
    of the tool call; it may be called from any thread.
    """
    write = _stream_writer()

    def send(stage: str, **details: Any) -> None:
        write({"type": "xsam_progress", "tool": tool, "stage": stage, **details})

    return send


def _stream_writer() -> Callable[[Any], None]:
    config = sys.modules.get("langgraph.config")  # loaded whenever a graph is running
    if config is None:
        return _nobody_listens
    try:
        writer: Callable[[Any], None] = config.get_stream_writer()
    except (KeyError, RuntimeError):
        return _nobody_listens
    return writer


def _nobody_listens(event: Any) -> None:
    """Drop the event."""
