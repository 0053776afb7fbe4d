"""All questions of each kind that a view supports, with their answers; `conversation` draws from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from xsam.sim import language
from xsam.sim.affordances import AFFORDANCES
from xsam.sim.annotate import ObjectAnnotation
from xsam.sim.household import COLORS, SECONDARY_COLORS
from xsam.sim.language import (
    MIN_DEPTH_GAP_M,
    MIN_GAP_X_SHARE,
    MIN_SIZE_RATIO,
    Expression,
    absent_expressions,
    grounded_caption,
    reasoning_answer,
    reasoning_questions,
    referring_expressions,
)
from xsam.sim.words import split_words
from xsam.types.nouns import NUMBER_WORDS, plural, with_article

GRID_SIZE = 12
MIN_NEIGHBOR_RATIO = 1.3
"""Every other object on that side must be at least this many times farther away than the neighbor."""

_LOCATE_SHARES = {
    "category": 1.0,
    "color_category": 1.0,
    "color": 1.0,
    "extreme_x": 2.0,
    "ordinal": 4.0,
    "size": 2.0,
    "distance": 2.0,
    "relation": 3.0,
}
_NAME_KINDS = ("category", "color_category", "color")

_WHERE, _CELL = "where is {} ?", "column {} row {}"
_WHAT, _WHAT_AT, _WHAT_BESIDE = "what is {} ?", "what is at {} ?", "what is just {} of {} ?"
_WHAT_COLOR, _IS_THERE, _HOW_MANY = "what color is {} ?", "is there {} ?", "how many {} are there ?"
_COMPARE = "is {} {} {} ?"
_LEFT_RIGHT, _NEAR_FAR = ("left of", "right of"), ("nearer than", "farther than")
_SMALL_LARGE = ("smaller than", "larger than")
_CAPTION_QUESTIONS = ("what do you see ?", "what is on the table ?", "describe the picture .")
_YES, _NO, _NONE, _THING = "yes .", "no .", "none .", "something {}"
_PURPOSES = {
    "drink": "to drink from",
    "eat": "to eat",
    "cut": "to cut bread with",
    "play": "a child can play with",
    "read": "to read",
    "call": "to call someone with",
    "repair": "for repair work",
    "cook": "to cook with",
    "pour": "to pour tea from",
    "flowers": "to put flowers in",
    "fruit": "for a fruit salad",
    "nail": "to hit a nail with",
    "screw": "to turn a screw with",
    "soup": "to eat soup from",
    "stir": "to stir coffee with",
    "serve": "to serve cake on",
    "stick": "to stick paper to the wall with",
    "container": "that can hold things",
}

Pair = tuple[str, str]  # question, answer
Annotations = Sequence[ObjectAnnotation]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stratum:
    """Pairs drawn with equal probability from each side, such as a "yes" side and a "no" side.

    The stratum is exhausted as soon as one side is empty, so until then no side is more likely than another.
    """

    weight: float
    sides: tuple[list[Pair], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewFacts:
    """Facts about a view that are computed once for all questions about it."""

    annotations: Annotations
    labeled: Annotations
    expressions: tuple[Expression, ...]  # with "the"
    absent: Mapping[str, Sequence[str]]  # kind → phrases without article, and questions
    by_id: Mapping[int, ObjectAnnotation]
    names: Mapping[int, str]  # instance id → a simple phrase that refers only to this object
    image_hw: tuple[int, int]
    rng: np.random.Generator

    @property
    def gap_px(self) -> float:
        return MIN_GAP_X_SHARE * self.image_hw[1]

    def targets(self, kinds: Iterable[str]) -> Iterable[tuple[Expression, ObjectAnnotation]]:
        """Return the expressions of the given kinds, each with the object it refers to."""
        return ((e, self.by_id[e.instance_ids[0]]) for e in self.expressions if e.kind in kinds)


def grid_cell(centroid_xy: tuple[float, float], image_hw: tuple[int, int]) -> tuple[int, int]:
    """Return the column and row, from 0, of a point in a grid of `GRID_SIZE` × `GRID_SIZE` cells.

    The grid covers the square of side max(H, W) with the image in its top left corner, like the model's
    padded input.

    Args:
        centroid_xy: in pixels, integers at pixel centers.
        image_hw: (H, W) of the image without padding.
    """
    scale = GRID_SIZE / max(image_hw)
    column, row = (min(GRID_SIZE - 1, int((value + 0.5) * scale)) for value in centroid_xy)
    return column, row


def prepare_view(
    annotations: Annotations, image_hw: tuple[int, int], rng: np.random.Generator, count: int
) -> ViewFacts:
    """Collect the phrases of a view, with at least `count` absent ones of each kind if that many exist."""
    expressions = referring_expressions(annotations, image_hw[1])
    names: dict[int, list[str]] = {}
    for e in expressions:
        if e.kind in _NAME_KINDS:
            names.setdefault(e.instance_ids[0], []).append(e.text)
    absent: dict[str, list[str]] = {kind: [] for kind in language.ABSENT_KINDS}
    for e in absent_expressions(annotations, rng, count_per_kind=max(6, count), article=False):
        absent[e.kind].append(e.text)
    return ViewFacts(
        annotations=annotations,
        labeled=[item for item in annotations if item.labeled],
        expressions=expressions,
        absent=absent,
        by_id={item.instance_id: item for item in annotations},
        names={key: texts[rng.integers(len(texts))] for key, texts in names.items()},
        image_hw=image_hw,
        rng=rng,
    )


def _one_sided(pairs: Mapping[str, list[Pair]], weights: Mapping[str, float]) -> list[Stratum]:
    return [Stratum(weight=weights.get(key, 1.0), sides=(found,)) for key, found in pairs.items()]


def _description(item: ObjectAnnotation) -> str:
    return f"{with_article(f'{item.color} {item.category}')} ."


def _cell_text(item: ObjectAnnotation, image_hw: tuple[int, int]) -> str:
    column, row = grid_cell(item.centroid_xy, image_hw)
    return _CELL.format(NUMBER_WORDS[column], NUMBER_WORDS[row])


def _locations(view: ViewFacts) -> list[Stratum]:
    found: dict[str, list[Pair]] = {}
    for e, item in view.targets(_LOCATE_SHARES):
        answer = f"{_cell_text(item, view.image_hw)} ."
        found.setdefault(e.kind, []).append((_WHERE.format(e.text), answer))
    return _one_sided(found, _LOCATE_SHARES)


def _cells(view: ViewFacts) -> list[Stratum]:
    """Ask what is in a cell that holds exactly one centroid and whose center no other object covers."""
    pitch = max(view.image_hw) / GRID_SIZE
    found: list[Pair] = []
    for item in view.labeled:
        cell = grid_cell(item.centroid_xy, view.image_hw)
        points = (item.centroid_xy, ((cell[0] + 0.5) * pitch - 0.5, (cell[1] + 0.5) * pitch - 0.5))
        others = (other for other in view.annotations if other is not item)
        if not any(
            grid_cell(other.centroid_xy, view.image_hw) == cell or any(_in_box(other, xy) for xy in points)
            for other in others
        ):
            found.append((_WHAT_AT.format(_cell_text(item, view.image_hw)), _description(item)))
    return [Stratum(weight=1.0, sides=(found,))]


def _in_box(item: ObjectAnnotation, xy: tuple[float, float]) -> bool:
    """Return True if the pixel at (x, y), integers at pixel centers, touches an object's box."""
    x0, y0, x1, y1 = item.box_xyxy
    return x0 - 1 <= xy[0] <= x1 and y0 - 1 <= xy[1] <= y1


