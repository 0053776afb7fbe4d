"""Descriptions that name only what they can show: phrases in doubt and repeated ones are left out.

"a mug, a duck, a duck and a pan are on the table." with a doubtful pan and one duck becomes
"a mug and a duck are on the table."
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from xsam.inference.census import SAME_PIXELS
from xsam.types.masks import MaskRle
from xsam.types.requests import SegmentationResult, Segments, Status

MIN_DESCRIBED_CHANCE = 0.5
"""A phrase whose mask is more likely wrong than right is left out."""

_SEPARATOR = re.compile(r"\s*(?:,|\band\b|,\s*and\b)\s*")
_ARTICLE = re.compile(r"(?:a|an|the)\s")


def worth_saying(segments: Segments, chances: Sequence[float]) -> NDArray[np.bool_]:
    """Return which segments of a description to keep (N,): likely ones, one for each object.

    Args:
        segments: of the description.
        chances: for each, the chance that it is right.
    """
    keep = np.zeros(len(segments), np.bool_)
    taken: list[MaskRle] = []
    for index in sorted(range(len(segments)), key=lambda k: -chances[k]):
        mask = segments.masks[index]
        if chances[index] < MIN_DESCRIBED_CHANCE:
            break
        if not (MaskRle.iou_matrix([mask], taken) > SAME_PIXELS).any():
            keep[index] = True
            taken.append(mask)
    return keep


def with_shown_phrases(result: SegmentationResult) -> SegmentationResult:
    """Return a description without the phrases that have no segment; NOT_FOUND if none is left.

    The text is shortened only if it lists its phrases ("a, b and c"); in running text every phrase stays,
    because a sentence without its object would say something else, and `hint` names those without a segment.
    """
    shown = sorted(set(result.segments.label_indices.tolist()))
    if len(shown) == len(result.phrases):
        return result
    if not shown:
        message = "nothing in the description could be shown with confidence"
        return replace(result, status=Status.NOT_FOUND, text="", phrases=(), message=message)
    parts = _parts(result.text, result.phrases)
    if parts is None:
        lost = (phrase for index, phrase in enumerate(result.phrases) if index not in shown)
        hint = f"said, but not shown with confidence: {', '.join(dict.fromkeys(lost))}"
        return replace(result, hint="; ".join(filter(None, (result.hint, hint))))
    lead, tail = parts
    kept = tuple(result.phrases[index] for index in shown)
    listed = " and ".join(filter(None, (", ".join(kept[:-1]), kept[-1])))
    if len(kept) == 1 and _ARTICLE.match(kept[0]):
        tail = re.sub(r"^ are\b", " is", tail)
    segments = result.segments
    places = {index: place for place, index in enumerate(shown)}
    indices = np.array([places[index] for index in segments.label_indices.tolist()], np.int32)
    return replace(
        result,
        text=f"{lead}{listed}{tail}",
        phrases=kept,
        segments=replace(segments, label_indices=indices),
    )


def _parts(text: str, phrases: Sequence[str]) -> tuple[str, str] | None:
    """Return what precedes and what follows the list of phrases; None if the text does not list them."""
    at, lead = 0, ""
    for number, phrase in enumerate(phrases):
        found = text.find(phrase, at)
        if found < 0:
            return None
        between = text[at:found]
        if number == 0:
            lead = between
        elif not _SEPARATOR.fullmatch(between):
            return None
        at = found + len(phrase)
    return lead, text[at:]
