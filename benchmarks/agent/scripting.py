"""What the scripted planners share: calls, the reading of results, and searches that follow the hints.

A policy is a generator: it yields tool calls and is sent their parsed results; it yields a text to end its
turn and is sent the user's next request; it returns its final message.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from xsam.inference.overlooked import WEAK_SIGNS
from xsam.sim import CATEGORIES
from xsam.sim.affordances import AFFORDANCES

ToolResult = dict[str, Any]
MAX_STEPS = 6  # of one search
CLEARLY = 0.6  # score from which an object is what it looks like
UNSURE = "I cannot tell for certain. ANSWER: unsure"


@dataclass(frozen=True)
class PlannedCall:
    """A tool call."""

    tool: str
    arguments: dict[str, Any]


Script = Generator["PlannedCall | str", Any, str]
Search = Generator[PlannedCall, ToolResult, ToolResult]
Policy = Callable[[str], Script]

_POSITIONAL = {  # parameters in the order in which `next` gives them
    "segment_objects": ("queries",),
    "locate_objects_3d": ("object_ids",),
    "inspect_object": ("object_id",),
    "report_not_found": ("query", "tried", "reason"),
}


def call(tool: str, **arguments: Any) -> PlannedCall:
    return PlannedCall(tool, arguments)


def ids_of(result: ToolResult) -> list[str]:
    """Return the ids of the objects of a result, each once."""
    return list(dict.fromkeys(item.get("same_as", item["id"]) for item in result.get("objects", ())))


def search(queries: Sequence[str], *, elsewhere: bool = True) -> Search:
    """Search, and follow the hints until something is found or nothing is left to try.

    Returns:
        A result whose objects can be believed, or one without objects and with the status "unsure" or
        "no_match".
    """
    step: PlannedCall | None = call("segment_objects", queries=list(queries))
    unsure = False
    for _ in range(MAX_STEPS):
        if step is None:
            break
        result = yield step
        if result["status"] in ("ok", "ambiguous") and result.get("objects"):
            return result
        if result.get("reported"):
            break
        if result["status"] in ("error", "stale") and result.get("retryable"):
            continue
        step = suggested_call(result)
        if result["status"] == "unsure" and result.get("objects"):
            if step is None or step.tool != "inspect_object":
                unsure = True
                break
            inspected = yield step
            if _best_name(inspected, queries):
                return result
            unsure = unsure or not _is_another_thing(inspected, queries)
            step = suggested_call(inspected)
        if step is not None and not elsewhere and "camera" in step.arguments:
            break
    return {"status": "unsure" if unsure else "no_match"}


def without(result: ToolResult, absent: str = "none") -> str:
    """Return the answer for a search without objects: that it is not there, or that it is in doubt."""
    return UNSURE if result["status"] == "unsure" else f"I looked with every camera. ANSWER: {absent}"


def is_confirmed(result: ToolResult, queries: Sequence[str]) -> Generator[PlannedCall, ToolResult, bool]:
    """Make the check that an unsure result proposes; return whether it looks most like what was asked for."""
    step = suggested_call(result)
    if step is None or step.tool != "inspect_object":
        return False
    return _best_name((yield step), queries)


def _names(inspected: ToolResult) -> dict[str, float]:
    names = inspected.get("looks_like", {})
    return names if isinstance(names, dict) else {}


def _best_name(inspected: ToolResult, queries: Sequence[str]) -> bool:
    """Return whether an inspected object looks most like what was asked for."""
    best = next(iter(_names(inspected)), "")
    return bool(best) and any(best in query for query in queries)


def _is_another_thing(inspected: ToolResult, queries: Sequence[str]) -> bool:
    """Return whether an inspected object clearly is something else, which is not even alike."""
    names = _names(inspected)
    best = next(iter(names), "")
    asked = {name for name in CATEGORIES if any(name in query for query in queries)}
    alike = {name for use in AFFORDANCES if asked & set(use.categories) for name in use.categories}
    return names.get(best, 0.0) >= CLEARLY and not (asked | alike) & set(names)


def may_be_more(result: ToolResult) -> bool:
    """Return whether a result warns of objects that it does not show."""
    return WEAK_SIGNS in result.get("hint", "")


def suggested_call(result: ToolResult) -> PlannedCall | None:
    """Parse the call that a result suggests in `next`; None when there is none."""
    text = result.get("next", "")
    try:
        parsed = ast.parse(text, mode="eval").body
    except SyntaxError:  # a sentence, not a call
        return None
    if not isinstance(parsed, ast.Call) or not isinstance(parsed.func, ast.Name):
        return None
    names = _POSITIONAL.get(parsed.func.id, ())
    arguments = {name: ast.literal_eval(value) for name, value in zip(names, parsed.args, strict=False)}
    arguments |= {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in parsed.keywords}
    return PlannedCall(parsed.func.id, arguments)
