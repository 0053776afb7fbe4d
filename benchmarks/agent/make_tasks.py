"""Generate `tasks.json`: `python -m benchmarks.agent.make_tasks`. The scenes are from the test range.

A task is made only when its answer holds by a margin: it could not mean a sliver of another object, orders
are clear, and no camera sees an absent object.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from benchmarks.agent.tasks import AgentTask, ExpectedAnswer, Front, labeled, make_table, save_tasks
from xsam.sim import CATEGORIES, COLORS, TEST_SEEDS, ObjectAnnotation, sample_scene
from xsam.sim.affordances import AFFORDANCES
from xsam.sim.household import SECONDARY_COLORS, colors_of
from xsam.sim.language import Expression, referring_expressions
from xsam.types.nouns import plural, with_article

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

Candidate = tuple[str, ExpectedAnswer]  # request and its right answer


class TableView:
    """The objects on a table, as the task makers need them."""

    def __init__(self, seed: int, front: Front = "whole") -> None:
        table = make_table(seed, front)
        self.seed, self.scene = seed, sample_scene(seed)
        self.width_px = table.image_hw[1]
        self.rng = np.random.default_rng(seed)
        self.front = table.visible("front")
        self.side = table.visible("side")
        self.everything = (*self.front, *self.side)
        self.clear = labeled(self.front)
        self.names = Counter(item.category for item in self.front)
        self.expressions = referring_expressions(self.front, self.width_px)

    def sides(self, item: ObjectAnnotation) -> NDArray[np.float64]:
        """Return the sides of the object's bounding box in meters, ascending."""
        model = self.scene.objects[item.instance_id - 1].model
        return np.sort(model.upper_m.astype(float) - model.lower_m.astype(float))

    def unique(self) -> list[ObjectAnnotation]:
        """Return the objects that are the only ones of their category."""
        return [item for item in self.clear if self.names[item.category] == 1]

    def phrases(self, kind: str) -> list[Expression]:
        return [e for e in self.expressions if e.kind == kind and " object" not in e.text]


def _pick(view: TableView, options: list[Candidate]) -> Iterator[Candidate]:
    if options:
        yield options[int(view.rng.integers(len(options)))]


def _category(view: TableView) -> Iterator[Candidate]:
    yield from _pick(
        view,
        [(f"Bring me the {i.category}.", ExpectedAnswer(objects=(i.instance_id,))) for i in view.unique()],
    )


def _color(view: TableView) -> Iterator[Candidate]:
    """Make tasks for one of several objects of a category, told apart by color."""
    phrases = [e for e in view.phrases("color_category") if view.names[e.text.split(" ", 2)[2]] > 1]
    yield from _pick(view, [(f"Hand me {e.text}.", ExpectedAnswer(objects=e.instance_ids)) for e in phrases])


def _ordinal(view: TableView) -> Iterator[Candidate]:
    yield from _pick(
        view,
        [(f"Give me {e.text}.", ExpectedAnswer(objects=e.instance_ids)) for e in view.phrases("ordinal")],
    )


def _purpose(view: TableView) -> Iterator[Candidate]:
    options = []
    for affordance in AFFORDANCES:
        fitting = [item for item in view.front if item.category in affordance.categories]
        if affordance.name in PURPOSES and 0 < len(fitting) < len(view.front):
            ids = tuple(item.instance_id for item in fitting)
            if all(item.labeled for item in fitting):
                options.append((PURPOSES[affordance.name], ExpectedAnswer(objects=ids)))
    yield from _pick(view, options)


def _present(view: TableView) -> Iterator[Candidate]:
    names = sorted({item.category for item in view.clear})
    yield from _pick(
        view, [(f"Is there {with_article(n)} on the table?", ExpectedAnswer(yes=True)) for n in names]
    )