def _described_phrases(view: ViewFacts) -> list[Stratum]:
    found: dict[str, list[Pair]] = {}
    for e, item in view.targets(("extreme_x", "size", "distance")):
        if e.text.endswith(" object"):
            found.setdefault(e.kind, []).append((_WHAT.format(e.text), _description(item)))
    return _one_sided(found, {})


def _neighbors(view: ViewFacts) -> list[Stratum]:
    found: list[Pair] = []
    for key, name in view.names.items():
        for side, sign in (("left", -1), ("right", 1)):
            item = _neighbor(view.by_id[key], sign, view.annotations, view.gap_px)
            if item is not None:
                found.append((_WHAT_BESIDE.format(side, name), _description(item)))
    return [Stratum(weight=1.0, sides=(found,))]


def _neighbor(
    anchor: ObjectAnnotation, sign: int, annotations: Annotations, gap_px: float
) -> ObjectAnnotation | None:
    """Return the labeled object that is clearly nearest on one side, beside rather than above or below."""
    ranked = []
    for item in annotations:
        aside = sign * (item.centroid_xy[0] - anchor.centroid_xy[0])
        if aside > 0:
            off = abs(item.centroid_xy[1] - anchor.centroid_xy[1])
            ranked.append((math.hypot(aside, off), item.instance_id, aside, off, item))
    ranked.sort(key=lambda entry: entry[:2])
    if not ranked:
        return None
    distance, _, aside, off, item = ranked[0]
    clear = len(ranked) == 1 or ranked[1][0] >= MIN_NEIGHBOR_RATIO * distance
    return item if clear and aside >= gap_px and off <= aside and item.labeled else None


