"""Ask a segmenter the questions about one image and score the results."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from xsam.data.readers.annotations import describe_skips
from xsam.errors import DatasetError, MissingDataError, XSamError
from xsam.eval.pictures import PictureSample
from xsam.eval.predictions import PredictionFile
from xsam.eval.questions import Question
from xsam.eval.scoreboard import Scoreboard
from xsam.segmenter import Segmenter
from xsam.types.requests import Frame, SegmentationResult, Status

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


def ask_and_score(
    model: Segmenter,
    rgb: NDArray[np.uint8],
    questions: Sequence[Question],
    board: Scoreboard,
    pictures: PictureSample | None,
    *,
    name: str,
    predictions: PredictionFile | None = None,
) -> float | None:
    """Ask the questions, score the results, and offer them to be drawn under the image's name.

    Args:
        model: the segmenter to evaluate.
        rgb: (H, W, 3) uint8.
        questions: may be empty.
        board: collects the scores.
        pictures: collects results to be drawn.
        name: name of the image, unique if there are `predictions`.
        predictions: where results are saved; the model is not asked for those that it holds.

    Returns:
        Seconds that the model took; None if it was not asked.
    """
    image_hw = (int(rgb.shape[0]), int(rgb.shape[1]))
    results = predictions.saved(name, questions, image_hw) if predictions is not None else None
    seconds = None
    if results is None:
        started = time.perf_counter()
        results = ask(model, rgb, questions)
        seconds = time.perf_counter() - started
        if predictions is not None and all(r.status in (Status.FOUND, Status.NOT_FOUND) for r in results):
            predictions.add(name, results)  # what failed is asked again by the next run
    for question, result in zip(questions, results, strict=True):
        iou = board.add(question, result)
        if pictures is not None and iou is not None:
            pictures.offer(rgb, question, result, iou, name=name)
    return seconds


def image_problem(error: DatasetError) -> str:
    """Return the reason under which an image that cannot be used is counted."""
    return (
        "with a missing file" if isinstance(error, MissingDataError) else "with a damaged file or annotation"
    )


def check_evaluated(evaluated: int, total: int, skipped: Mapping[str, int]) -> None:
    """Raise `DatasetError` if no image could be used, so that nothing was measured."""
    if total and not evaluated:
        raise DatasetError(
            f"none of {total} images could be evaluated",
            hint=f"skipped: {describe_skips(skipped)}; see the log",
        )


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
