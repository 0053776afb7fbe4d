"""Scripted planners that stand in for a chat model.

A policy is a generator: it yields tool calls, is sent the parsed results, and returns its final message.

Both parse requests in the same way (`request_parser.py`). `naive` passes the user's phrase to one tool and
takes the first object. `follow_hints` does what the results suggest: it follows `next`, tries the other
camera, asks back when several fit, lets `compare_objects` decide what is nearer or second from the left, and
reports absence.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.agent.request_parser import ParsedRequest, parse_request, singular

ToolResult = dict[str, Any]
MAX_STEPS = 6  # of one search


@dataclass(frozen=True)
class PlannedCall:
    """A tool call."""

    tool: str
    arguments: dict[str, Any]


Script = Generator[PlannedCall, ToolResult, str]
Search = Generator[PlannedCall, ToolResult, "ToolResult | None"]
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


# ----------------------------------------------------------------------------------------- naive


def naive(text: str) -> Script:
    """Pass the user's phrase to one tool and take the first object; ignore everything else."""
    request = parse_request(text)
    if request.kind == "purpose":
        result = yield call("ask_scene", question=_question(request))
        return _first(result)
    if request.kind == "exists":
        result = yield call("segment_objects", queries=[request.noun])
        return "ANSWER: yes" if ids_of(result) else "ANSWER: no"
    if request.kind == "count":
        result = yield call("segment_objects", queries=[request.noun])
        return f"ANSWER: {len(result.get('objects', ()))}"
    if request.kind == "nearer":
        result = yield call("segment_objects", queries=[f"the {request.noun}", f"the {request.other}"])
        low = sorted(result.get("objects", ()), key=lambda item: -item["box_xyxy"][3])  # lower = nearer?
        return f"ANSWER: {low[0]['id']}" if low else "ANSWER: none"
    result = yield call("segment_objects", queries=[_phrase(request)])
    if request.kind == "place" and ids_of(result):
        located = yield call("locate_objects_3d", object_ids=ids_of(result)[:1])
        return _position(located)
    return _first(result)


def _phrase(request: ParsedRequest) -> str:
    """Return the phrase for the object as in the request."""
    if request.kind == "ordinal":
        return f"the {request.word} {request.noun} from the {request.other}"
    if request.kind == "relation":
        return f"the {request.noun} {request.word} of the {request.other}"
    if request.kind == "extreme":
        return f"the {request.word} {request.noun}"
    return f"the {request.noun}"


def _question(request: ParsedRequest) -> str:
    return f"What can I {request.other}?"


def _first(result: ToolResult) -> str:
    ids = ids_of(result)
    return f"ANSWER: {ids[0]}" if ids else "ANSWER: none"


def _position(located: ToolResult) -> str:
    for item in located.get("objects", ()):
        if "position_m" in item:
            return "ANSWER: {x} {y} {z}".format(**item["position_m"])
    return "ANSWER: none"


# ---------------------------------------------------------------------------------- follow_hints


def follow_hints(text: str) -> Script:
    """Act as a planner that reads the results."""
    request = parse_request(text)
    if request.kind == "purpose":
        return (yield from _for_a_purpose(request))
    if request.kind == "exists":
        found = yield from _search([request.noun])
        return "ANSWER: yes" if found else "ANSWER: no"
    if request.kind == "count":
        found = yield from _search([singular(request.noun)], elsewhere=False)
        return f"ANSWER: {len(ids_of(found)) if found else 0}"
    if request.kind in ("nearer", "relation"):
        return (yield from _two_things(request))
    if request.kind in ("ordinal", "extreme"):
        return (yield from _in_order(request))
    found = yield from _search([f"the {request.noun}"], elsewhere=request.kind != "place")
    if not found:
        return "I looked with every camera. ANSWER: none"
    ids = ids_of(found)
    if found["status"] == "ambiguous":
        ids = [i for i in ids if request.color and request.color in found.get("differ", {}).get(i, "")]
        if len(ids) != 1:
            return "Several fit; which one do you mean? ANSWER: ask"
    elif request.color and not (yield from _has_color(ids[0], request.color)):
        return "There is one, but not in that color. ANSWER: none"
    if request.kind == "place":
        return _position((yield call("locate_objects_3d", object_ids=ids[:1])))
    return f"ANSWER: {ids[0]}"


