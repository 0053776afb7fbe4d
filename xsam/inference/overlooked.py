"""Weak signs of more objects than an answer shows: whoever counts must know of them.

Three mugs of which the third is half hidden are often two sure segments. The census of the frame
(`xsam.inference.census`) lists the third with a low score, that of a teapot in front of it, or not at all. Of
confident numbers of several objects a quarter are too low; where the census has no such sign, a tenth.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

from xsam.inference.census import SAME_PIXELS, Census, named_category
from xsam.inference.kinds import CATEGORY_TASKS
from xsam.types.masks import MaskRle
from xsam.types.nouns import NUMBER_WORDS, plural
from xsam.types.requests import SegmentationResult, Status, Task

MIN_SIGN = 0.15
"""Score in the census from which an object that an answer does not show is worth a word."""
CLEARLY_ANOTHER = (0.6, 2.0)
"""It is no sign if another category has this score on the same pixels, and this many times its own."""
WEAK_SIGNS = "weak signs of"
"""How the hint begins."""

_THE = re.compile(r"^(?:the|a|an)\s+", re.IGNORECASE)


def with_overlooked(result: SegmentationResult, task: Task, census: Census) -> SegmentationResult:
    """Return the result with a hint about objects that it may have overlooked: how many of what, and where.

    These are objects of the categories that were found. An answer that asks for all by a threshold of its
    own, and phrases that say more than a category, get none.
    """
    found = result.status in (Status.FOUND, Status.UNSURE) and len(result) > 0
    if not found or result.query.score_threshold is not None:
        return result
    if task in CATEGORY_TASKS:
        names = {named_category(label, census.names) for label in result.segments.labels}
    elif task is Task.REFERRING and (noun := _THE.sub("", result.query.text.strip())) in census.names:
        names = {noun}
    else:
        return result
    signs: Counter[str] = Counter()
    places: list[str] = []
    shown = list(result.segments.masks)
    for label, score, mask in sorted(
        zip(census.labels, census.scores, census.masks, strict=True), key=lambda sign: -sign[1]
    ):
        if label not in names or score < MIN_SIGN or (MaskRle.iou_matrix([mask], shown) > SAME_PIXELS).any():
            continue
        if _is_clearly_another(label, score, mask, census):
            continue
        shown.append(mask)
        signs[label] += 1
        x, y = mask.area_and_centroid()[1]
        places.append(f"({x:.0f}, {y:.0f})")
    if not signs:
        return result
    listed = ", ".join(_more(label, count) for label, count in signs.items())
    hint = f"{WEAK_SIGNS} {listed} at pixel {', '.join(places)}, not shown: the number is not certain"
    return replace(result, hint="; ".join(filter(None, (result.hint, hint))))


def _is_clearly_another(label: str, score: float, mask: MaskRle, census: Census) -> bool:
    """Return whether a mask is an object of another category: a block that could be an apple is no apple."""
    least, times = CLEARLY_ANOTHER
    same = MaskRle.iou_matrix([mask], census.masks)[0] > SAME_PIXELS
    columns = zip(census.labels, census.scores, same.tolist(), strict=True)
    rival = max((value for other, value, here in columns if here and other != label), default=0.0)
    return rival >= max(least, times * score)


def _more(label: str, count: int) -> str:
    """Return "one more mug", "two more mugs"."""
    number = NUMBER_WORDS[count - 1] if count <= len(NUMBER_WORDS) else str(count)
    return f"{number} more {label if count == 1 else plural(label)}"