def _colors(view: ViewFacts) -> list[Stratum]:
    found: dict[str, list[Pair]] = {}
    for e, item in view.targets(("category", "extreme_x", "ordinal", "size", "distance", "relation")):
        if all(color == item.color for color in SECONDARY_COLORS.get(item.category, ())):
            found.setdefault(e.kind, []).append((_WHAT_COLOR.format(e.text), f"{item.color} ."))
    return _one_sided(found, {})


def _categories(view: ViewFacts) -> list[Stratum]:
    found = [
        (_WHAT.format(e.text), f"{with_article(item.category)} .") for e, item in view.targets(("color",))
    ]
    return [Stratum(weight=1.0, sides=(found,))]


def _presences(view: ViewFacts) -> list[Stratum]:
    labeled = view.labeled
    categories = {item.category for item in labeled}
    visible = {item.category for item in view.annotations}
    colored = [*view.absent["absent_wrong_color"], *view.absent["absent_color_category"]]
    candidates: list[tuple[float, Iterable[str], Iterable[str]]] = [  # weight, present, absent
        (1.0, map(with_article, categories), map(with_article, view.absent["absent_category"])),
        (
            1.0,
            (with_article(f"{item.color} object") for item in labeled),
            map(with_article, view.absent["absent_color"]),
        ),
        (
            2.0,
            (with_article(f"{item.color} {item.category}") for item in labeled),
            map(with_article, colored),
        ),
        (
            1.0,
            (_THING.format(_PURPOSES[a.name]) for a in AFFORDANCES if a.categories & categories),
            (_THING.format(_PURPOSES[a.name]) for a in AFFORDANCES if not a.categories & visible),
        ),
    ]
    return [
        Stratum(
            weight=weight,
            sides=(
                [(_IS_THERE.format(text), _YES) for text in sorted(set(present))],
                [(_IS_THERE.format(text), _NO) for text in absent],
            ),
        )
        for weight, present, absent in candidates
    ]


def _counts(view: ViewFacts) -> list[Stratum]:
    """Ask for counts; every answer, including none, is drawn equally often."""
    groups: dict[str, list[ObjectAnnotation]] = {"objects": list(view.annotations)}
    for item in view.annotations:
        category_plural = plural(item.category)
        groups.setdefault(category_plural, []).append(item)
        groups.setdefault(f"{item.color} {category_plural}", []).append(item)
    for color in sorted({item.color for item in view.annotations}):
        shown = [
            item
            for item in view.annotations
            if item.color == color or color in SECONDARY_COLORS.get(item.category, ())
        ]
        if all(item.color == color for item in shown):
            groups[f"{color} objects"] = shown
    found: dict[str, list[Pair]] = {}
    for name, items in groups.items():
        if 0 < len(items) <= len(NUMBER_WORDS) and all(item.labeled for item in items):
            number = f"{NUMBER_WORDS[len(items) - 1]} ."
            found.setdefault(number, []).append((_HOW_MANY.format(name), number))
    for kind in ("absent_category", "absent_color", "absent_color_category", "absent_wrong_color"):
        for text in view.absent[kind]:
            color, _, noun = text.partition(" ")
            name = f"{color} {plural(noun)}" if color in COLORS else plural(text)
            found.setdefault(_NONE, []).append((_HOW_MANY.format(name), _NONE))
    return _one_sided(found, {})