def _search(queries: Sequence[str], *, elsewhere: bool = True) -> Search:
    """Search, and follow the hints until something is found or nothing is left to try."""
    step: PlannedCall | None = call("segment_objects", queries=list(queries))
    for _ in range(MAX_STEPS):
        if step is None:
            return None
        result = yield step
        if result["status"] in ("ok", "ambiguous") and result.get("objects"):
            return result
        if result["status"] == "unsure" and result.get("objects"):
            if (yield from _is_confirmed(result, queries)):
                return result
            return None
        if result.get("reported"):
            return None
        if result["status"] in ("error", "stale") and result.get("retryable"):
            continue
        step = suggested_call(result)
        if step is not None and not elsewhere and "camera" in step.arguments:
            return None
    return None


def _is_confirmed(result: ToolResult, queries: Sequence[str]) -> Generator[PlannedCall, ToolResult, bool]:
    """Make the check that an unsure result proposes; return whether it looks most like what was asked for."""
    step = suggested_call(result)
    if step is None or step.tool != "inspect_object":
        return False
    names = (yield step).get("looks_like", {})
    best = next(iter(names), "") if isinstance(names, dict) else ""
    return bool(best) and any(best in query for query in queries)


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


def _for_a_purpose(request: ParsedRequest) -> Script:
    result = yield call("ask_scene", question=_question(request))
    if not ids_of(result):
        result = yield call("ask_scene", question=_question(request), camera="side")
    return _first(result)


def _two_things(request: ParsedRequest) -> Script:
    """Find both on one image and let geometry decide."""
    found = yield from _search([request.noun, request.other], elsewhere=False)
    if not found or found.get("not_found"):
        return "ANSWER: none"
    of_first = [item["id"] for item in found["objects"] if item["label"] == request.noun]
    of_other = [item["id"] for item in found["objects"] if item["label"] == request.other]
    if request.kind == "nearer":
        compared = yield call("compare_objects", object_ids=[of_first[0], of_other[0]], relation="nearest")
        clear = compared.get("answer", "unclear") != "unclear"
        return f"ANSWER: {compared['answer']}" if clear else "ANSWER: ask"
    relation = f"{request.word}_of"
    fitting = []
    for object_id in of_first:
        compared = yield call("compare_objects", object_ids=[object_id, of_other[0]], relation=relation)
        if compared.get("answer") == "yes":
            fitting.append(object_id)
    if len(fitting) == 1:
        return f"ANSWER: {fitting[0]}"
    return "ANSWER: ask" if fitting else "ANSWER: none"


def _in_order(request: ParsedRequest) -> Script:
    """Find all of a kind and let geometry put them in order."""
    found = yield from _search([request.noun], elsewhere=False)
    ids = ids_of(found) if found else []
    if len(ids) < 2:
        return f"ANSWER: {ids[0]}" if ids else "ANSWER: none"
    relation = request.word if request.kind == "extreme" else f"{request.other}most"
    rank = 1 if request.kind == "extreme" else request.rank
    compared = yield call("compare_objects", object_ids=ids[:10], relation=relation)
    order = compared.get("order", [])
    return f"ANSWER: {order[rank - 1]}" if rank <= len(order) else "ANSWER: none"


def _has_color(object_id: str, color: str) -> Generator[PlannedCall, ToolResult, bool]:
    """Inspect the object; return False if its color is known to be another one."""
    inspected = yield call("inspect_object", object_id=object_id)
    return inspected.get("colour", color) == color


POLICIES: dict[str, Policy] = {"naive": naive, "hints": follow_hints}
assert all(inspect.isgeneratorfunction(policy) for policy in POLICIES.values())
