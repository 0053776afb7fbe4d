"""Requests of the demo: one for each task, made from what the simulator knows about its scene."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from xsam import Query, Task, VisualPrompt
from xsam.sim import RenderedView, TableScene, annotate
from xsam.sim.language import absent_expressions, reasoning_questions, referring_expressions
from xsam.types.masks import BoolMask


@dataclass(frozen=True, kw_only=True)
class DemoRequest:
    """A query, its title in the table, and the true mask by label ("" = all segments together)."""

    name: str
    title: str
    query: Query
    expected: str = "found"
    truth: dict[str, BoolMask] = field(default_factory=dict)


def requests_for_scene(scene: TableScene, view: RenderedView) -> list[DemoRequest]:
    """Return one request for each task, with the truth from the simulator."""
    annotations = annotate(scene, view)
    labeled = sorted((item for item in annotations if item.labeled), key=lambda item: -item.area_px)

    def mask(*ids: int) -> BoolMask:
        return np.isin(view.instance_ids, ids)

    requests: list[DemoRequest] = []
    expressions = referring_expressions(annotations, view.rgb.shape[1])
    for name, kinds in (
        ("referring", ("color_category",)),
        ("relation", ("relation", "extreme_x", "distance", "size")),
    ):
        chosen = next((e for kind in kinds for e in expressions if e.kind == kind), None)
        if chosen:
            query = Query(task=Task.REFERRING, text=chosen.text)
            requests.append(
                DemoRequest(name=name, title=chosen.text, query=query, truth={"": mask(*chosen.instance_ids)})
            )
    categories = tuple(dict.fromkeys(item.category for item in labeled))
    truth = {c: mask(*(i.instance_id for i in labeled if i.category == c)) for c in categories}
    requests.append(
        DemoRequest(
            name="categories",
            title=", ".join(categories),
            query=Query(task=Task.OPEN_VOCABULARY, thing_classes=categories),
            truth=truth,
        )
    )
    for question in reasoning_questions(annotations)[:1]:
        query = Query(task=Task.REASONING, text=question.text)
        requests.append(
            DemoRequest(
                name="reasoning", title=question.text, query=query, truth={"": mask(*question.instance_ids)}
            )
        )
    first, second = labeled[0], labeled[-1]
    box = VisualPrompt.box(*(float(v) for v in first.box_xyxy))
    requests.append(
        DemoRequest(
            name="box",
            title=f"a box around the {first.category}",
            query=Query(task=Task.INTERACTIVE, prompts=(box,)),
            truth={"": mask(first.instance_id)},
        )
    )
    pointed = VisualPrompt.point(*_inside(mask(second.instance_id)))
    requests.append(
        DemoRequest(
            name="point",
            title=f"a point on the {second.category}",
            query=Query(task=Task.INTERACTIVE, prompts=(pointed,)),
            truth={"": mask(second.instance_id)},
        )
    )
    requests.append(
        DemoRequest(
            name="visual_grounded",
            title=f"all that look like the boxed {first.category}",
            query=Query(task=Task.VISUAL_GROUNDED, prompts=(box,)),
            truth={"": truth[first.category]},
        )
    )
    requests.append(
        DemoRequest(
            name="description",
            title="describe what you see",
            query=Query(task=Task.GROUNDED_CONVERSATION),
            truth={"": mask(*(item.instance_id for item in labeled))},
        )
    )
    absent = absent_expressions(annotations, np.random.default_rng(0), count_per_kind=1)[0]
    requests.append(
        DemoRequest(
            name="absent",
            title=absent.text,
            query=Query(task=Task.REFERRING, text=absent.text),
            expected="not_found",
        )
    )
    return requests


def requests_for_photo(rgb: np.ndarray) -> list[DemoRequest]:
    """Return one request for each task, without a truth."""
    height, width = rgb.shape[:2]
    box = VisualPrompt.box(width * 0.3, height * 0.3, width * 0.7, height * 0.7)
    point = VisualPrompt.point(width * 0.5, height * 0.5)
    queries = {
        "referring": Query(task=Task.REFERRING, text="the largest object"),
        "categories": Query(
            task=Task.OPEN_VOCABULARY, thing_classes=("mug", "bottle", "book", "plate", "phone")
        ),
        "reasoning": Query(task=Task.REASONING, text="what can i drink from?"),
        "box": Query(task=Task.INTERACTIVE, prompts=(box,)),
        "point": Query(task=Task.INTERACTIVE, prompts=(point,)),
        "visual_grounded": Query(task=Task.VISUAL_GROUNDED, prompts=(box,)),
        "description": Query(task=Task.GROUNDED_CONVERSATION),
    }
    titles = {
        "box": "a box in the middle",
        "point": "a point in the middle",
        "visual_grounded": "all that look like it",
    }
    return [
        DemoRequest(
            name=name,
            title=titles.get(name) or query.text or ", ".join(query.thing_classes) or "describe what you see",
            query=query,
            expected="",
        )
        for name, query in queries.items()
    ]


def _inside(mask: BoolMask) -> tuple[float, float]:
    """Return a point (x, y) well inside a mask: its pixel nearest to its centroid."""
    rows, columns = np.nonzero(mask)
    nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return float(columns[nearest]), float(rows[nearest])