def _comparisons(view: ViewFacts) -> list[Stratum]:
    relations: tuple[tuple[tuple[str, str], Callable[[ObjectAnnotation, ObjectAnnotation], bool]], ...] = (
        (_LEFT_RIGHT, lambda a, b: b.centroid_xy[0] - a.centroid_xy[0] >= view.gap_px),
        (_NEAR_FAR, lambda a, b: b.depth_m - a.depth_m >= MIN_DEPTH_GAP_M and a.depth_m > 0),
        (_SMALL_LARGE, lambda a, b: b.area_px >= MIN_SIZE_RATIO * a.area_px),
    )
    strata = []
    for (less_word, more_word), clearly_less in relations:
        true: list[Pair] = []
        false: list[Pair] = []
        for one, other in combinations(view.names, 2):
            for low, high in ((one, other), (other, one)):
                if clearly_less(view.by_id[low], view.by_id[high]):
                    a, b = view.names[low], view.names[high]
                    true += [
                        (_COMPARE.format(a, less_word, b), _YES),
                        (_COMPARE.format(b, more_word, a), _YES),
                    ]
                    false += [
                        (_COMPARE.format(a, more_word, b), _NO),
                        (_COMPARE.format(b, less_word, a), _NO),
                    ]
        strata.append(Stratum(weight=1.0, sides=(true, false)))
    return strata


def _reasonings(view: ViewFacts) -> list[Stratum]:
    """Ask about uses; a question is skipped if an unlabeled object would belong in its answer."""
    unlabeled = {item.category for item in view.annotations if not item.labeled}
    unclear = {q for a in AFFORDANCES if a.categories & unlabeled for q in a.questions}
    present = [q for q in reasoning_questions(view.annotations) if q.text not in unclear]
    absent = [
        Expression(text=text, instance_ids=(), kind="absent_reasoning")
        for text in view.absent["absent_reasoning"]
    ]
    return [
        Stratum(
            weight=weight,
            sides=([(" ".join(split_words(q.text)), reasoning_answer(q, view.annotations)) for q in group],),
        )
        for weight, group in ((2.0, present), (1.0, absent))
    ]


def _captions(view: ViewFacts) -> list[Stratum]:
    """Ask for a caption, unless it would omit one of several identical objects, or all visible objects."""
    names = [(item.color, item.category) for item in view.annotations]
    unlabeled = {(item.color, item.category) for item in view.annotations if not item.labeled}
    labeled = {(item.color, item.category) for item in view.labeled}
    if unlabeled & labeled or (unlabeled and not labeled) or any(names.count(name) > 8 for name in labeled):
        return []
    captions = [grounded_caption(view.annotations, view.rng).text for _ in _CAPTION_QUESTIONS]
    found = [
        (question, text.replace("<p>", "").replace("</p>", ""))
        for question, text in zip(_CAPTION_QUESTIONS, captions, strict=True)
    ]
    return [Stratum(weight=1.0, sides=(found,))]


POOLS: dict[str, Callable[[ViewFacts], list[Stratum]]] = {
    "locate": _locations,
    "describe_cell": _cells,
    "describe_phrase": _described_phrases,
    "describe_neighbor": _neighbors,
    "color": _colors,
    "category": _categories,
    "presence": _presences,
    "count": _counts,
    "compare": _comparisons,
    "reasoning": _reasonings,
    "caption": _captions,
}
"""Kind of question → function that returns all pairs of that kind; the caller may consume the lists."""


def _vocabulary() -> tuple[str, ...]:
    forms = (_WHERE, _CELL, _WHAT, _WHAT_AT, _WHAT_BESIDE, _WHAT_COLOR, _IS_THERE, _HOW_MANY, _COMPARE)
    texts = [*forms, *_LEFT_RIGHT, *_NEAR_FAR, *_SMALL_LARGE, *_CAPTION_QUESTIONS, *NUMBER_WORDS]
    texts += [_YES, _NO, _NONE, _THING, *_PURPOSES.values(), plural("object")]
    words = {word for text in texts for word in split_words(text.replace("{}", " "))}
    return tuple(sorted(words.union(language.VOCABULARY)))


VOCABULARY: tuple[str, ...] = _vocabulary()
"""Every word and punctuation mark of the questions and answers; a superset of that of `language`."""
