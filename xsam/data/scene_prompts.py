"""Simulated scenes → training prompts of every task, with their targets.

`scene_source` packs them; here they are drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xsam.inference.preprocess import prompt_mask
from xsam.inference.prompts import END_TAG, SEG_TAG, Conversation, conversation_for
from xsam.sim.annotate import ObjectAnnotation
from xsam.sim.household import CATEGORIES
from xsam.sim.language import (
    Expression,
    absent_expressions,
    category_queries,
    grounded_caption,
    reasoning_answer,
    reasoning_questions,
    referring_expressions,
)
from xsam.types.masks import BoolMask
from xsam.types.requests import Query, Task, VisualPrompt

RELATIONAL_KINDS = ("extreme_x", "ordinal", "size", "distance", "relation")
RELATIONAL_SHARE = 0.7
"""Of the referring phrases in training: they are the hard ones."""
STUFF = {"table": 1, "wall": 2, "floor": 3}

TASK_SHARES: Mapping[str, float] = {
    "referring": 0.42,
    "absent": 0.08,
    "category": 0.20,
    "reasoning": 0.10,
    "interactive": 0.08,
    "visual_grounded": 0.07,
    "grounded_conversation": 0.05,
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScenePrompt:
    """One prompt on one scene.

    `targets` holds, per condition, the instance ids it means (empty: nothing) and `stuff_targets`
    the stuff id of conditions that mean a stuff class.
    """

    kind: str
    conversation: Conversation
    targets: tuple[tuple[int, ...], ...]
    stuff_targets: Mapping[int, int]  # condition index → stuff id
    regions: tuple[BoolMask, ...] = ()  # one mask a `<region>`


def draw_kinds(rng: np.random.Generator, count: int, shares: Mapping[str, float] = TASK_SHARES) -> list[str]:
    """Tasks of the prompts of a step; every picture of the batch gets the same, so lengths match."""
    weights = np.array(list(shares.values()))
    return [str(kind) for kind in rng.choice(list(shares), size=count, p=weights / weights.sum())]


def draw_prompts(
    annotations: Sequence[ObjectAnnotation],
    instance_ids: NDArray[np.uint8],
    rng: np.random.Generator,
    kinds: Sequence[str],
) -> list[ScenePrompt]:
    """Draw one prompt of each kind for one scene; what the scene can't give becomes another kind.

    Args:
        annotations: visible objects.
        instance_ids: (H, W) of the picture, without padding.
        kinds: keys of `TASK_SHARES`.
    """
    expressions = referring_expressions(annotations, instance_ids.shape[1], article=bool(rng.random() < 0.75))
    return [_draw(kind, annotations, expressions, instance_ids, rng) for kind in kinds]


def _draw(
    kind: str,
    annotations: Sequence[ObjectAnnotation],
    expressions: Sequence[Expression],
    instance_ids: NDArray[np.uint8],
    rng: np.random.Generator,
) -> ScenePrompt:
    labeled = [item for item in annotations if item.labeled]
    if kind == "referring" and expressions:
        return _phrase(_balanced_choice(expressions, rng))
    if kind == "reasoning":
        questions = reasoning_questions(annotations)
        if questions:
            question = questions[int(rng.integers(len(questions)))]
            if rng.random() < 0.3:
                return _explained(question, annotations)
            return _phrase(question)
    if kind in ("absent", "referring"):
        absent = absent_expressions(annotations, rng, count_per_kind=1, article=bool(rng.random() < 0.75))
        return _phrase(absent[rng.integers(len(absent))])
    if kind in ("interactive", "visual_grounded") and labeled:
        return _regions(kind, labeled, annotations, instance_ids, rng)
    if kind == "grounded_conversation" and labeled:
        caption = grounded_caption(annotations)
        asked = conversation_for(Query(task=Task.GROUNDED_CONVERSATION)).question
        answer = f"{caption.text} The segmentation mask is {SEG_TAG}.{END_TAG}"
        return ScenePrompt(
            kind="grounded_conversation",
            conversation=Conversation(question=asked, answer=answer),
            targets=caption.instance_ids,
            stuff_targets={},
        )
    return _categories(annotations, rng)


def _balanced_choice(expressions: Sequence[Expression], rng: np.random.Generator) -> Expression:
    """Mostly a relation if there is one; kinds evenly, lest frequent ones crowd out others."""
    relational = [e for e in expressions if e.kind in RELATIONAL_KINDS]
    simple = [e for e in expressions if e.kind not in RELATIONAL_KINDS]
    pool = relational if relational and (not simple or rng.random() < RELATIONAL_SHARE) else simple
    kinds = sorted({e.kind for e in pool})
    kind = kinds[rng.integers(len(kinds))]
    same = [e for e in pool if e.kind == kind]
    return same[rng.integers(len(same))]


def _phrase(expression: Expression) -> ScenePrompt:
    reasoning = expression.kind in ("reasoning", "absent_reasoning")
    query = Query(task=Task.REASONING if reasoning else Task.REFERRING, text=expression.text)
    return ScenePrompt(
        kind=expression.kind,
        conversation=conversation_for(query),
        targets=(expression.instance_ids,),
        stuff_targets={},
    )


def _explained(question: Expression, annotations: Sequence[ObjectAnnotation]) -> ScenePrompt:
    asked = conversation_for(Query(task=Task.REASONING, text=question.text, explain=True)).question
    answer = f"{reasoning_answer(question, annotations)} The segmentation mask is {SEG_TAG}.{END_TAG}"
    return ScenePrompt(
        kind="explained_reasoning",
        conversation=Conversation(question=asked, answer=answer),
        targets=(question.instance_ids,),
        stuff_targets={},
    )


def _categories(annotations: Sequence[ObjectAnnotation], rng: np.random.Generator) -> ScenePrompt:
    """A list of categories: those in the picture and a few others, everything there is, or surfaces alone."""
    form = rng.choice(["some", "few", "everything", "surfaces"], p=[0.35, 0.35, 0.22, 0.08])
    if form == "everything":
        queries = category_queries(annotations, rng, absent_count=len(CATEGORIES))
        if rng.random() < 0.5:
            queries = tuple(sorted(queries, key=lambda query: CATEGORIES.index(query.text)))
    elif rng.random() < 0.2:
        queries = _colored_categories(annotations, rng)
    else:
        queries = category_queries(annotations, rng, absent_count=int(rng.integers(1, 4)))
    if form == "few":  # present or not: the model must also say "none of these"
        queries = queries[: int(rng.integers(1, 4))]
    names = [] if form == "surfaces" else [query.text for query in queries]
    targets = [] if form == "surfaces" else [query.instance_ids for query in queries]
    if form == "surfaces" or rng.random() < 0.5:
        for name in STUFF:
            # People list surfaces last, like `Query.stuff_classes`; the model should not depend on it.
            place = len(names) if rng.random() < 0.7 else int(rng.integers(len(names) + 1))
            names.insert(place, name)
            targets.insert(place, ())
    query = Query(task=Task.OPEN_VOCABULARY, thing_classes=tuple(names))
    return ScenePrompt(
        kind="category_list",
        conversation=conversation_for(query),
        targets=tuple(targets),
        stuff_targets={index: STUFF[name] for index, name in enumerate(names) if name in STUFF},
    )


def _colored_categories(
    annotations: Sequence[ObjectAnnotation], rng: np.random.Generator
) -> tuple[Expression, ...]:
    """Categories with a color ("red mug"), all objects of each, and some that are not there."""
    pairs = sorted({(item.color, item.category) for item in annotations if item.labeled})
    present = [
        Expression(
            text=f"{color} {category}",
            instance_ids=tuple(
                item.instance_id
                for item in annotations
                if item.labeled and (item.color, item.category) == (color, category)
            ),
            kind="color_category",
        )
        for color, category in pairs
    ]
    absent = absent_expressions(annotations, rng, count_per_kind=2, article=False)
    queries = [*present, *(e for e in absent if e.kind in ("absent_color_category", "absent_wrong_color"))]
    return tuple(queries[i] for i in rng.permutation(len(queries)))


def _regions(
    kind: str,
    labeled: Sequence[ObjectAnnotation],
    annotations: Sequence[ObjectAnnotation],
    instance_ids: NDArray[np.uint8],
    rng: np.random.Generator,
) -> ScenePrompt:
    if kind == "interactive":
        chosen = [labeled[int(rng.integers(len(labeled)))]]
        targets: tuple[tuple[int, ...], ...] = ((chosen[0].instance_id,),)
    else:
        categories = sorted({item.category for item in labeled})
        wanted = rng.permutation(categories)[: int(rng.integers(1, 4))]
        chosen = []
        for category in wanted:
            same = [item for item in labeled if item.category == category]
            chosen.append(same[rng.integers(len(same))])
        targets = tuple(
            tuple(a.instance_id for a in annotations if a.category == item.category and a.labeled)
            for item in chosen
        )
    regions = tuple(
        prompt_mask([random_region(instance_ids == item.instance_id, item.box_xyxy, rng)], instance_ids.shape)
        for item in chosen
    )
    query = Query(
        task=Task.INTERACTIVE if kind == "interactive" else Task.VISUAL_GROUNDED,
        prompts=tuple(VisualPrompt.from_mask(region) for region in regions),
    )
    return ScenePrompt(
        kind=kind, conversation=conversation_for(query), targets=targets, stuff_targets={}, regions=regions
    )


def random_region(
    mask: BoolMask, box_xyxy: tuple[int, int, int, int], rng: np.random.Generator
) -> VisualPrompt:
    """A point, box, scribble or mask prompt for an object, as a person would give it."""
    kind = rng.choice(["point", "box", "scribble", "mask"], p=[0.35, 0.3, 0.15, 0.2])
    rows, columns = np.nonzero(mask)
    if kind == "mask":
        return VisualPrompt.from_mask(mask)
    if kind == "box":
        height, width = mask.shape
        jitter = rng.integers(-2, 3, size=4)
        x_min, y_min = max(0, box_xyxy[0] + jitter[0]), max(0, box_xyxy[1] + jitter[1])
        x_max = min(width, max(x_min + 1, box_xyxy[2] + jitter[2]))
        y_max = min(height, max(y_min + 1, box_xyxy[3] + jitter[3]))
        if x_max > x_min and y_max > y_min:
            return VisualPrompt.box(float(x_min), float(y_min), float(x_max), float(y_max))
    if kind == "scribble" and len(rows) >= 2:
        picked = rng.integers(len(rows), size=3)
        return VisualPrompt.scribble([(float(columns[k]), float(rows[k])) for k in picked])
    pick = int(rng.integers(len(rows)))
    return VisualPrompt.point(float(columns[pick]), float(rows[pick]))
