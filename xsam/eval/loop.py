"""The loop of every evaluation: ask the questions about each image, and score the results.

Several processes share the work like this: each answers the questions about its own images and saves the
results; then the first one scores all of them, in the order in which a single process would have.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from xsam.data.readers.annotations import describe_skips, skip
from xsam.errors import DatasetError, MissingDataError
from xsam.eval.asking import Interruptible, answer, score
from xsam.eval.pictures import PictureSample
from xsam.eval.predictions import PredictionFile
from xsam.eval.processes import Processes
from xsam.eval.questions import Question
from xsam.eval.scoreboard import Scoreboard, Scores
from xsam.segmenter import Segmenter


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Round:
    """Questions that are asked together, in one request.

    Attributes:
        key: identifies the results on disk; unique in the data set.
        questions: may be empty.
        timed_as: the time of the request is divided by this; 0 = it is not measured.
    """

    key: str
    questions: Sequence[Question]
    timed_as: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuestionedImage:
    """An image with all questions about it.

    Attributes:
        name: used in the file names of drawings.
        rgb: (H, W, 3) uint8.
        rounds: the questions.
        skipped: what is not asked about the image: reason → count.
    """

    name: str
    rgb: NDArray[np.uint8]
    rounds: tuple[Round, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)


class QuestionSource(Protocol):
    """A data set as questions with known answers; an index always gives the same questions."""

    @property
    def skipped(self) -> Mapping[str, int]:
        """Records that were skipped when the files were read: reason → count."""

    def __len__(self) -> int:
        """Return the number of images."""

    def image(self, index: int) -> QuestionedImage:
        """Read an image.

        Raises:
            DatasetError: it, or an annotation of it, cannot be used.
        """


def evaluate_questions(
    model: Segmenter,
    source: QuestionSource,
    *,
    limit: int | None = None,
    show_progress: bool = False,
    pictures: PictureSample | None = None,
    predictions: PredictionFile | None = None,
    processes: Processes | None = None,
) -> tuple[Scoreboard, Scores]:
    """Score a model on a data set; equal results give equal scores.

    Args:
        model: the segmenter to evaluate.
        source: the data set.
        limit: number of images, evenly spread over the data set; None means all.
        show_progress: show a progress bar on stderr.
        pictures: collects results to be drawn.
        predictions: saves the results, and holds those of an earlier run. Several processes need it.
        processes: the processes that share the work; None means this one alone.

    Returns:
        The scoreboard, and what does not depend on the kind of question: the number `n` of images that were
        evaluated, what was `skipped`, by reason, `complete`: False if Ctrl-C ended the evaluation early, and
        `ms_median`, the median time of the requests that are timed. In processes other than the first, both
        are empty.

    Raises:
        DatasetError: no image could be used.
    """
    processes = processes or Processes()
    total = len(source) if limit is None else min(limit, len(source))
    chosen = [step * len(source) // total for step in range(total)]
    asked: Segmenter | None = model
    latency_s: list[float] = []
    complete = True
    if processes.count > 1:
        if predictions is None:
            raise ValueError("several processes exchange results through saved predictions")
        mine = chosen[processes.index :: processes.count]
        complete = _answer_all(
            model, source, mine, predictions, latency_s, show_progress and processes.is_main
        )
        processes.wait()
        if not processes.is_main:
            return Scoreboard(), {}
        predictions.gather()
        asked = None

    board, skipped, evaluated = Scoreboard(), Counter(source.skipped), 0
    bar = tqdm(
        chosen,
        None if asked is not None else "score",
        unit="image",
        disable=not show_progress,
        mininterval=5.0,
    )
    steps = Interruptible(bar)
    with steps:
        for index in steps:
            try:
                image = source.image(index)
            except DatasetError as error:
                skip(skipped, image_problem(error), error)
                continue
            results = [answer(asked, image.rgb, r.key, r.questions, predictions) for r in image.rounds]
            if any(found is None for found, _ in results):  # another process was interrupted before it
                complete = False
                continue
            for asked_round, (found, seconds) in zip(image.rounds, results, strict=True):
                if seconds is not None and asked_round.timed_as:
                    latency_s.append(seconds / asked_round.timed_as)
                score(image.rgb, asked_round.questions, found or [], board, pictures, name=image.name)
            skipped.update(image.skipped)
            evaluated += 1
    complete &= steps.complete
    check_evaluated(evaluated, total if complete else 0, skipped)
    return board, {
        "n": evaluated,
        "complete": complete,
        "skipped": {reason: count for reason, count in skipped.items() if count},
        "ms_median": round(1000 * statistics.median(latency_s), 1) if latency_s else None,
    }


def _answer_all(
    model: Segmenter,
    source: QuestionSource,
    indices: Sequence[int],
    predictions: PredictionFile,
    latency_s: list[float],
    show_progress: bool,
) -> bool:
    """Save results for all questions about these images; return False if Ctrl-C ended it early."""
    steps = Interruptible(tqdm(indices, unit="image", disable=not show_progress, mininterval=5.0))
    with steps:
        for index in steps:
            try:
                image = source.image(index)
            except DatasetError:
                continue  # the first process counts it
            for asked in image.rounds:
                _, seconds = answer(model, image.rgb, asked.key, asked.questions, predictions)
                if seconds is not None and asked.timed_as:
                    latency_s.append(seconds / asked.timed_as)
    return steps.complete


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


def sampled(limit: int | None, total: int) -> str:
    """Return a sentence that says that not all images were evaluated; empty if they were."""
    if limit is None or limit >= total:
        return ""
    return f"; sampled: {limit} of {total} images, not comparable with published scores"
