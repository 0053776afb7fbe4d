"""Pictures of randomly chosen answers, the worst first, for people to look at."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from xsam.draw.overlay import draw_overlay, draw_prompts
from xsam.draw.raster import draw_polylines
from xsam.eval.questions import CaptionTruth, InstanceTruth, Question, RegionTruth
from xsam.eval.scoreboard import confident
from xsam.types.masks import BoolMask
from xsam.types.requests import SegmentationResult

TRUTH_COLOUR = (60, 255, 60)
_MAX_NAME_CHARS = 60


class PictureSample:
    """Keeps a uniform random sample of the answers it is offered, drawn.

    Each picture shows the answer as colored masks, the prompts, and the truth as a green outline.

    Args:
        count: how many are kept, at least 1.
        seed: which ones depends on it and on the order of the answers alone.
    """

    def __init__(self, count: int, *, seed: int = 0) -> None:
        if count < 1:
            raise ValueError(f"count must be positive, got {count}")
        self._count = count
        self._rng = np.random.default_rng(seed)
        self._kept: list[tuple[float, int, float, str, bytes]] = []  # heap, the first to go in front
        self._offered = 0

    def offer(
        self,
        rgb: NDArray[np.uint8],
        question: Question,
        result: SegmentationResult,
        iou: float,
        *,
        name: str,
    ) -> None:
        """Maybe keep an answer.

        Args:
            rgb: (H, W, 3) uint8.
            iou: of this answer, in [0, 1].
            name: of the picture, for the file name.
        """
        self._offered += 1
        priority = -float(self._rng.random())
        if len(self._kept) == self._count and priority < self._kept[0][0]:
            return
        words = question.query.text or question.kind
        title = re.sub(r"[\W_]+", "_", f"{name}_{question.group}_{words}").strip("_")
        png = cv2.imencode(".png", draw_answer(rgb, question, result)[..., ::-1])[1].tobytes()
        record = (priority, self._offered, iou, title[:_MAX_NAME_CHARS], png)
        if len(self._kept) == self._count:
            heapq.heapreplace(self._kept, record)
        else:
            heapq.heappush(self._kept, record)

    def write(self, folder: Path) -> list[Path]:
        """Write `<rank>_iou<IoU>_<name>.png` files, rank 0 the worst, and return their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        worst_first = sorted(self._kept, key=lambda kept: (kept[2], kept[1]))
        for rank, (_, _, iou, title, png) in enumerate(worst_first):
            path = folder / f"{rank:0{len(str(self._count - 1))}d}_iou{iou:.2f}_{title}.png"
            path.write_bytes(png)
            paths.append(path)
        return paths


def draw_answer(rgb: NDArray[np.uint8], question: Question, result: SegmentationResult) -> NDArray[np.uint8]:
    """The picture (H, W, 3) with the answer, the prompts and the outline of the truth."""
    segments = result.segments
    if isinstance(question.truth, InstanceTruth):
        segments = confident(segments)  # a ranking for AP holds a hundred guesses
    query = question.query
    words = query.text or ", ".join(query.thing_classes) or result.text or question.kind
    title = f"{question.group}: {words}"
    canvas = draw_prompts(draw_overlay(rgb, segments, title=title), query.prompts)
    lines: list[NDArray[Any]] = []
    for mask in _truth_masks(question):
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        lines += [contour[:, 0].astype(np.float64) for contour in contours]
    draw_polylines(canvas, lines, TRUTH_COLOUR, 2, 1, closed=True)
    return canvas


def _truth_masks(question: Question) -> Iterable[BoolMask]:
    truth = question.truth
    if isinstance(truth, RegionTruth):
        return [truth.mask]
    if isinstance(truth, InstanceTruth):
        return [mask for masks in truth.masks for mask in masks]
    return truth.masks if isinstance(truth, CaptionTruth) else ()
