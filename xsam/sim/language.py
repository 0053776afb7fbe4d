"""Ground-truth language about a view: phrases, questions, and captions with the instances they refer to.

A phrase is generated only if it is true and unambiguous by a clear margin. Objects that are visible but not
labeled (see `annotate`) are never referred to, and no phrase is generated that could also refer to one.

All text is lowercase. "left" and "right" refer to the image, "largest" to visible area, and "nearest" to
depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

from xsam.sim.affordances import AFFORDANCES
from xsam.sim.annotate import ObjectAnnotation
from xsam.sim.household import CATEGORIES, COLORS, SECONDARY_COLORS, colors_of
from xsam.sim.words import split_words
from xsam.types.nouns import NUMBER_WORDS, counted, plural

EXPRESSION_KINDS: tuple[str, ...] = (
    "category",
    "color_category",
    "color",
    "extreme_x",
    "ordinal",
    "size",
    "distance",
    "relation",
)
"""Kinds of `referring_expressions`."""

RELATION_KINDS: tuple[str, ...] = ("extreme_x", "ordinal", "size", "distance", "relation")
"""The kinds of `EXPRESSION_KINDS` that compare objects."""

ABSENT_KINDS: tuple[str, ...] = (
    "absent_category",
    "absent_color",
    "absent_color_category",
    "absent_wrong_color",
    "absent_reasoning",
)
"""Kinds of `absent_expressions`."""

MIN_GAP_X_SHARE = 0.05  # of the image width, between centroids
MIN_SIZE_RATIO = 1.3
MIN_DEPTH_GAP_M = 0.04

_ORDINALS = ("second", "third", "fourth", "fifth", "sixth", "seventh")
_MOST_COUNTED = 8
_CAPTIONS = (
    ("{} is on the table .", "{} are on the table ."),
    ("i see {} .", "i see {} ."),
)  # singular, plural
_MAX_CAPTION_PHRASES = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """A phrase or question and the objects it refers to.

    Attributes:
        text: lowercase.
        instance_ids: ascending; empty if nothing in the image matches.
        kind: one of `EXPRESSION_KINDS`, `ABSENT_KINDS`, or "reasoning".
    """

    text: str
    instance_ids: tuple[int, ...]
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundedText:
    """Text with tagged phrases.

    Attributes:
        text: phrases are written `<p>a red mug</p>`; other words and punctuation are separated by spaces.
        instance_ids: for each phrase, in order, the objects it refers to, ascending.
    """

    text: str
    instance_ids: tuple[tuple[int, ...], ...]


def _shows_color(item: ObjectAnnotation, color: str) -> bool:
    """Return True if the object, or a large part of it, could be described with this color."""
    return item.color == color or color in SECONDARY_COLORS.get(item.category, ())


def _if_unique(text: str, candidates: Sequence[ObjectAnnotation], kind: str) -> Iterator[Expression]:
    if len(candidates) == 1 and candidates[0].labeled:
        yield Expression(text=text, instance_ids=(candidates[0].instance_id,), kind=kind)


def _extremes(
    candidates: Sequence[ObjectAnnotation],
    value: Callable[[ObjectAnnotation], float],
    clearly_less: Callable[[float, float], bool],
    superlatives: tuple[str, str],
    noun: str,
    kind: str,
) -> Iterator[Expression]:
    """Yield the objects with the lowest and the highest value, each only if it wins by a margin."""
    ranked = sorted(candidates, key=value)
    for superlative, winner, rival in zip(
        superlatives, (ranked[0], ranked[-1]), (ranked[1], ranked[-2]), strict=True
    ):
        low, high = sorted((value(winner), value(rival)))
        if clearly_less(low, high):
            yield Expression(text=f"{superlative} {noun}", instance_ids=(winner.instance_id,), kind=kind)


def _comparisons(candidates: Sequence[ObjectAnnotation], noun: str, gap_px: float) -> Iterator[Expression]:
    """Yield superlatives among two or more labeled objects that share a noun."""
    yield from _extremes(
        candidates, _x, lambda low, high: high - low >= gap_px, ("leftmost", "rightmost"), noun, "extreme_x"
    )
    yield from _extremes(
        candidates,
        lambda item: float(item.area_px),
        lambda low, high: high >= MIN_SIZE_RATIO * low,
        ("smallest", "largest"),
        noun,
        "size",
    )
    yield from _extremes(
        candidates,
        lambda item: item.depth_m,
        lambda low, high: high - low >= MIN_DEPTH_GAP_M,
        ("nearest", "farthest"),
        noun,
        "distance",
    )


def _ordinals(candidates: Sequence[ObjectAnnotation], noun: str, gap_px: float) -> Iterator[Expression]:
    ranked = sorted(candidates, key=_x)
    if len(ranked) < 3 or any(_x(b) - _x(a) < gap_px for a, b in pairwise(ranked)):
        return
    for side, order in (("left", ranked), ("right", ranked[::-1])):
        for rank in range(1, len(order) - 1):
            text = f"{_ORDINALS[rank - 1]} {noun} from the {side}"
            yield Expression(text=text, instance_ids=(order[rank].instance_id,), kind="ordinal")


def _x(item: ObjectAnnotation) -> float:
    return item.centroid_xy[0]


def _anchor_name(item: ObjectAnnotation, everything: Sequence[ObjectAnnotation]) -> str | None:
    """Return a short name that refers only to this object, or None."""
    same = [other for other in everything if other.category == item.category]
    if len(same) == 1:
        return item.category
    if sum(other.color == item.color for other in same) == 1:
        return f"{item.color} {item.category}"
    return None


def _relations(
    candidates: Sequence[ObjectAnnotation], noun: str, everything: Sequence[ObjectAnnotation], gap_px: float
) -> Iterator[Expression]:
    """Yield "left of", "right of", and "between" phrases for objects of one category and unique anchors."""
    anchors = [
        (item, name)
        for item in everything
        if item.labeled and item.category != candidates[0].category
        if (name := _anchor_name(item, everything)) is not None
    ]
    for anchor, name in anchors:
        left = [item for item in candidates if _x(item) <= _x(anchor) - gap_px]
        right = [item for item in candidates if _x(item) >= _x(anchor) + gap_px]
        if len(left) + len(right) < len(candidates):
            continue  # some candidate is neither clearly left nor clearly right
        for side, chosen in (("left", left), ("right", right)):
            yield from _if_unique(f"{noun} {side} of the {name}", chosen, "relation")
    for (first, first_name), (second, second_name) in combinations(anchors, 2):
        where = [_betweenness(item, first, second) for item in candidates]
        if None not in where:
            chosen = [item for item, inside in zip(candidates, where, strict=True) if inside]
            yield from _if_unique(
                f"{noun} between the {first_name} and the {second_name}", chosen, "relation"
            )


def _betweenness(item: ObjectAnnotation, first: ObjectAnnotation, second: ObjectAnnotation) -> bool | None:
    """Return True if an object lies between two others in the image, None if that is unclear."""
    start, end = np.asarray(first.centroid_xy), np.asarray(second.centroid_xy)
    line = end - start
    length = float(np.hypot(*line))
    if length < 1.0:
        return None
    offset = np.asarray(item.centroid_xy) - start
    along = float(offset @ line) / length**2
    aside = abs(float(line[0] * offset[1] - line[1] * offset[0])) / length**2
    if 0.2 <= along <= 0.8 and aside <= 0.2:
        return True
    if along <= 0.0 or along >= 1.0 or aside >= 0.5:
        return False
    return None


def referring_expressions(
    annotations: Sequence[ObjectAnnotation], width_px: int, *, article: bool = True
) -> tuple[Expression, ...]:
    """Return all phrases of `EXPRESSION_KINDS` that refer to exactly one labeled object.

    Args:
        annotations: all visible objects in the view, including unlabeled ones.
        width_px: width of the image.
        article: begin phrases with "the".
    """
    gap_px = MIN_GAP_X_SHARE * width_px
    found: list[Expression] = []
    for color in sorted({item.color for item in annotations}):
        shown = [item for item in annotations if _shows_color(item, color)]
        if shown[0].color == color:
            found += _if_unique(f"{color} object", shown, "color")
    for category in sorted({item.category for item in annotations}):
        same = [item for item in annotations if item.category == category]
        found += _if_unique(category, same, "category")
        for color in sorted({item.color for item in same}):
            painted = [item for item in same if item.color == color]
            found += _if_unique(f"{color} {category}", painted, "color_category")
        if len(same) >= 2 and all(item.labeled for item in same):
            found += _comparisons(same, category, gap_px)
            found += _ordinals(same, category, gap_px)
            found += _relations(same, category, annotations, gap_px)
    if len(annotations) >= 2 and all(item.labeled for item in annotations):
        found += _comparisons(annotations, "object", gap_px)
    if not article:
        return tuple(found)
    return tuple(Expression(text=f"the {e.text}", instance_ids=e.instance_ids, kind=e.kind) for e in found)


def category_queries(
    annotations: Sequence[ObjectAnnotation], rng: np.random.Generator, *, absent_count: int = 4
) -> tuple[Expression, ...]:
    """Return category names in random order: those with labeled objects, and some absent from the image.

    Categories with only unlabeled objects visible are omitted.
    """
    visible = {item.category for item in annotations}
    queries = []
    for category in sorted(visible):
        ids = tuple(item.instance_id for item in annotations if item.category == category and item.labeled)
        if ids:
            queries.append(Expression(text=category, instance_ids=ids, kind="category"))
    absent = [category for category in CATEGORIES if category not in visible]
    for category in rng.permutation(absent)[:absent_count]:
        queries.append(Expression(text=str(category), instance_ids=(), kind="absent_category"))
    return tuple(queries[k] for k in rng.permutation(len(queries)))


def reasoning_questions(annotations: Sequence[ObjectAnnotation]) -> tuple[Expression, ...]:
    """Return every paraphrase of every question that at least one labeled object answers."""
    questions = []
    for affordance in AFFORDANCES:
        fitting = (item for item in annotations if item.labeled and item.category in affordance.categories)
        ids = tuple(item.instance_id for item in fitting)
        if ids:
            questions += [
                Expression(text=q, instance_ids=ids, kind="reasoning") for q in affordance.questions
            ]
    return tuple(questions)


def _groups(annotations: Sequence[ObjectAnnotation]) -> list[list[ObjectAnnotation]]:
    """Group labeled objects by category and color, in the order of `CATEGORIES` and of the alphabet.

    A fixed order can be continued by a model that knows what is in the picture, but not where.
    """
    groups: dict[tuple[int, str], list[ObjectAnnotation]] = {}
    for item in annotations:
        if item.labeled:
            groups.setdefault((CATEGORIES.index(item.category), item.color), []).append(item)
    return [groups[key] for key in sorted(groups)]


def _enumerate(phrases: Sequence[str]) -> str:
    return " and ".join(filter(None, (" , ".join(phrases[:-1]), phrases[-1])))


def reasoning_answer(question: Expression, annotations: Sequence[ObjectAnnotation]) -> str:
    """Return a sentence that names the objects a question asks for, such as "you can use the red mug ."."""
    chosen = [item for item in annotations if item.instance_id in question.instance_ids]
    if not chosen:
        return "there is nothing like that ."
    names = []
    for group in _groups(chosen):
        noun = group[0].category if len(group) == 1 else plural(group[0].category)
        names.append(f"the {group[0].color} {noun}")
    return f"you can use {_enumerate(names)} ."


def grounded_caption(
    annotations: Sequence[ObjectAnnotation], rng: np.random.Generator | None = None
) -> GroundedText:
    """List the labeled objects by category, identical ones together, in at most six phrases.

    Args:
        annotations: all visible objects in the view.
        rng: chooses the wording; None always uses the first one.
    """
    groups = _groups(annotations)[:_MAX_CAPTION_PHRASES]
    if not groups:
        return GroundedText(text="there is nothing on the table .", instance_ids=())
    phrases = []
    for group in groups:
        item = group[0]
        phrase = counted(f"{item.color} {item.category}", min(len(group), _MOST_COUNTED))
        phrases.append(f"<p>{phrase}</p>")
    singular, plural_form = _CAPTIONS[0 if rng is None else int(rng.integers(len(_CAPTIONS)))]
    form = singular if len(groups) == 1 and len(groups[0]) == 1 else plural_form
    ids = tuple(tuple(sorted(item.instance_id for item in group)) for group in groups)
    return GroundedText(text=form.format(_enumerate(phrases)), instance_ids=ids)


def absent_expressions(
    annotations: Sequence[ObjectAnnotation],
    rng: np.random.Generator,
    *,
    count_per_kind: int = 2,
    article: bool = True,
) -> tuple[Expression, ...]:
    """Draw phrases and questions that match nothing visible, not even an unlabeled object.

    Args:
        annotations: all visible objects in the view.
        rng: chooses among the possible phrases.
        count_per_kind: maximum number for each of `ABSENT_KINDS`.
        article: begin phrases with "the"; questions are unaffected.
    """
    visible = {item.category for item in annotations}
    pairs = {(item.color, item.category) for item in annotations}
    unseen = [category for category in CATEGORIES if category not in visible]
    choices = {
        "absent_category": unseen,
        "absent_color": [
            f"{color} object"
            for color in COLORS
            if not any(_shows_color(item, color) for item in annotations)
        ],
        "absent_color_category": [
            f"{color} {category}" for category in unseen for color in colors_of(category)
        ],
        "absent_wrong_color": [
            f"{color} {category}"
            for category in sorted(visible)
            for color in COLORS
            if (color, category) not in pairs and color not in SECONDARY_COLORS.get(category, ())
        ],
        "absent_reasoning": [
            question
            for affordance in AFFORDANCES
            if not affordance.categories & visible
            for question in affordance.questions
        ],
    }
    found = []
    for kind in ABSENT_KINDS:
        for text in rng.permutation(choices[kind])[:count_per_kind]:
            lead = "the " if article and kind != "absent_reasoning" else ""
            found.append(Expression(text=f"{lead}{text}", instance_ids=(), kind=kind))
    return tuple(found)


def _vocabulary() -> tuple[str, ...]:
    texts = [*CATEGORIES, *(plural(category) for category in CATEGORIES), *COLORS, *_ORDINALS]
    texts += NUMBER_WORDS[1:_MOST_COUNTED]
    texts += [question for affordance in AFFORDANCES for question in affordance.questions]
    texts += [form.replace("{}", "") for pair in _CAPTIONS for form in pair]
    texts += ["the object a an and ,", "leftmost rightmost smallest largest nearest farthest"]
    texts += [
        "from the left of the right between",
        "you can use .",
        "there is nothing like that on the table .",
    ]
    return tuple(sorted({word for text in texts for word in split_words(text)}))


VOCABULARY: tuple[str, ...] = _vocabulary()
"""Every word and punctuation mark the functions of this module can produce, without the tags <p> and </p>."""
