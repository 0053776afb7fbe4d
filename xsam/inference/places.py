"""Phrases that compare objects by place or size, resolved on the outlines of the census and the depth image.

A model may find every mug and still not know which of them is the leftmost. The outlines tell
(`xsam.spatial.phrases`), as long as all mugs are found and nothing else is taken for one. Therefore an
answer is believed only if it is the same whether doubtful objects of the census count or not.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from xsam.inference.census import MIN_CANDIDATE_SCORE, MIN_CENSUS_SCORE, SAME_PIXELS, Census
from xsam.inference.mask_support import MaskSupport
from xsam.spatial.phrases import (
    MeasuredObject,
    SpatialPhrase,
    at_place,
    contradiction,
    parse_spatial_phrase,
)
from xsam.types.masks import MaskRle
from xsam.types.requests import Frame, SegmentationResult, Status, Task

LOOSE_SCORE, STRICT_SCORE = 0.1, 0.5  # with fewer and with more certain objects, the answer must be the same
CANDIDATE_SCORES = (MIN_CANDIDATE_SCORE, LOOSE_SCORE, MIN_CENSUS_SCORE)
"""Scores from which objects count when one is chosen: the first that makes the phrase clear."""
CORRECTED = "picked by place among all that were found: the model itself pointed elsewhere"


def corrected(
    result: SegmentationResult, support: MaskSupport, task: Task, frame: Frame, census: Census
) -> tuple[SegmentationResult, MaskSupport]:
    """Return the result with the object that the outlines show to be the one that a phrase means.

    A result stays as it is if the phrase compares nothing, if the outlines do not decide, or if the query
    sets its own threshold, so that all that the model found is wanted. A mask of the model that shows the
    right object stays; else it is the census's, and `hint` says so. Where the outlines decide too narrowly
    and the model finds nothing, there still is a leftmost one among several mugs, which is to be doubted.
    """
    answered = result.status in (Status.FOUND, Status.NOT_FOUND)
    if task is not Task.REFERRING or not answered or result.query.score_threshold is not None:
        return result, support
    phrase = parse_spatial_phrase(result.query.text)
    if phrase is None:
        return result, support
    possible = (_meant(phrase, census, frame, least) for least in CANDIDATE_SCORES)
    chosen = next((index for index in possible if index is not None), None)
    if chosen is None and not len(result):
        chosen = _possible(phrase, census, frame)
    if chosen is None:
        return result, support
    mask = census.masks[chosen]
    overlaps = MaskRle.iou_matrix([mask], result.segments.masks)[0]
    if len(overlaps) and overlaps.max() > SAME_PIXELS:
        own = [int(overlaps.argmax())]
        return replace(result, segments=result.segments[own]), support.pick(own)
    segments = replace(census.segments([chosen], frame.image_hw), labels=(result.query.text.strip(),))
    hint = "; ".join(filter(None, (result.hint, CORRECTED)))
    found = replace(result, status=Status.FOUND, segments=segments, message="", hint=hint)
    return found, census.support.pick([chosen])


def misplaced(phrase: SpatialPhrase, mask: MaskRle, census: Census, frame: Frame) -> str:
    """Return why a segment may not be what a phrase about places means; "" if it is."""
    candidates = [census.masks[index] for index in census.objects(phrase.noun)]
    overlaps = MaskRle.iou_matrix([mask], candidates)[0] if candidates else np.zeros(0)
    if not len(overlaps) or overlaps.max() <= SAME_PIXELS:
        return "its place could not be checked"
    problem = _contradiction(phrase, int(overlaps.argmax()), census, frame, MIN_CANDIDATE_SCORE)
    if problem:
        return problem
    for least in (LOOSE_SCORE, STRICT_SCORE):
        meant = _meant(phrase, census, frame, least)
        if meant is None or mask.iou(census.masks[meant]) <= SAME_PIXELS:
            return "that depends on objects in doubt"
    return ""


def _meant(phrase: SpatialPhrase, census: Census, frame: Frame, least: float) -> int | None:
    """Return the index of the only object of the census that a phrase can mean; None if that is not clear."""
    candidates = census.objects(phrase.noun, least=least)
    fitting = [
        index
        for order, index in enumerate(candidates)
        if not _contradiction(phrase, order, census, frame, least)
    ]
    return fitting[0] if len(fitting) == 1 else None


def _possible(phrase: SpatialPhrase, census: Census, frame: Frame) -> int | None:
    """Return the leftmost of several objects, however narrowly; None for phrases with anchors.

    It may be that no mug is left of the plate.
    """
    found = census.objects(phrase.noun)
    chosen = at_place(phrase, [MeasuredObject.of(census.masks[index], frame.depth_m) for index in found])
    return None if chosen is None else found[chosen]


def _contradiction(phrase: SpatialPhrase, chosen: int, census: Census, frame: Frame, least: float) -> str:
    """Return what speaks against one of the objects that count at a score; "" for nothing."""

    def measured(noun: str) -> list[MeasuredObject]:
        found = census.objects(noun, least=least)
        return [MeasuredObject.of(census.masks[index], frame.depth_m) for index in found]

    anchors = [measured(noun) for noun in phrase.anchors]
    return contradiction(phrase, chosen, measured(phrase.noun), anchors, frame.image_hw)
