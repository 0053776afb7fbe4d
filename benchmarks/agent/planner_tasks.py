"""Ten kinds of tasks that a planner meets at a table, made from the scene of any seed, with right answers.

A task is made only when its answer holds by a margin, as in `make_tasks.py`: orders are clear, and no object
that can hardly be seen decides the answer.

===============  =================================================================  ==========================
kind             request                                                            right answer
===============  =================================================================  ==========================
inventory        What is on the table? …                                            every kind, its number
nearest          Which object is nearest to the camera?                             the id
presence         Is there a fork on the table? (known, unknown and present things)  yes or no
containment      Is the apple in the bowl?                                          yes or no
count            How many mugs are on the table?                                    the number
extreme          Give me the leftmost mug.                                          the id
middle           Give me the middle one of the three mugs, from left to right.      the id
farthest by use  Give me the farthest thing that I can drink from.                  the id
track            Find the mug … The camera has moved. Which is it now? (3 times)    the id on the last image
restart          Find the mug … (the program is restarted) Hand it to me.           an id that is valid now
===============  =================================================================  ==========================
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np

from benchmarks.agent.make_tasks import Candidate, TableView
from benchmarks.agent.probes import UNKNOWN_NOUNS
from benchmarks.agent.tasks import AgentTask, ExpectedAnswer, LaterTurn, labeled, make_table
from xsam.sim import CATEGORIES, ObjectAnnotation
from xsam.sim.affordances import AFFORDANCES
from xsam.sim.language import MIN_DEPTH_GAP_M, MIN_GAP_X_SHARE
from xsam.types.nouns import plural, with_article

CAN = "what can i "  # questions about use that begin so are turned into "the farthest thing that I can …"
CONTAINERS = ("bowl", "plate", "pan")
CONTENTS = ("apple", "lemon", "pear", "ball", "block", "duck", "tape")
CONTENT_SHARE = 0.75  # of the container's width
TRACK_S = (1.5, 3.0, 4.5)  # where the front camera stands at the later requests
MOVED = "The camera has moved. Which object is it now?"
PLANNER_SALT = 103  # of the random numbers


def planner_tasks(seed: int) -> list[AgentTask]:
    """Return at most one task of each kind for a scene, the same on every machine."""
    view = TableView(seed)
    view.rng = np.random.default_rng([seed, PLANNER_SALT])
    return [task for make in _MAKERS for task in make(view)]


def _task(view: TableView, kind: str, candidate: Candidate, **options: object) -> AgentTask:
    request, wanted = candidate
    name = f"{kind.replace(' ', '-')}-{view.seed}"
    return AgentTask(name=name, kind=kind, seed=view.seed, request=request, wanted=wanted, **options)


def _drawn(view: TableView, kind: str, candidates: list[Candidate], **options: object) -> Iterator[AgentTask]:
    if candidates:
        yield _task(view, kind, candidates[int(view.rng.integers(len(candidates)))], **options)


def _same_kind(view: TableView, least: int) -> Iterator[tuple[str, list[ObjectAnnotation]]]:
    """Yield (name, objects) for every kind of which several are in view, all of them well visible."""
    for name in sorted(view.names):
        same = [item for item in view.front if item.category == name]
        if len(same) >= least and all(item.labeled for item in same):
            yield name, same


def _inventory(view: TableView) -> Iterator[AgentTask]:
    seen = Counter(item.category for item in view.clear)
    kinds = tuple((name, count, view.names[name]) for name, count in sorted(seen.items()))
    request = "What is on the table? List every kind with its number."
    yield _task(view, "inventory", (request, ExpectedAnswer(kinds=kinds)))


def _nearest(view: TableView) -> Iterator[AgentTask]:
    order = sorted(view.front, key=lambda item: item.depth_m)
    if len(order) > 1 and order[0].labeled and order[1].depth_m - order[0].depth_m >= MIN_DEPTH_GAP_M:
        wanted = ExpectedAnswer(objects=(order[0].instance_id,))
        yield _task(view, "nearest", ("Which object is nearest to the camera?", wanted))


def _presence(view: TableView) -> Iterator[AgentTask]:
    """Ask for something known that is absent, something unknown, or something that is there."""
    seen = {item.category for item in view.everything}
    options = (
        [name for name in CATEGORIES if name not in seen],
        UNKNOWN_NOUNS,
        sorted({item.category for item in view.clear}),
    )[view.seed % 3]
    candidates = [
        (f"Is there {with_article(name)} on the table?", ExpectedAnswer(yes=view.seed % 3 == 2))
        for name in options
    ]
    yield from _drawn(view, "presence", candidates)


def _containment(view: TableView) -> Iterator[AgentTask]:
    """Ask whether something lies in a container; on every second table it is put there first."""
    unique = view.unique()
    pairs = [
        (inner, outer)
        for inner in unique
        for outer in unique
        if inner.category in CONTENTS
        and outer.category in CONTAINERS
        and view.sides(inner)[1] <= CONTENT_SHARE * view.sides(outer)[1]
    ]
    if not pairs:
        return
    inner, outer = pairs[int(view.rng.integers(len(pairs)))]
    put_in = (inner.instance_id, outer.instance_id) if view.seed % 2 else None
    if put_in:
        table = make_table(view.seed, put_in=put_in)
        clear = {item.instance_id for item in labeled(table.visible("front"))}
        if not clear.issuperset(put_in):
            return
    where = "on" if outer.category == "plate" else "in"
    request = f"Is the {inner.category} {where} the {outer.category}?"
    yield _task(view, "containment", (request, ExpectedAnswer(yes=put_in is not None)), put_in=put_in)


def _count(view: TableView) -> Iterator[AgentTask]:
    candidates = [
        (f"How many {plural(name)} are on the table?", ExpectedAnswer(count=len(same)))
        for name, same in _same_kind(view, 1)
        if len(same) > 1 or len(view.names) < 3
    ]
    yield from _drawn(view, "count", candidates)


def _extreme(view: TableView) -> Iterator[AgentTask]:
    phrases = [e for kind in ("extreme_x", "size", "distance") for e in view.phrases(kind)]
    candidates = [(f"Give me {e.text}.", ExpectedAnswer(objects=e.instance_ids)) for e in phrases]
    yield from _drawn(view, "extreme", candidates)


def _middle(view: TableView) -> Iterator[AgentTask]:
    candidates = []
    for name, same in _same_kind(view, 3):
        order = sorted(same, key=lambda item: item.centroid_xy[0])
        gap_px = MIN_GAP_X_SHARE * view.width_px
        if len(order) == 3 and all(b.centroid_xy[0] - a.centroid_xy[0] >= gap_px for a, b in pairwise(order)):
            request = f"Give me the middle one of the three {plural(name)}, from left to right."
            candidates.append((request, ExpectedAnswer(objects=(order[1].instance_id,))))
    yield from _drawn(view, "middle", candidates)


def _farthest_by_use(view: TableView) -> Iterator[AgentTask]:
    candidates = []
    for affordance in AFFORDANCES:
        fitting = [item for item in view.front if item.category in affordance.categories]
        uses = [question for question in affordance.questions if question.startswith(CAN)]
        order = sorted(fitting, key=lambda item: -item.depth_m)
        if not uses or len(order) < 2 or not all(item.labeled for item in order):
            continue
        if order[0].depth_m - order[1].depth_m >= MIN_DEPTH_GAP_M:
            use = uses[0].removeprefix(CAN).rstrip("?")
            wanted = ExpectedAnswer(objects=(order[0].instance_id,))
            candidates.append((f"Give me the farthest thing that I can {use}.", wanted))
    yield from _drawn(view, "farthest by use", candidates)


def _track(view: TableView) -> Iterator[AgentTask]:
    """Follow one object, of which there may be others of its kind, while the camera swings."""
    tables = [make_table(view.seed) for _ in TRACK_S]
    for table, seconds in zip(tables, TRACK_S, strict=True):
        table.cameras["front"] = seconds
    always = set.intersection(*({i.instance_id for i in labeled(t.visible("front"))} for t in tables))
    phrases = [e for kind in ("category", "color_category") for e in view.phrases(kind)]
    candidates = [
        (f"Find {e.text} and keep an eye on it.", ExpectedAnswer(objects=e.instance_ids))
        for e in phrases
        if always.issuperset(e.instance_ids)
    ]
    later = tuple(LaterTurn(request=MOVED, front_s=seconds) for seconds in TRACK_S)
    yield from _drawn(view, "track", candidates, later=later)


def _restart(view: TableView) -> Iterator[AgentTask]:
    candidates = [
        (f"Find {e.text} for me.", ExpectedAnswer(objects=e.instance_ids))
        for kind in ("category", "color_category")
        for e in view.phrases(kind)
    ]
    later = (LaterTurn(request="Now hand it to me.", restart=True),)
    yield from _drawn(view, "restart", candidates, later=later)


_MAKERS: tuple[Callable[[TableView], Iterator[AgentTask]], ...] = (
    _inventory,
    _nearest,
    _presence,
    _containment,
    _count,
    _extreme,
    _middle,
    _farthest_by_use,
    _track,
    _restart,
)
