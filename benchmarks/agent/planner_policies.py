"""Scripts for the ten kinds of `planner_tasks.py`, in two tempers.

They read what a language model reads, and nothing else. `NAIVE` takes the first answer for granted.
`CAREFUL` believes what is not in doubt, leaves geometry to `compare_objects`, asks a second time in other
words where one answer decides, and says "unsure" where the two disagree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Mapping

from benchmarks.agent.request_parser import ParsedRequest, singular
from benchmarks.agent.scripting import (
    UNSURE,
    PlannedCall,
    Script,
    ToolResult,
    call,
    ids_of,
    is_confirmed,
    may_be_more,
    search,
    without,
)

MAX_COMPARED = 10
MAX_QUERIES = 8

Plan = Callable[[ParsedRequest], Script]
Found = Generator[PlannedCall, ToolResult, str]


# ----------------------------------------------------------------------------------------- naive


def _first(result: ToolResult) -> str:
    ids = ids_of(result)
    return f"ANSWER: {ids[0]}" if ids else "ANSWER: none"


def _list_all(request: ParsedRequest) -> Script:
    seen = yield call("segment_everything")
    return _listed(Counter(item["label"] for item in seen.get("objects", ())))


def _nearest_by_phrase(request: ParsedRequest) -> Script:
    return _first((yield call("segment_objects", queries=["the nearest object"])))


def _inside_at_once(request: ParsedRequest) -> Script:
    result = yield call("segment_objects", queries=[f"the {request.noun}", f"the {request.other}"])
    ids = ids_of(result)
    if len(ids) < 2:
        return "ANSWER: no"
    compared = yield call("compare_objects", object_ids=ids[:2], relation="inside")
    return f"ANSWER: {'yes' if compared.get('answer') == 'yes' else 'no'}"


def _middle_of_list(request: ParsedRequest) -> Script:
    result = yield call("segment_objects", queries=[singular(request.noun)])
    order = sorted(result.get("objects", ()), key=lambda item: item["center_xy"][0])
    return f"ANSWER: {order[len(order) // 2]['id']}" if order else "ANSWER: none"


def _ask_for_farthest(request: ParsedRequest) -> Script:
    return _first((yield call("ask_scene", question=f"What is the farthest thing I can {request.other}?")))


def _follow_blindly(request: ParsedRequest) -> Script:
    result = yield call("segment_objects", queries=[f"the {request.noun}"])
    while True:
        ids = ids_of(result)
        if not ids:
            return "ANSWER: none"
        yield f"ANSWER: {ids[0]}"
        result = yield call("track_object", object_id=ids[0])


def _trust_the_old_id(request: ParsedRequest) -> Script:
    answer = _first((yield call("segment_objects", queries=[f"the {request.noun}"])))
    yield answer
    return answer


NAIVE: Mapping[str, Plan] = {
    "inventory": _list_all,
    "nearest": _nearest_by_phrase,
    "containment": _inside_at_once,
    "middle": _middle_of_list,
    "farthest by use": _ask_for_farthest,
    "track": _follow_blindly,
    "restart": _trust_the_old_id,
}


# --------------------------------------------------------------------------------------- careful


def _inventory(request: ParsedRequest) -> Script:
    """Count what is certain in an overview and when asked for by name, and say how much is not."""
    seen = yield call("segment_everything")
    counts = Counter(seen.get("counts", {}))
    left = seen.get("not_listed", 0) + len(_doubtful(seen))
    if not counts:
        return _listed(counts, unsure=left) if left else UNSURE
    named = yield call("segment_objects", queries=list(counts)[:MAX_QUERIES], image_id=seen["image_id"])
    for name in list(counts):
        if counts[name] != len(_certain(named, name)):
            left += counts.pop(name)
    left += may_be_more(seen) or may_be_more(named)
    return _listed(counts, unsure=left)


def _nearest(request: ParsedRequest) -> Script:
    """Compare everything in view; the phrase must find the same object."""
    seen = yield call("segment_everything")
    everything = [item["id"] for item in _every(seen)]
    if seen.get("not_listed") or len(everything) > MAX_COMPARED:
        return UNSURE
    best = yield from _extreme_of(everything, "nearest")
    if best not in _certain(seen):
        return UNSURE
    second = yield call("segment_objects", queries=["the nearest object"], image_id=seen["image_id"])
    return f"ANSWER: {best}" if best and best in _certain(second) else UNSURE


def _exists(request: ParsedRequest) -> Script:
    found = yield from search([request.noun], elsewhere=False)
    return "ANSWER: yes" if ids_of(found) else without(found, "no")


def _containment(request: ParsedRequest) -> Script:
    """Find both for certain and let geometry decide."""
    found = yield call("segment_objects", queries=[request.noun, request.other])
    inner, outer = (_certain(found, label) for label in (request.noun, request.other))
    if len(inner) != 1 or len(outer) != 1:
        return UNSURE
    compared = yield call("compare_objects", object_ids=[*inner, *outer], relation="inside")
    answer = compared.get("answer")
    return f"ANSWER: {answer}" if answer in ("yes", "no") else UNSURE


def _count(request: ParsedRequest) -> Script:
    """Count what is certain; an overview may doubt some of them, and must not have more or fewer."""
    name = singular(request.noun)
    found = yield call("segment_objects", queries=[name])
    seen = yield call("segment_everything")
    number, again = len(_certain(found)), seen.get("counts", {}).get(name, 0)
    perhaps = sum(name == item["label"] or name in item["unsure"] for item in _doubtful(seen))
    agrees = again <= number <= again + perhaps
    certain = agrees and not _doubtful(found) and not may_be_more(found) and not may_be_more(seen)
    return f"ANSWER: {number}" if certain else UNSURE


def _extreme(request: ParsedRequest) -> Script:
    """Compare all of the kind, and believe a winner that is certain."""
    found = yield call("segment_objects", queries=[request.noun])
    return (yield from _certain_extreme(found, request.word))


def _middle(request: ParsedRequest) -> Script:
    """Take the one between the leftmost and the rightmost of exactly three."""
    found = yield call("segment_objects", queries=[singular(request.noun)])
    ids = _certain(found)
    if len(ids) != 3 or _doubtful(found) or found.get("truncated") or may_be_more(found):
        return UNSURE
    left = yield from _extreme_of(ids, "leftmost")
    right = yield from _extreme_of(ids, "rightmost")
    rest = [object_id for object_id in ids if object_id not in (left, right)]
    return f"ANSWER: {rest[0]}" if left and right and len(rest) == 1 else UNSURE


def _farthest_by_use(request: ParsedRequest) -> Script:
    """Compare everything that the question finds for certain."""
    found = yield call("ask_scene", question=f"What can I {request.other}?")
    return (yield from _certain_extreme(found, "farthest"))


def _track(request: ParsedRequest) -> Script:
    """Follow the last sighting that was certain."""
    last = yield from _one(request)
    while True:
        now = ""
        if last:
            found = yield call("track_object", object_id=last)
            now = next(iter(_certain(found)), "") if found["status"] == "ok" else ""
        else:
            now = yield from _one(request)
        last = now or last
        yield f"ANSWER: {now}" if now else UNSURE


def _restart(request: ParsedRequest) -> Script:
    """Use the id that is known; where it is refused, look again."""
    known = yield from _one(request)
    yield f"ANSWER: {known}" if known else UNSURE
    if known:
        again = yield call("track_object", object_id=known)
        if again["status"] == "ok" and _certain(again):
            return f"ANSWER: {_certain(again)[0]}"
    found = yield from _one(request)
    return f"ANSWER: {found}" if found else UNSURE


def _one(request: ParsedRequest) -> Found:
    """Return the id of the one object that fits for certain; "" if there is none."""
    found = yield call("segment_objects", queries=[f"the {request.noun}"])
    if found["status"] == "unsure" and not (yield from is_confirmed(found, [request.noun])):
        return ""
    ids = ids_of(found)
    return ids[0] if len(ids) == 1 else ""


def _certain_extreme(found: ToolResult, relation: str) -> Found:
    """Compare what was found, the doubtful with the certain: whether the losers are real does not matter."""
    if found["status"] == "no_match":
        return "ANSWER: none"
    if found.get("truncated") or not _certain(found):
        return UNSURE
    ids = [item["id"] for item in _every(found)]
    if len(ids) < 2:  # who asks for the leftmost sees several
        return UNSURE
    best = yield from _extreme_of(ids, relation)
    return f"ANSWER: {best}" if best and best in _certain(found) else UNSURE


def _extreme_of(ids: list[str], relation: str) -> Found:
    """Let geometry decide; "" if it is not clear."""
    if len(ids) == 1:
        return ids[0]
    if not 2 <= len(ids) <= MAX_COMPARED:
        return ""
    compared = yield call("compare_objects", object_ids=ids, relation=relation)
    answer = compared.get("answer", "unclear")
    return "" if answer == "unclear" else answer


def _every(result: ToolResult) -> list[ToolResult]:
    return [*result.get("objects", ()), *result.get("also_possible", ())]


def _certain(result: ToolResult, label: str = "") -> list[str]:
    """Return the ids of what is not in doubt."""
    sure = (item for item in result.get("objects", ()) if "unsure" not in item)
    return list(
        dict.fromkeys(item.get("same_as", item["id"]) for item in sure if label in ("", item["label"]))
    )


def _doubtful(result: ToolResult) -> list[ToolResult]:
    return [item for item in _every(result) if "unsure" in item]


def _listed(counts: Mapping[str, int], *, unsure: int = 0) -> str:
    parts = [f"{name} {count}" for name, count in counts.items()]
    return f"ANSWER: {', '.join([*parts, *([f'unsure {unsure}'] if unsure else [])]) or 'none'}"


CAREFUL: Mapping[str, Plan] = {
    "inventory": _inventory,
    "nearest": _nearest,
    "exists": _exists,
    "containment": _containment,
    "count": _count,
    "extreme": _extreme,
    "middle": _middle,
    "farthest by use": _farthest_by_use,
    "track": _track,
    "restart": _restart,
}
