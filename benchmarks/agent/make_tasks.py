"""Writes `tasks.json` anew: `python -m benchmarks.agent.make_tasks`. Scenes are of the test range.

A task is made only when its answer holds by a margin: no sliver of another object could be meant, an order is
clear, and what is absent is in view of no camera.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from benchmarks.agent.tasks import Front, Task, Wanted, labeled, save_tasks, table_of
from xsam.sim import CATEGORIES, COLORS, TEST_SEEDS, ObjectAnnotation, sample_scene
from xsam.sim.affordances import AFFORDANCES
from xsam.sim.household import SECONDARY_COLORS, colors_of
from xsam.sim.language import Expression, plural, referring_expressions, with_article

PURPOSES = {
    "drink": "Bring me something to drink from.",
    "eat": "Bring me something to eat.",
    "read": "Bring me something to read.",
    "cut": "Bring me something to cut bread with.",
    "nail": "Bring me something to hit a nail with.",
    "screw": "Bring me something to turn a screw with.",
    "soup": "Bring me something to eat soup from.",
    "serve": "Bring me something to put a sandwich on.",
}
ELSEWHERE = ("fork", "wine glass", "laptop", "cat", "scissors")  # not in the simulator's household
ADJECTIVES = ("dishwasher-safe", "old-fashioned", "brand new", "handmade")
COUNTS = {
    "category": 4,
    "color": 5,
    "ordinal": 4,
    "purpose": 6,
    "present": 3,
    "absent": 4,
    "missing": 4,
    "nearer": 4,
    "count": 4,
    "relation": 4,
    "largest": 3,
    "place": 4,
    "other camera": 4,
    "wordy": 3,
    "unclear": 4,
}
MAX_PER_SCENE = 2
NEAR_GAP_M = 0.08
SIZE_RATIO = 1.6

Made = tuple[str, Wanted]


class View:
    """What a task maker knows of a table."""

    def __init__(self, seed: int, front: Front = "whole") -> None:
        table = table_of(seed, front)
        self.seed, self.scene = seed, sample_scene(seed)
        self.rng = np.random.default_rng(seed)
        self.front = table.visible("front")
        self.side = table.visible("side")
        self.everything = (*self.front, *self.side)
        self.clear = labeled(self.front)
        self.names = Counter(item.category for item in self.front)
        self.expressions = referring_expressions(self.front, table.image_hw[1])

    def sides(self, item: ObjectAnnotation) -> NDArray[np.float64]:
        """Of the object's box in meters, ascending."""
        model = self.scene.objects[item.instance_id - 1].model
        return np.sort(model.upper_m.astype(float) - model.lower_m.astype(float))

    def one_of_its_kind(self) -> list[ObjectAnnotation]:
        return [item for item in self.clear if self.names[item.category] == 1]

    def phrases(self, kind: str) -> list[Expression]:
        return [e for e in self.expressions if e.kind == kind and " object" not in e.text]


def _pick(view: View, options: list[Made]) -> Iterator[Made]:
    if options:
        yield options[int(view.rng.integers(len(options)))]


def _category(view: View) -> Iterator[Made]:
    yield from _pick(
        view,
        [(f"Bring me the {i.category}.", Wanted(objects=(i.instance_id,))) for i in view.one_of_its_kind()],
    )


def _color(view: View) -> Iterator[Made]:
    """One of several of its category, told apart by color."""
    phrases = [e for e in view.phrases("color_category") if view.names[e.text.split(" ", 2)[2]] > 1]
    yield from _pick(view, [(f"Hand me {e.text}.", Wanted(objects=e.instance_ids)) for e in phrases])


def _ordinal(view: View) -> Iterator[Made]:
    yield from _pick(
        view, [(f"Give me {e.text}.", Wanted(objects=e.instance_ids)) for e in view.phrases("ordinal")]
    )


def _purpose(view: View) -> Iterator[Made]:
    options = []
    for affordance in AFFORDANCES:
        fitting = [item for item in view.front if item.category in affordance.categories]
        if affordance.name in PURPOSES and 0 < len(fitting) < len(view.front):
            ids = tuple(item.instance_id for item in fitting)
            if all(item.labeled for item in fitting):
                options.append((PURPOSES[affordance.name], Wanted(objects=ids)))
    yield from _pick(view, options)


def _present(view: View) -> Iterator[Made]:
    names = sorted({item.category for item in view.clear})
    yield from _pick(view, [(f"Is there {with_article(n)} on the table?", Wanted(yes=True)) for n in names])


