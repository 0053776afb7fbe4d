"""Progress events of a running tool, for programs that stream the agent with `stream_mode="custom"`."""

from __future__ import annotations

import secrets
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

ProgressReporter = Callable[..., None]
"""Call as `report(stage, **details)`."""

ProgressListener = Callable[[dict[str, Any]], None]

_LISTENER: ContextVar[ProgressListener | None] = ContextVar("xsam_progress_listener", default=None)

_RUNS: weakref.WeakKeyDictionary[ProgressListener, str] = weakref.WeakKeyDictionary()
_RUNS_LOCK = threading.Lock()


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


def current_run() -> str:
    """Return a name for the run of the LangGraph that makes this call, or "" outside a graph.

    A graph has one stream writer per run, with or without a checkpointer, and gives its runs no other name.
    """
    writer = _langgraph_stream()
    if writer is _discard:
        return ""
    with _RUNS_LOCK:
        return _RUNS.setdefault(writer, f"run {secrets.token_hex(8)}")


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
