"""All questions of each kind that a view allows, with their answers; `conversation` draws from them."""

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
    plural,
    reasoning_answer,
    reasoning_questions,
    referring_expressions,
    split_words,
    with_article,
)

GRID_SIZE = 12
MIN_NEIGHBOR_RATIO = 1.3
"""How many times farther away every other object on that side must be than the neighbor."""

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
_LOW_NUMBERS = ("one", "two", "three", "four", "five", "six")
_NUMBERS = (*_LOW_NUMBERS, "seven", "eight", "nine", "ten", "eleven", "twelve")

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
    """Pairs that are drawn equally often from each side, such as the side "yes" and the side "no".

    It is spent as soon as one side is. Each draw takes either side with the same chance up to the last one,
    so no side is expected more often than another.
    """

    weight: float
    sides: tuple[list[Pair], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What is computed once for all questions about a picture."""

    annotations: Annotations
    labeled: Annotations
    expressions: tuple[Expression, ...]  # with "the"
    absent: Mapping[str, Sequence[str]]  # kind → phrases without article, and questions
    meant: Mapping[int, ObjectAnnotation]  # by instance id
    names: Mapping[int, str]  # instance id → a simple phrase that means only this object
    image_hw: tuple[int, int]
    rng: np.random.Generator

    @property
    def gap_px(self) -> float:
        return MIN_GAP_X_SHARE * self.image_hw[1]

    def targets(self, kinds: Iterable[str]) -> Iterable[tuple[Expression, ObjectAnnotation]]:
        """The expressions of some kinds, each with the object that it means."""
        return ((e, self.meant[e.instance_ids[0]]) for e in self.expressions if e.kind in kinds)


def grid_cell(centroid_xy: tuple[float, float], image_hw: tuple[int, int]) -> tuple[int, int]:
    """Column and row, counted from 0, of a point in a grid of `GRID_SIZE` cells a side.

    The grid covers the square of side max(H, W) with the picture in its top left corner, as the model's
    padded input does.

    Args:
        centroid_xy: in pixels, integers at pixel centers.
        image_hw: (H, W) of the picture without padding.
    """
    scale = GRID_SIZE / max(image_hw)
    column, row = (min(GRID_SIZE - 1, int((value + 0.5) * scale)) for value in centroid_xy)
    return column, row


def prepare_view(
    annotations: Annotations, image_hw: tuple[int, int], rng: np.random.Generator, count: int
) -> View:
    """Find the phrases of a view; at least `count` absent ones of each kind where there are as many."""
    expressions = referring_expressions(annotations, image_hw[1])
    names: dict[int, list[str]] = {}
    for e in expressions:
        if e.kind in _NAME_KINDS:
            names.setdefault(e.instance_ids[0], []).append(e.text)
    absent: dict[str, list[str]] = {kind: [] for kind in language.ABSENT_KINDS}
    for e in absent_expressions(annotations, rng, count_per_kind=max(6, count), article=False):
        absent[e.kind].append(e.text)
    return View(
        annotations=annotations,
        labeled=[item for item in annotations if item.labeled],
        expressions=expressions,
        absent=absent,
        meant={item.instance_id: item for item in annotations},
        names={key: texts[rng.integers(len(texts))] for key, texts in names.items()},
        image_hw=image_hw,
        rng=rng,
    )


def _one_sided(pairs: Mapping[str, list[Pair]], weights: Mapping[str, float]) -> list[Stratum]:
    return [Stratum(weight=weights.get(key, 1.0), sides=(found,)) for key, found in pairs.items()]


def _description(item: ObjectAnnotation) -> str:
    return f"{with_article(f'{item.color} {item.category}')} ."


def _cell_words(item: ObjectAnnotation, image_hw: tuple[int, int]) -> str:
    column, row = grid_cell(item.centroid_xy, image_hw)
    return _CELL.format(_NUMBERS[column], _NUMBERS[row])


def _locations(view: View) -> list[Stratum]:
    found: dict[str, list[Pair]] = {}
    for e, item in view.targets(_LOCATE_SHARES):
        answer = f"{_cell_words(item, view.image_hw)} ."
        found.setdefault(e.kind, []).append((_WHERE.format(e.text), answer))
    return _one_sided(found, _LOCATE_SHARES)


def _cells(view: View) -> list[Stratum]:
    """What has its centroid in a cell, where no other object has its own or covers the cell's center."""
    pitch = max(view.image_hw) / GRID_SIZE
    found: list[Pair] = []
    for item in view.labeled:
        cell = grid_cell(item.centroid_xy, view.image_hw)
        places = (item.centroid_xy, ((cell[0] + 0.5) * pitch - 0.5, (cell[1] + 0.5) * pitch - 0.5))
        others = (other for other in view.annotations if other is not item)
        if not any(
            grid_cell(other.centroid_xy, view.image_hw) == cell or any(_boxed(other, xy) for xy in places)
            for other in others
        ):
            found.append((_WHAT_AT.format(_cell_words(item, view.image_hw)), _description(item)))
    return [Stratum(weight=1.0, sides=(found,))]


def _boxed(item: ObjectAnnotation, xy: tuple[float, float]) -> bool:
    """Whether the pixel at a place, integers at pixel centers, touches an object's box."""
    x0, y0, x1, y1 = item.box_xyxy
    return x0 - 1 <= xy[0] <= x1 and y0 - 1 <= xy[1] <= y1


def _described_phrases(view: View) -> list[Stratum]:
    found: dict[str, list[Pair]] = {}
    for e, item in view.targets(("extreme_x", "size", "distance")):
        if e.text.endswith(" object"):
            found.setdefault(e.kind, []).append((_WHAT.format(e.text), _description(item)))
    return _one_sided(found, {})


def _neighbors(view: View) -> list[Stratum]:
    found: list[Pair] = []
    for key, name in view.names.items():
        for side, sign in (("left", -1), ("right", 1)):
            item = _neighbor(view.meant[key], sign, view.annotations, view.gap_px)
            if item is not None:
                found.append((_WHAT_BESIDE.format(side, name), _description(item)))
    return [Stratum(weight=1.0, sides=(found,))]


def _neighbor(
    anchor: ObjectAnnotation, sign: int, annotations: Annotations, gap_px: float
) -> ObjectAnnotation | None:
    """The labeled object clearly nearest in the picture on one side, rather beside than above or below."""
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


def _colors(view: View) -> list[Stratum]:
    found: dict[str, list[Pair]] = {}
    for e, item in view.targets(("category", "extreme_x", "ordinal", "size", "distance", "relation")):
        if all(color == item.color for color in SECONDARY_COLORS.get(item.category, ())):
            found.setdefault(e.kind, []).append((_WHAT_COLOR.format(e.text), f"{item.color} ."))
    return _one_sided(found, {})


def _categories(view: View) -> list[Stratum]:
    found = [
        (_WHAT.format(e.text), f"{with_article(item.category)} .") for e, item in view.targets(("color",))
    ]
    return [Stratum(weight=1.0, sides=(found,))]


def _presences(view: View) -> list[Stratum]:
    labeled = view.labeled
    categories = {item.category for item in labeled}
    visible = {item.category for item in view.annotations}
    colored = [*view.absent["absent_wrong_color"], *view.absent["absent_color_category"]]
    asked: list[tuple[float, Iterable[str], Iterable[str]]] = [
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
                [(_IS_THERE.format(text), _YES) for text in sorted(set(there))],
                [(_IS_THERE.format(text), _NO) for text in absent],
            ),
        )
        for weight, there, absent in asked
    ]


