"""Draw training prompts of every task, with their targets, for simulated scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xsam.data.region_prompts import draw_region_prompt
from xsam.data.samples import answer_with_masks
from xsam.inference.prompt_masks import prompt_mask
from xsam.inference.prompts import Conversation, conversation_for
from xsam.sim.annotate import ObjectAnnotation
from xsam.sim.household import CATEGORIES
from xsam.sim.language import (
    RELATION_KINDS,
    Expression,
    absent_expressions,
    category_queries,
    grounded_caption,
    reasoning_answer,
    reasoning_questions,
    referring_expressions,
)
from xsam.sim.render import STUFF_NAMES
from xsam.types.masks import BoolMask
from xsam.types.requests import PromptKind, Query, Task, VisualPrompt

RELATION_SHARE = 0.7
"""Share of `RELATION_KINDS` among the referring phrases in training: they are the hard ones."""
STUFF = {name: stuff_id for stuff_id, name in enumerate(STUFF_NAMES) if stuff_id}
"""Name of a surface → its value in the stuff image."""
_REGION_KIND_SHARES = {
    PromptKind.POINT: 0.35,
    PromptKind.BOX: 0.3,
    PromptKind.SCRIBBLE: 0.15,
    PromptKind.MASK: 0.2,
}

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
    """One prompt for one scene.

    `targets` holds, for each condition, the instance ids it refers to (empty if none); `stuff_targets` maps
    the conditions that refer to a surface to its stuff id.
    """

    kind: str
    conversation: Conversation
    targets: tuple[tuple[int, ...], ...]
    stuff_targets: Mapping[int, int]  # condition index → stuff id
    regions: tuple[BoolMask, ...] = ()  # one mask per `<region>`


def draw_kinds(rng: np.random.Generator, count: int, shares: Mapping[str, float] = TASK_SHARES) -> list[str]:
    """Draw `count` kinds of prompts in the proportions of `shares`."""
    weights = np.array(list(shares.values()))
    return [str(kind) for kind in rng.choice(list(shares), size=count, p=weights / weights.sum())]


def draw_prompts(
    annotations: Sequence[ObjectAnnotation],
    instance_ids: NDArray[np.uint8],
    rng: np.random.Generator,
    kinds: Sequence[str],
) -> list[ScenePrompt]:
    """Draw one prompt of each kind for a scene; kinds that the scene does not support are replaced.

    Args:
        annotations: all visible objects, including unlabeled ones.
        instance_ids: (H, W), without padding.
        rng: source of randomness.
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
        question_text = conversation_for(Query(task=Task.GROUNDED_CONVERSATION)).question
        return ScenePrompt(
            kind="grounded_conversation",
            conversation=Conversation(question=question_text, answer=answer_with_masks(caption.text)),
            targets=caption.instance_ids,
            stuff_targets={},
        )
    return _categories(annotations, rng)


def _balanced_choice(expressions: Sequence[Expression], rng: np.random.Generator) -> Expression:
    """Choose a relation in most cases; draw kinds evenly, so frequent ones do not crowd out others."""
    relations = [e for e in expressions if e.kind in RELATION_KINDS]
    simple = [e for e in expressions if e.kind not in RELATION_KINDS]
    pool = relations if relations and (not simple or rng.random() < RELATION_SHARE) else simple
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
    question_text = conversation_for(Query(task=Task.REASONING, text=question.text, explain=True)).question
    answer = answer_with_masks(reasoning_answer(question, annotations))
    return ScenePrompt(
        kind="explained_reasoning",
        conversation=Conversation(question=question_text, answer=answer),
        targets=(question.instance_ids,),
        stuff_targets={},
    )


def _categories(annotations: Sequence[ObjectAnnotation], rng: np.random.Generator) -> ScenePrompt:
    """Draw a list of categories: present ones and a few others, all categories, or only surfaces."""
    form = rng.choice(["some", "few", "everything", "surfaces"], p=[0.35, 0.35, 0.22, 0.08])
    if form == "everything":
        queries = category_queries(annotations, rng, absent_count=len(CATEGORIES))
        if rng.random() < 0.5:
            queries = tuple(sorted(queries, key=lambda query: CATEGORIES.index(query.text)))
    elif rng.random() < 0.2:
        queries = _colored_categories(annotations, rng)
    else:
        queries = category_queries(annotations, rng, absent_count=int(rng.integers(1, 4)))
    if form == "few":  # possibly all absent: the model must also learn to answer "none of these"
        queries = queries[: int(rng.integers(1, 4))]
    names = [] if form == "surfaces" else [query.text for query in queries]
    targets = [] if form == "surfaces" else [query.instance_ids for query in queries]
    if form == "surfaces" or rng.random() < 0.5:
        for name in STUFF:
            # People list surfaces last, like `Query.stuff_classes`; the model should not depend on that.
            index = len(names) if rng.random() < 0.7 else int(rng.integers(len(names) + 1))
            names.insert(index, name)
            targets.insert(index, ())
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
    """Return categories with a color ("red mug"), with all objects of each, and some absent ones."""
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
        chosen = []
        for category in rng.permutation(categories)[: int(rng.integers(1, 4))]:
            same = [item for item in labeled if item.category == category]
            chosen.append(same[rng.integers(len(same))])
        targets = tuple(
            tuple(a.instance_id for a in annotations if a.category == item.category and a.labeled)
            for item in chosen
        )
    regions = tuple(
        prompt_mask([random_region(instance_ids == item.instance_id, rng)], instance_ids.shape)
        for item in chosen
    )
    query = Query(
        task=Task.INTERACTIVE if kind == "interactive" else Task.VISUAL_GROUNDED,
        prompts=tuple(VisualPrompt.from_mask(region) for region in regions),
    )
    return ScenePrompt(
        kind=kind, conversation=conversation_for(query), targets=targets, stuff_targets={}, regions=regions
    )


def random_region(mask: BoolMask, rng: np.random.Generator) -> VisualPrompt:
    """Draw a prompt of a random kind for an object (H, W); the sides of boxes are off by up to two pixels."""
    kinds = list(_REGION_KIND_SHARES)
    kind = kinds[int(rng.choice(len(kinds), p=list(_REGION_KIND_SHARES.values())))]
    offsets = rng.integers(-2, 3, size=4) if kind is PromptKind.BOX else 0
    return draw_region_prompt(kind, mask, rng, box_offsets_px=offsets, sort_scribble=False)
