"""Scripted planners that stand in for a chat model.

Both parse requests in the same way (`request_parser.py`). `naive` passes the user's phrase to one tool and
takes the first object. `follow_hints` does what the results suggest: it follows `next`, tries the other
camera, asks back when several fit, lets `compare_objects` decide what is nearer or second from the left,
reports absence, and says so when it is unsure. The ten kinds of `planner_tasks.py` are in
`planner_policies.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator

from benchmarks.agent.planner_policies import CAREFUL, NAIVE
from benchmarks.agent.request_parser import ParsedRequest, parse_request
from benchmarks.agent.scripting import (
    UNSURE,
    PlannedCall,
    Policy,
    Script,
    ToolResult,
    call,
    ids_of,
    is_confirmed,
    may_be_more,
    search,
    without,
)
from xsam.sim.affordances import AFFORDANCES

# ----------------------------------------------------------------------------------------- naive


def naive(text: str) -> Script:
    """Pass the user's phrase to one tool and take the first object; ignore everything else."""
    request = parse_request(text)
    if request.kind in NAIVE:
        return (yield from NAIVE[request.kind](request))
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
    if request.kind in CAREFUL:
        return (yield from CAREFUL[request.kind](request))
    if request.kind == "purpose":
        return (yield from _for_a_purpose(request))
    if request.kind in ("nearer", "relation"):
        return (yield from _two_things(request))
    if request.kind == "ordinal":
        return (yield from _in_order(request))
    found = yield from search([f"the {request.noun}"], elsewhere=request.kind != "place")
    if not ids_of(found):
        return without(found)
    ids = ids_of(found)
    if found["status"] == "ambiguous":
        ids = [i for i in ids if request.color and request.color in found.get("differ", {}).get(i, "")]
    elif request.color:
        ids = yield from _of_color(ids, request.color)
        if not ids:
            return "There is one, but not in that color. ANSWER: none"
    if len(ids) != 1 or (not request.color and may_be_more(found)):
        return "There may be more than one; which one do you mean? ANSWER: ask"
    if request.kind == "place":
        return _position((yield call("locate_objects_3d", object_ids=ids[:1])))
    return f"ANSWER: {ids[0]}"


def _for_a_purpose(request: ParsedRequest) -> Script:
    """Ask, and where the answer is in doubt, check whether it looks like what serves the purpose."""
    question = _question(request)
    result = yield call("ask_scene", question=question)
    if not ids_of(result):
        result = yield call("ask_scene", question=question, camera="side")
    if result["status"] == "unsure" and not (yield from is_confirmed(result, _suitable(question))):
        return UNSURE
    return _first(result)


def _suitable(question: str) -> tuple[str, ...]:
    """Return what serves a purpose: a chat model knows it, a script is told."""
    served = (use.categories for use in AFFORDANCES if question.lower() in use.questions)
    return tuple(sorted(next(served, ())))


def _two_things(request: ParsedRequest) -> Script:
    """Find both on one image and let geometry decide."""
    found = yield from search([request.noun, request.other], elsewhere=False)
    if not ids_of(found) or found.get("not_found"):
        return UNSURE if request.kind == "nearer" else without(found)
    of_first = [item["id"] for item in found["objects"] if item["label"] == request.noun]
    of_other = [item["id"] for item in found["objects"] if item["label"] == request.other]
    if request.kind == "nearer":
        compared = yield call("compare_objects", object_ids=[of_first[0], of_other[0]], relation="nearest")
        clear = compared.get("answer", "unclear") != "unclear" and "unsure" not in compared
        return f"ANSWER: {compared['answer']}" if clear else UNSURE
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
    found = yield from search([request.noun], elsewhere=False)
    ids = ids_of(found)
    if len(ids) < request.rank or may_be_more(found):
        return without(found) if not ids else UNSURE
    relation = f"{request.other}most"
    compared = yield call("compare_objects", object_ids=ids[:10], relation=relation)
    order = compared.get("order", [])
    return f"ANSWER: {order[request.rank - 1]}" if request.rank <= len(order) else UNSURE


def _of_color(ids: list[str], color: str) -> Generator[PlannedCall, ToolResult, list[str]]:
    """Inspect objects; leave out those whose color is known to be another one."""
    fitting = []
    for object_id in ids:
        inspected = yield call("inspect_object", object_id=object_id)
        if inspected.get("colour", color) == color:
            fitting.append(object_id)
    return fitting


POLICIES: dict[str, Policy] = {"naive": naive, "hints": follow_hints}
assert all(inspect.isgeneratorfunction(policy) for policy in POLICIES.values())