def _absent(view: View) -> Iterator[Made]:
    seen = {item.category for item in view.everything}
    names = [name for name in CATEGORIES if name not in seen]
    if view.seed % 2 == 0:
        names = [ELSEWHERE[view.seed // 2 % len(ELSEWHERE)]]
    yield from _pick(view, [(f"Is there {with_article(n)} on the table?", Wanted(yes=False)) for n in names])


def _missing(view: View) -> Iterator[Made]:
    """Something that is not there, or not in this color."""
    seen = {item.category for item in view.everything}
    pairs = {(item.color, item.category) for item in view.everything}
    options = [
        (f"Bring me the {color} {name}.", Wanted(absent=True))
        for name in sorted(seen)
        for color in colors_of(name)
        if (color, name) not in pairs and color not in SECONDARY_COLORS.get(name, ()) and color in COLORS
    ]
    options += [(f"Bring me the {n}.", Wanted(absent=True)) for n in CATEGORIES if n not in seen]
    yield from _pick(view, options)


def _nearer(view: View) -> Iterator[Made]:
    options = []
    for one, two in combinations(view.one_of_its_kind(), 2):
        if abs(one.depth_m - two.depth_m) >= NEAR_GAP_M:
            nearer = min(one, two, key=lambda item: item.depth_m)
            request = f"Which is nearer to the camera, the {one.category} or the {two.category}?"
            options.append((request, Wanted(objects=(nearer.instance_id,))))
    yield from _pick(view, options)


def _count(view: View) -> Iterator[Made]:
    if len(view.clear) < len(view.front):
        return
    names = [(name, count) for name, count in sorted(view.names.items()) if count >= 2]
    yield from _pick(
        view, [(f"How many {plural(n)} are on the table?", Wanted(count=count)) for n, count in names]
    )


def _relation(view: View) -> Iterator[Made]:
    phrases = [e for e in view.phrases("relation") if " between " not in e.text]
    yield from _pick(view, [(f"Give me {e.text}.", Wanted(objects=e.instance_ids)) for e in phrases])


def _largest(view: View) -> Iterator[Made]:
    """By the models' sides, and so in the picture, too."""
    options = []
    for name, count in sorted(view.names.items()):
        same = [item for item in view.front if item.category == name]
        whole = all(item.labeled and item.visible_fraction > 0.95 for item in same)
        if count < 2 or not whole:
            continue
        best, *others = sorted(same, key=lambda item: -float(view.sides(item).prod()))
        if all(
            (view.sides(best) >= view.sides(item)).all()
            and view.sides(best).prod() >= SIZE_RATIO * view.sides(item).prod()
            and best.area_px > item.area_px
            for item in others
        ):
            options.append((f"Give me the largest {name}.", Wanted(objects=(best.instance_id,))))
    yield from _pick(view, options)


def _place(view: View) -> Iterator[Made]:
    options = [
        (f"Where is the {i.category}? Answer in meters, in the front camera's frame.", i.instance_id)
        for i in view.one_of_its_kind()
    ]
    yield from _pick(view, [(request, Wanted(place=instance_id)) for request, instance_id in options])


def _wordy(view: View) -> Iterator[Made]:
    adjective = ADJECTIVES[int(view.rng.integers(len(ADJECTIVES)))]
    yield from _pick(
        view,
        [
            (f"Bring me the {adjective} {i.category}.", Wanted(objects=(i.instance_id,)))
            for i in view.one_of_its_kind()
        ],
    )


def _unclear(view: View) -> Iterator[Made]:
    names = sorted(
        {item.category for item in view.clear if sum(i.category == item.category for i in view.clear) >= 2}
    )
    yield from _pick(view, [(f"Bring me the {name}.", Wanted(ask=True)) for name in names])


def _elsewhere(view: View) -> Iterator[Made]:
    """Only the side camera sees it."""
    seen = {item.category for item in view.front}
    names = Counter(item.category for item in view.side)
    options = [
        (f"Bring me the {i.category}.", Wanted(objects=(i.instance_id,)))
        for i in labeled(view.side)
        if i.category not in seen and names[i.category] == 1
    ]
    yield from _pick(view, options)


MAKERS: dict[str, Callable[[View], Iterator[Made]]] = {
    "category": _category,
    "color": _color,
    "ordinal": _ordinal,
    "purpose": _purpose,
    "present": _present,
    "absent": _absent,
    "missing": _missing,
    "nearer": _nearer,
    "count": _count,
    "relation": _relation,
    "largest": _largest,
    "place": _place,
    "other camera": _elsewhere,
    "wordy": _wordy,
    "unclear": _unclear,
}


def make_tasks(seeds: range = TEST_SEEDS[100:400]) -> list[Task]:
    """The rarest kind first; at most `MAX_PER_SCENE` tasks a scene."""
    tasks: list[Task] = []
    made: Counter[str] = Counter()
    for seed in seeds:
        if made == Counter(COUNTS):
            break
        here = 0
        whole = View(seed)
        half: Front = "left" if seed % 2 else "right"
        for kind in sorted(COUNTS, key=lambda kind: made[kind] / COUNTS[kind]):
            if made[kind] >= COUNTS[kind] or here >= MAX_PER_SCENE:
                continue
            front: Front = half if kind == "other camera" else "whole"
            view = View(seed, front) if front != "whole" else whole
            for request, wanted in MAKERS[kind](view):
                if any(task.request == request for task in tasks):
                    continue
                made[kind] += 1
                here += 1
                name = f"{kind.replace(' ', '-')}-{made[kind]}"
                tasks.append(
                    Task(name=name, kind=kind, seed=seed, request=request, wanted=wanted, front=front)
                )
    return sorted(tasks, key=lambda task: (list(COUNTS).index(task.kind), task.name))


if __name__ == "__main__":
    save_tasks(make_tasks())
