"""What a segmenter returned, before any tool uses it: broken results are failures, and its words are data.

A broken result must never look like absence, and text that a model read in the picture must never look like
an object's id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from xsam.errors import InvalidImageError, ModelError, XSamError
from xsam.segmenter import FrameSegmenter, Segmenter
from xsam.types.deadline import StageHook
from xsam.types.requests import CameraRef, Frame, SegmentationResult, Segments, Status
from xsam_agent_tools.planner_hints import for_planner, foreign_hint
from xsam_agent_tools.reading import model_words

_SCORE_SLACK = 1e-3  # of half-precision arithmetic
_HINT = "the segmenter is broken, which is not about the scene: tell the user"


def ask_segmenter(
    segmenter: Segmenter,
    source: Frame | CameraRef,
    queries: Sequence[Any],
    *,
    deadline_s: float,
    on_stage: StageHook | None = None,
) -> list[SegmentationResult]:
    """Call the segmenter; its results are checked, and its errors get hints for planners.

    Args:
        segmenter, source, deadline_s: see `Segmenter.segment`.
        queries: as there, or sessions of the segmenter.
        on_stage: None for segmenters that know no stages.

    Raises:
        XSamError: the request as a whole was refused or failed, or its results are unusable.
    """
    options: dict[str, Any] = {} if on_stage is None else {"on_stage": on_stage}
    with _errors_for_planners():
        results = segmenter.segment(source, queries, deadline_s=deadline_s, **options)
    return check_results(results, queries)


def ask_for_frame(
    segmenter: FrameSegmenter, source: CameraRef, queries: Sequence[Any], *, deadline_s: float
) -> tuple[list[SegmentationResult], Frame | None]:
    """Call the segmenter as `ask_segmenter` does, and return the frame that it used, too; None = not known.

    Raises:
        XSamError: as `ask_segmenter`.
        ModelError: the frame is of another size than the results.
    """
    with _errors_for_planners():
        results, frame = segmenter.segment_with_frame(source, queries, deadline_s=deadline_s)
    checked = check_results(results, queries)
    if frame is not None and frame.image_hw != checked[0].segments.image_hw:
        raise ModelError("the frame is of another size than its results", hint=_HINT)
    return checked, frame


@contextmanager
def _errors_for_planners() -> Iterator[None]:
    try:
        yield
    except XSamError as error:
        if (translated := for_planner(error)) is error:
            raise
        raise translated from error


def check_results(results: Any, queries: Sequence[Any]) -> list[SegmentationResult]:
    """Return the results in a planner's words, and a FAILED one in place of each that is broken.

    Raises:
        ModelError: there is not one result for each query, or they are for images of different sizes.
    """
    if not isinstance(results, (list, tuple)):
        got = type(results).__name__
        raise ModelError(f"the segmenter returned {got}, not a list of results", hint=_HINT)
    if strange := [type(item).__name__ for item in results if not isinstance(item, SegmentationResult)]:
        raise ModelError(f"the segmenter returned {strange[0]} in place of a result", hint=_HINT)
    if len(results) != len(queries):
        raise ModelError(
            f"the segmenter returned {len(results)} results for {len(queries)} queries", hint=_HINT
        )
    if len(sizes := {result.segments.image_hw for result in results}) > 1:
        raise ModelError(f"the results are for images of different sizes: {sorted(sizes)}", hint=_HINT)
    return [
        _failed(result, fault) if (fault := _fault(result)) else _in_planner_words(result)
        for result in results
    ]


def _fault(result: SegmentationResult) -> str:
    """Return what is wrong with a result, "" for a sound one."""
    status: Any = result.status  # the type is a promise that a foreign segmenter may not keep
    if not isinstance(status, Status):
        return f"its status is {status!r:.40}"
    segments = result.segments
    try:
        areas = [mask.area for mask in segments.masks]
    except InvalidImageError as error:
        return f"a mask is corrupt: {error.message}"
    if result.status is Status.NOT_FOUND and any(areas):
        return f"it says not_found, and has {len(areas)} masks"
    if result.status is not Status.FOUND:
        return ""
    if not areas and not result.text:
        return "it says found, and has no mask"
    scores = segments.scores[~np.isnan(segments.scores)]  # NaN = no score
    if scores.size and not (scores.min() >= -_SCORE_SLACK and scores.max() <= 1 + _SCORE_SLACK):
        return f"its scores go from {scores.min():g} to {scores.max():g}, not from 0 to 1"
    return ""


def _in_planner_words(result: SegmentationResult) -> SegmentationResult:
    if result.status in (Status.REFUSED, Status.FAILED):
        return replace(result, hint=foreign_hint(result.code, result.hint))
    labels = tuple(model_words(label) or "unnamed" for label in result.segments.labels)
    text, phrases = model_words(result.text), tuple(map(model_words, result.phrases))
    if (labels, text, phrases) == (result.segments.labels, result.text, result.phrases):
        return result
    return replace(result, text=text, phrases=phrases, segments=replace(result.segments, labels=labels))


def _failed(result: SegmentationResult, fault: str) -> SegmentationResult:
    return replace(
        result,
        status=Status.FAILED,
        segments=Segments(image_hw=result.segments.image_hw),
        text="",
        phrases=(),
        code=ModelError.code,
        message=f"the segmenter's result is broken: {fault}",
        hint=_HINT,
    )
