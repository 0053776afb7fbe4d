"""Progress events of a running tool, for whoever streams the agent with `stream_mode="custom"`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

Progress = Callable[..., None]
Listener = Callable[[dict[str, Any]], None]

_LISTENER: ContextVar[Listener | None] = ContextVar("xsam_progress_listener", default=None)


def progress_of(tool: str) -> Progress:
    """A function that sends `{"type": "xsam_progress", "tool": …, "stage": …, …}` to the stream.

    It goes to `progress_to`, else to the stream of the running LangGraph, else nowhere. Take it on the
    thread of the tool call; it may be called from any thread.
    """
    write = _LISTENER.get() or _stream_writer()

    def send(stage: str, **details: Any) -> None:
        write({"type": "xsam_progress", "tool": tool, "stage": stage, **details})

    return send


@contextmanager
def progress_to(listener: Listener) -> Iterator[None]:
    """Events of tool calls inside go to the listener; for callers other than LangGraph."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def _stream_writer() -> Listener:
    config = sys.modules.get("langgraph.config")  # loaded whenever a graph is running
    if config is None:
        return _nobody_listens
    try:
        writer: Listener = config.get_stream_writer()
    except (KeyError, RuntimeError):  # outside a graph
        return _nobody_listens
    return writer


def _nobody_listens(event: dict[str, Any]) -> None:
    """Drop the event."""
