"""Scripted planners that stand in for a chat model.

A policy is a generator: it yields tool calls, is sent the parsed answers, and returns its final words.

Both read requests alike (`requests.py`). `naive` says the user's words to one tool and takes the first thing
it gets. `follow_hints` does what the answers say: it follows `next`, looks with the other camera, asks back
when several fit, lets `compare_objects` decide what is nearer or second from the left, and reports absence.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.agent.requests import Request, singular, understand

Answer = dict[str, Any]
MAX_STEPS = 6  # of one search


@dataclass(frozen=True)
class Call:
    """A tool call."""

    tool: str
    arguments: dict[str, Any]


Script = Generator[Call, Answer, str]
Search = Generator[Call, Answer, "Answer | None"]
Policy = Callable[[str], Script]

_POSITIONAL = {  # parameters in the order in which `next` gives them
    "segment_objects": ("queries",),
    "locate_objects_3d": ("object_ids",),
    "report_not_found": ("query", "tried", "reason"),
}


def call(tool: str, **arguments: Any) -> Call:
    return Call(tool, arguments)


def ids_of(answer: Answer) -> list[str]:
    """The objects of an answer, each once."""
    return list(dict.fromkeys(item.get("same_as", item["id"]) for item in answer.get("objects", ())))


# ----------------------------------------------------------------------------------------- naive


def naive(text: str) -> Script:
    """The user's words to one tool; the first object is it; nothing else is read."""
    request = understand(text)
    if request.kind == "purpose":
        answer = yield call("ask_scene", question=_question(request))
        return _first(answer)
    if request.kind == "exists":
        answer = yield call("segment_objects", queries=[request.noun])
        return "ANSWER: yes" if ids_of(answer) else "ANSWER: no"
    if request.kind == "count":
        answer = yield call("segment_objects", queries=[request.noun])
        return f"ANSWER: {len(answer.get('objects', ()))}"
    if request.kind == "nearer":
        answer = yield call("segment_objects", queries=[f"the {request.noun}", f"the {request.other}"])
        low = sorted(answer.get("objects", ()), key=lambda item: -item["box_xyxy"][3])  # lower = nearer?
        return f"ANSWER: {low[0]['id']}" if low else "ANSWER: none"
    answer = yield call("segment_objects", queries=[_phrase(request)])
    if request.kind == "place" and ids_of(answer):
        located = yield call("locate_objects_3d", object_ids=ids_of(answer)[:1])
        return _position(located)
    return _first(answer)


def _phrase(request: Request) -> str:
    """The words for the thing, as the user said them."""
    if request.kind == "ordinal":
        return f"the {request.word} {request.noun} from the {request.other}"
    if request.kind == "relation":
        return f"the {request.noun} {request.word} of the {request.other}"
    if request.kind == "extreme":
        return f"the {request.word} {request.noun}"
    return f"the {request.noun}"


def _question(request: Request) -> str:
    return f"What can I {request.other}?"


def _first(answer: Answer) -> str:
    ids = ids_of(answer)
    return f"ANSWER: {ids[0]}" if ids else "ANSWER: none"


def _position(located: Answer) -> str:
    for item in located.get("objects", ()):
        if "position_m" in item:
            return "ANSWER: {x} {y} {z}".format(**item["position_m"])
    return "ANSWER: none"


# ---------------------------------------------------------------------------------- follow_hints


def follow_hints(text: str) -> Script:
    """What a planner does that reads the answers."""
    request = understand(text)
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
    """Capture, and follow the hints until something is found or nothing is left to try."""
    step: Call | None = call("segment_objects", queries=list(queries))
    for _ in range(MAX_STEPS):
        if step is None:
            return None
        answer = yield step
        if answer["status"] in ("ok", "ambiguous") and answer.get("objects"):
            return answer
        if answer.get("reported"):
            return None
        if answer["status"] in ("error", "stale") and answer.get("retryable"):
            continue
        step = suggested(answer)
        if step is not None and not elsewhere and "camera" in step.arguments:
            return None
    return None


def suggested(answer: Answer) -> Call | None:
    """The call that an answer suggests in `next`; None when there is none."""
    text = answer.get("next", "")
    try:
        parsed = ast.parse(text, mode="eval").body
    except SyntaxError:  # words, not a call
        return None
    if not isinstance(parsed, ast.Call) or not isinstance(parsed.func, ast.Name):
        return None
    names = _POSITIONAL.get(parsed.func.id, ())
    arguments = {name: ast.literal_eval(value) for name, value in zip(names, parsed.args, strict=False)}
    arguments |= {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in parsed.keywords}
    return Call(parsed.func.id, arguments)


def _for_a_purpose(request: Request) -> Script:
    answer = yield call("ask_scene", question=_question(request))
    if not ids_of(answer):
        answer = yield call("ask_scene", question=_question(request), camera="side")
    return _first(answer)


def _two_things(request: Request) -> Script:
    """Both on one image, then geometry decides."""
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


def _in_order(request: Request) -> Script:
    """All of a kind, put in order by geometry."""
    found = yield from _search([request.noun], elsewhere=False)
    ids = ids_of(found) if found else []
    if len(ids) < 2:
        return f"ANSWER: {ids[0]}" if ids else "ANSWER: none"
    relation = request.word if request.kind == "extreme" else f"{request.other}most"
    rank = 1 if request.kind == "extreme" else request.rank
    compared = yield call("compare_objects", object_ids=ids[:10], relation=relation)
    order = compared.get("order", [])
    return f"ANSWER: {order[rank - 1]}" if rank <= len(order) else "ANSWER: none"


def _has_color(object_id: str, color: str) -> Generator[Call, Answer, bool]:
    """Whether a closer look does not speak against the color."""
    looked = yield call("inspect_object", object_id=object_id)
    return looked.get("colour", color) == color


POLICIES: dict[str, Policy] = {"naive": naive, "hints": follow_hints}
assert all(inspect.isgeneratorfunction(policy) for policy in POLICIES.values())
