"""Ask a segmenter questions about one image, and score the results."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from xsam.errors import XSamError
from xsam.eval.pictures import PictureSample
from xsam.eval.predictions import PredictionFile
from xsam.eval.questions import Question
from xsam.eval.scoreboard import Scoreboard
from xsam.segmenter import Segmenter
from xsam.types.requests import Frame, SegmentationResult

DEADLINE_S = 3600.0  # per image; long enough for a large model on a CPU


def ask(model: Segmenter, rgb: NDArray[np.uint8], questions: Sequence[Question]) -> list[SegmentationResult]:
    """Segment an image for each question.

    Args:
        model: the segmenter to evaluate.
        rgb: (H, W, 3) uint8.
        questions: may be empty.

    Returns:
        One result per question, in order. An error that affects the whole image (out of memory, deadline, …)
        becomes a refused or failed result for every question, for the scoreboard to count.
    """
    if not questions:
        return []
    frame = Frame(rgb=rgb)
    queries = [question.query for question in questions]
    try:
        return model.segment(frame, queries, deadline_s=DEADLINE_S)
    except XSamError as error:
        return [SegmentationResult.from_error(error, query, frame) for query in queries]


def answer(
    model: Segmenter | None,
    rgb: NDArray[np.uint8],
    key: str,
    questions: Sequence[Question],
    predictions: PredictionFile | None,
) -> tuple[list[SegmentationResult] | None, float | None]:
    """Return the saved results for questions about an image; ask the model if there are none.

    Args:
        model: the segmenter to evaluate; None = use saved results only.
        rgb: (H, W, 3) uint8.
        key: identifies the results among the `predictions`.
        questions: may be empty.
        predictions: where results are saved.

    Returns:
        One result per question, in order, or None without model and saved results; and the seconds that the
        model took, None if it was not asked.
    """
    results = predictions.saved(key, questions, rgb) if predictions is not None else None
    if results is not None or model is None:
        return results, None
    started = time.perf_counter()
    results = ask(model, rgb, questions)
    seconds = time.perf_counter() - started
    if predictions is not None:
        predictions.add(key, results, rgb)
    return results, seconds


def score(
    rgb: NDArray[np.uint8],
    questions: Sequence[Question],
    results: Sequence[SegmentationResult],
    board: Scoreboard,
    pictures: PictureSample | None,
    *,
    name: str,
) -> None:
    """Score the results for questions about an image, and offer them to be drawn under the image's name."""
    for question, result in zip(questions, results, strict=True):
        iou = board.add(question, result)
        if pictures is not None and iou is not None:
            pictures.offer(rgb, question, result, iou, name=name)


class Interruptible:
    """Iteration that Ctrl-C ends early, so that what was measured until then can be reported.

    ::

        steps = Interruptible(range(9))
        with steps:
            for step in steps: ...
        steps.complete  # False after Ctrl-C
    """

    def __init__(self, items: Iterable[int]) -> None:
        self._items = items
        self.complete = False

    def __iter__(self) -> Iterator[int]:
        yield from self._items
        self.complete = True

    def __enter__(self) -> Interruptible:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is KeyboardInterrupt
