"""Progress events of a running tool, for programs that stream the agent with `stream_mode="custom"`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

ProgressReporter = Callable[..., None]
"""Call as `report(stage, **details)`."""

ProgressListener = Callable[[dict[str, Any]], None]

_LISTENER: ContextVar[ProgressListener | None] = ContextVar("xsam_progress_listener", default=None)


def progress_reporter(tool: str) -> ProgressReporter:
    """Return a function that emits `{"type": "xsam_progress", "tool": …, "stage": …, …}`.

    Events go to the listener of `send_progress_to`, else to the stream of the running LangGraph, else
    nowhere. Create the reporter on the thread of the tool call; it may be called from any thread.
    """
    write = _LISTENER.get() or _langgraph_stream()

    def report(stage: str, **details: Any) -> None:
        write({"type": "xsam_progress", "tool": tool, "stage": stage, **details})

    return report


@contextmanager
def send_progress_to(listener: ProgressListener) -> Iterator[None]:
    """Send the events of tool calls in this context to a listener; for callers other than LangGraph."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def _langgraph_stream() -> ProgressListener:
    config = sys.modules.get("langgraph.config")  # loaded whenever a graph is running
    if config is None:
        return _discard
    try:
        writer: ProgressListener = config.get_stream_writer()
    except (KeyError, RuntimeError):  # outside a graph
        return _discard
    return writer


def _discard(event: dict[str, Any]) -> None:
    """Discard the event."""
