"""Descriptions that name only what they can show: phrases in doubt and repeated ones are left out.

"a mug, a duck, a duck and a pan are on the table." with a doubtful pan and one duck becomes "a mug and a duck
are on the table.", with two ducks "a mug and two ducks are on the table."
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from xsam.inference.census import SAME_PIXELS
from xsam.types.masks import MaskRle
from xsam.types.nouns import counted
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

    Equal phrases are counted: "two ducks". The text is changed only if it lists its phrases ("a, b and c");
    in running text every phrase stays, because a sentence without its object would say something else, and
    `hint` names those without a segment.
    """
    segments = result.segments
    shown = sorted(set(segments.label_indices.tolist()))
    if not shown:
        message = "nothing in the description could be shown with confidence"
        return replace(result, status=Status.NOT_FOUND, text="", phrases=(), message=message)
    parts = list_parts(result.text, result.phrases)
    if parts is None:
        lost = (phrase for index, phrase in enumerate(result.phrases) if index not in shown)
        if not (names := ", ".join(dict.fromkeys(lost))):
            return result
        hint = f"said, but not shown with confidence: {names}"
        return replace(result, hint="; ".join(filter(None, (result.hint, hint))))
    groups: dict[str, list[int]] = {}
    for index in shown:
        groups.setdefault(result.phrases[index], []).append(index)
    phrases = tuple(_counted(phrase, len(own)) for phrase, own in groups.items())
    places = {index: place for place, own in enumerate(groups.values()) for index in own}
    indices = np.array([places[index] for index in segments.label_indices.tolist()], np.int32)
    labels = tuple(phrases[index] for index in indices.tolist())
    return replace(
        result,
        text=join_phrases(*parts, phrases),
        phrases=phrases,
        segments=replace(segments, label_indices=indices, labels=labels),
    )


def _counted(phrase: str, number: int) -> str:
    """Return a phrase for a number of objects: "a duck", 2 → "two ducks"; one that is plural stays."""
    article = _ARTICLE.match(phrase)
    return counted(phrase[article.end() :], number) if article is not None and number > 1 else phrase


def list_parts(text: str, phrases: Sequence[str]) -> tuple[str, str] | None:
    """Return what precedes and what follows a list of phrases; None if the text does not list them.

    A text without phrases is replaced when some are added.
    """
    if not phrases:
        return "", " are there."
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


def join_phrases(lead: str, tail: str, phrases: Sequence[str]) -> str:
    """Return the list of phrases between what precedes and what follows it."""
    if len(phrases) == 1 and _ARTICLE.match(phrases[0]):
        tail = re.sub(r"^ are\b", " is", tail)
    elif len(phrases) > 1:
        tail = re.sub(r"^ is\b", " are", tail)
    listed = " and ".join(filter(None, (", ".join(phrases[:-1]), phrases[-1])))
    return f"{lead}{listed}{tail}"