def _absent(view: TableView) -> Iterator[Candidate]:
    seen = {item.category for item in view.everything}
    names = [name for name in CATEGORIES if name not in seen]
    if view.seed % 2 == 0:
        names = [ELSEWHERE[view.seed // 2 % len(ELSEWHERE)]]
    yield from _pick(
        view, [(f"Is there {with_article(n)} on the table?", ExpectedAnswer(yes=False)) for n in names]
    )


def _missing(view: TableView) -> Iterator[Candidate]:
    """Make tasks for an object that is not there, or not in this color."""
    seen = {item.category for item in view.everything}
    pairs = {(item.color, item.category) for item in view.everything}
    options = [
        (f"Bring me the {color} {name}.", ExpectedAnswer(absent=True))
        for name in sorted(seen)
        for color in colors_of(name)
        if (color, name) not in pairs and color not in SECONDARY_COLORS.get(name, ()) and color in COLORS
    ]
    options += [(f"Bring me the {n}.", ExpectedAnswer(absent=True)) for n in CATEGORIES if n not in seen]
    yield from _pick(view, options)


def _nearer(view: TableView) -> Iterator[Candidate]:
    options = []
    for one, two in combinations(view.unique(), 2):
        if abs(one.depth_m - two.depth_m) >= NEAR_GAP_M:
            nearer = min(one, two, key=lambda item: item.depth_m)
            request = f"Which is nearer to the camera, the {one.category} or the {two.category}?"
            options.append((request, ExpectedAnswer(objects=(nearer.instance_id,))))
    yield from _pick(view, options)


def _count(view: TableView) -> Iterator[Candidate]:
    if len(view.clear) < len(view.front):
        return
    names = [(name, count) for name, count in sorted(view.names.items()) if count >= 2]
    yield from _pick(
        view, [(f"How many {plural(n)} are on the table?", ExpectedAnswer(count=count)) for n, count in names]
    )


def _relation(view: TableView) -> Iterator[Candidate]:
    phrases = [e for e in view.phrases("relation") if " between " not in e.text]
    yield from _pick(view, [(f"Give me {e.text}.", ExpectedAnswer(objects=e.instance_ids)) for e in phrases])


def _largest(view: TableView) -> Iterator[Candidate]:
    """Make tasks whose answer is the largest by its model's sides as well as in the image."""
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
            options.append((f"Give me the largest {name}.", ExpectedAnswer(objects=(best.instance_id,))))
    yield from _pick(view, options)


def _position(view: TableView) -> Iterator[Candidate]:
    options = [
        (f"Where is the {i.category}? Answer in meters, in the front camera's frame.", i.instance_id)
        for i in view.unique()
    ]
    yield from _pick(view, [(request, ExpectedAnswer(place=instance_id)) for request, instance_id in options])


def _needless_adjective(view: TableView) -> Iterator[Candidate]:
    adjective = ADJECTIVES[int(view.rng.integers(len(ADJECTIVES)))]
    yield from _pick(
        view,
        [
            (f"Bring me the {adjective} {i.category}.", ExpectedAnswer(objects=(i.instance_id,)))
            for i in view.unique()
        ],
    )


def _unclear(view: TableView) -> Iterator[Candidate]:
    names = sorted(
        {item.category for item in view.clear if sum(i.category == item.category for i in view.clear) >= 2}
    )
    yield from _pick(view, [(f"Bring me the {name}.", ExpectedAnswer(ask=True)) for name in names])


def _elsewhere(view: TableView) -> Iterator[Candidate]:
    """Make tasks for an object that only the side camera sees."""
    seen = {item.category for item in view.front}
    names = Counter(item.category for item in view.side)
    options = [
        (f"Bring me the {i.category}.", ExpectedAnswer(objects=(i.instance_id,)))
        for i in labeled(view.side)
        if i.category not in seen and names[i.category] == 1
    ]
    yield from _pick(view, options)


MAKERS: dict[str, Callable[[TableView], Iterator[Candidate]]] = {
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
    "place": _position,
    "other camera": _elsewhere,
    "wordy": _needless_adjective,
    "unclear": _unclear,
}


def make_tasks(seeds: range = TEST_SEEDS[100:400]) -> list[AgentTask]:
    """Make the tasks, the rarest kind first, at most `MAX_PER_SCENE` per scene."""
    tasks: list[AgentTask] = []
    made: Counter[str] = Counter()
    for seed in seeds:
        if made == Counter(COUNTS):
            break
        here = 0
        whole = TableView(seed)
        half: Front = "left" if seed % 2 else "right"
        for kind in sorted(COUNTS, key=lambda kind: made[kind] / COUNTS[kind]):
            if made[kind] >= COUNTS[kind] or here >= MAX_PER_SCENE:
                continue
            front: Front = half if kind == "other camera" else "whole"
            view = TableView(seed, front) if front != "whole" else whole
            for request, wanted in MAKERS[kind](view):
                if any(task.request == request for task in tasks):
                    continue
                made[kind] += 1
                here += 1
                name = f"{kind.replace(' ', '-')}-{made[kind]}"
                tasks.append(
                    AgentTask(name=name, kind=kind, seed=seed, request=request, wanted=wanted, front=front)
                )
    return sorted(tasks, key=lambda task: (list(COUNTS).index(task.kind), task.name))


if __name__ == "__main__":
    save_tasks(make_tasks())
