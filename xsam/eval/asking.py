"""Put the questions on one picture to a segmenter and score the answers."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xsam.errors import XSamError
from xsam.eval.pictures import PictureSample
from xsam.eval.questions import Question
from xsam.eval.scoreboard import Scoreboard
from xsam.segmenter import Segmenter
from xsam.types.requests import Frame, SegmentationResult

DEADLINE_S = 3600.0  # a picture; long enough for a large model on a CPU


def ask(model: Segmenter, rgb: NDArray[np.uint8], questions: Sequence[Question]) -> list[SegmentationResult]:
    """One answer a question, in order.

    Args:
        rgb: (H, W, 3) uint8.
        questions: may be empty.

    Returns:
        An error that concerns the whole picture (out of memory, deadline, …) is the refused or failed
        answer of every question, for the scoreboard to count.
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
) -> float:
    """Ask, count the answers, and offer them to be drawn under the picture's name.

    Returns:
        Seconds that answering took.
    """
    started = time.perf_counter()
    answers = ask(model, rgb, questions)
    seconds = time.perf_counter() - started
    for question, answer in zip(questions, answers, strict=True):
        iou = board.add(question, answer)
        if pictures is not None and iou is not None:
            pictures.offer(rgb, question, answer, iou, name=name)
    return seconds