def _counts(view: View) -> list[Stratum]:
    """Each number equally often, also none."""
    groups: dict[str, list[ObjectAnnotation]] = {"objects": list(view.annotations)}
    for item in view.annotations:
        several = plural(item.category)
        groups.setdefault(several, []).append(item)
        groups.setdefault(f"{item.color} {several}", []).append(item)
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
        if 0 < len(items) <= len(_NUMBERS) and all(item.labeled for item in items):
            number = f"{_NUMBERS[len(items) - 1]} ."
            found.setdefault(number, []).append((_HOW_MANY.format(name), number))
    for kind in ("absent_category", "absent_color", "absent_color_category", "absent_wrong_color"):
        for text in view.absent[kind]:
            color, _, noun = text.partition(" ")
            several = f"{color} {plural(noun)}" if color in COLORS else plural(text)
            found.setdefault(_NONE, []).append((_HOW_MANY.format(several), _NONE))
    return _one_sided(found, {})


def _comparisons(view: View) -> list[Stratum]:
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
                if clearly_less(view.meant[low], view.meant[high]):
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


def _reasonings(view: View) -> list[Stratum]:
    """Answers name every visible object that fits, so one that may not be named rules a question out."""
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


def _captions(view: View) -> list[Stratum]:
    """Not for views where a caption would leave out one of several equal objects, or all there is."""
    looks = [(item.color, item.category) for item in view.annotations]
    hidden = {(item.color, item.category) for item in view.annotations if not item.labeled}
    spoken = {(item.color, item.category) for item in view.labeled}
    if hidden & spoken or (hidden and not spoken) or any(looks.count(look) > 8 for look in spoken):
        return []
    captions = [grounded_caption(view.annotations, view.rng).text for _ in _CAPTION_QUESTIONS]
    found = [
        (question, text.replace("<p>", "").replace("</p>", ""))
        for question, text in zip(_CAPTION_QUESTIONS, captions, strict=True)
    ]
    return [Stratum(weight=1.0, sides=(found,))]


POOLS: dict[str, Callable[[View], list[Stratum]]] = {
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
"""All pairs of each kind; the lists are the caller's to consume."""


def _vocabulary() -> tuple[str, ...]:
    forms = (_WHERE, _CELL, _WHAT, _WHAT_AT, _WHAT_BESIDE, _WHAT_COLOR, _IS_THERE, _HOW_MANY, _COMPARE)
    texts = [*forms, *_LEFT_RIGHT, *_NEAR_FAR, *_SMALL_LARGE, *_CAPTION_QUESTIONS, *_NUMBERS]
    texts += [_YES, _NO, _NONE, _THING, *_PURPOSES.values(), plural("object")]
    words = {word for text in texts for word in split_words(text.replace("{}", " "))}
    return tuple(sorted(words.union(language.VOCABULARY)))


VOCABULARY: tuple[str, ...] = _vocabulary()
"""Every word and punctuation mark of the questions and answers; holds that of `language`."""
