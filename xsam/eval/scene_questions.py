"""Questions of every task about one simulated scene, drawn by its seed: the same on every machine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from xsam.data.region_prompts import draw_region_prompt
from xsam.eval.questions import (
    MAX_DETECTIONS,
    CaptionTruth,
    CountTruth,
    InstanceTruth,
    PresenceTruth,
    Question,
    RegionTruth,
    interactive_question,
    layout_questions,
    visual_grounded_question,
)
from xsam.sim.annotate import ObjectAnnotation, annotate, unlabeled_ids
from xsam.sim.household import CATEGORIES
from xsam.sim.language import (
    Expression,
    absent_expressions,
    category_queries,
    grounded_caption,
    reasoning_questions,
    referring_expressions,
)
from xsam.sim.near_misses import near_misses
from xsam.sim.render import STUFF_NAMES, RenderedView
from xsam.sim.scene import sample_scene
from xsam.types.masks import BoolMask
from xsam.types.requests import PromptKind, Query, Task, VisualPrompt

STUFF = STUFF_NAMES[1:]
_STUFF_ID = 100_000  # segment id of stuff class 0, above all instance ids


def scene_questions(seed: int, view: RenderedView, *, per_scene: int) -> Iterator[Question]:
    """Yield all questions about a scene, single regions first.

    Referring expressions are drawn uniformly from all that are true in the scene. Unlabeled objects (see
    `annotate`) are never asked for, and their pixels count neither way where the metric allows it: as crowd
    of every queried category in AP, as void in panoptic and semantic scores.

    Args:
        seed: seed of the scene that `view` shows.
        view: the rendered scene.
        per_scene: number of referring expressions.
    """
    items = annotate(sample_scene(seed), view)
    # Two generators: the questions drawn with the first one are pinned by published scores.
    yield from _region_questions(view, items, np.random.default_rng([seed, 99]), per_scene=per_scene)
    rng = np.random.default_rng([seed, 100])
    labeled = [item for item in items if item.labeled]
    for kind in (PromptKind.SCRIBBLE, PromptKind.MASK):
        if labeled:
            truth = _pixels(view, [labeled[int(rng.integers(len(labeled)))].instance_id])
            yield interactive_question(draw_region_prompt(kind, truth, rng), truth)
    crowd = _pixels(view, unlabeled_ids(items))
    yield _category_question(view, items, crowd, rng)
    if labeled:
        objects: dict[str, list[BoolMask]] = {}
        for item in labeled:
            objects.setdefault(item.category, []).append(_pixels(view, [item.instance_id]))
        yield visual_grounded_question(objects, {name: [crowd] for name in objects}, rng)
    yield from _layout_questions(view, items)
    if labeled:
        yield _caption_question(view, items)
    yield from _presence_questions(seed, view, items)


def _pixels(view: RenderedView, ids: Sequence[int]) -> BoolMask:
    return np.isin(view.instance_ids, ids)


def _region_questions(
    view: RenderedView, items: Sequence[ObjectAnnotation], rng: np.random.Generator, *, per_scene: int
) -> Iterator[Question]:
    def choose(expressions: Sequence[Expression], count: int) -> list[Expression]:
        return [expressions[i] for i in rng.permutation(len(expressions))[:count]]

    def text_question(expression: Expression, task: Task) -> Question:
        return Question(
            group=task.value,
            kind=expression.kind if task is Task.REFERRING else "",
            query=Query(task=task, text=expression.text),
            truth=RegionTruth(mask=_pixels(view, expression.instance_ids)),
        )

    for expression in choose(referring_expressions(items, view.rgb.shape[1]), per_scene):
        yield text_question(expression, Task.REFERRING)
    for expression in choose(reasoning_questions(items), 1):
        yield text_question(expression, Task.REASONING)
    for expression in choose(absent_expressions(items, rng, count_per_kind=1), 2):
        task = Task.REASONING if expression.kind == "absent_reasoning" else Task.REFERRING
        yield text_question(expression, task)
    labeled = [item for item in items if item.labeled]
    if labeled:
        item = labeled[int(rng.integers(len(labeled)))]
        truth = _pixels(view, [item.instance_id])
        yield interactive_question(draw_region_prompt(PromptKind.POINT, truth, rng), truth)
        yield interactive_question(VisualPrompt.box(*(float(v) for v in item.box_xyxy)), truth)


def _category_question(
    view: RenderedView, items: Sequence[ObjectAnnotation], crowd: BoolMask, rng: np.random.Generator
) -> Question:
    """Ask for all categories with labeled objects, and four absent ones."""
    expressions = category_queries(items, rng)
    names = tuple(expression.text for expression in expressions)
    return Question(
        group="category",
        query=Query(
            task=Task.OPEN_VOCABULARY,
            thing_classes=names,
            score_threshold=0.0,  # AP ranks all detections itself
            max_instances=MAX_DETECTIONS,
        ),
        truth=InstanceTruth(
            classes=names,
            masks=tuple(tuple(_pixels(view, [i]) for i in e.instance_ids) for e in expressions),
            crowd=tuple((crowd,) for _ in expressions),
        ),
    )


def _layout_questions(view: RenderedView, items: Sequence[ObjectAnnotation]) -> Iterator[Question]:
    """Ask for the layout of the whole image; unlabeled objects are void."""
    classes = {item.instance_id: CATEGORIES.index(item.category) for item in items if item.labeled}
    ids = np.where(_pixels(view, list(classes)), view.instance_ids, 0).astype(np.int64)
    for index, name in enumerate(STUFF):
        ids[view.stuff_ids == STUFF_NAMES.index(name)] = _STUFF_ID + index
        classes[_STUFF_ID + index] = len(CATEGORIES) + index
    return layout_questions(ids, classes, things=CATEGORIES, stuff=STUFF)


def _presence_questions(
    seed: int, view: RenderedView, items: Sequence[ObjectAnnotation]
) -> Iterator[Question]:
    """Ask for what is there and for what is not, for near misses, and for numbers of objects."""
    rng = np.random.default_rng([seed, 101])
    width_px = view.rgb.shape[1]
    present = referring_expressions(items, width_px)
    absent = absent_expressions(items, rng, count_per_kind=1)
    absent = tuple(e for e in absent if e.kind != "absent_reasoning")
    count = min(2, len(present), len(absent))
    for expressions in (present, absent):
        for index in rng.permutation(len(expressions))[:count]:
            yield Question(
                group="presence",
                query=Query(task=Task.REFERRING, text=expressions[index].text, score_threshold=0.0),
                truth=PresenceTruth(present=expressions is present),
            )
    for expression in near_misses(items, width_px, rng):
        yield Question(
            group="near_miss",
            kind=expression.kind,
            query=Query(task=Task.REFERRING, text=expression.text),
            truth=RegionTruth(mask=_pixels(view, ())),
        )
    countable = [e for e in category_queries(items, rng, absent_count=2) if _countable(e.text, items)]
    if countable:
        yield Question(
            group="count",
            query=Query(task=Task.OPEN_VOCABULARY, thing_classes=tuple(e.text for e in countable)),
            truth=CountTruth(counts=tuple(len(e.instance_ids) for e in countable)),
        )


def _countable(category: str, items: Sequence[ObjectAnnotation]) -> bool:
    """Return False if an object of the category is visible but not labeled, so that its number is unclear."""
    return all(item.labeled for item in items if item.category == category)


def _caption_question(view: RenderedView, items: Sequence[ObjectAnnotation]) -> Question:
    caption = grounded_caption(items)
    return Question(
        group="gcg",
        query=Query(task=Task.GROUNDED_CONVERSATION),
        truth=CaptionTruth(
            text=re.sub(r"</?p>", "", caption.text),
            phrases=tuple(re.findall(r"<p>(.*?)</p>", caption.text)),
            masks=tuple(_pixels(view, ids) for ids in caption.instance_ids),
        ),
    )
