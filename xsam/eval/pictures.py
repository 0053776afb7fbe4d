"""Drawings of a random sample of results, worst first, for visual inspection."""

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
from xsam.eval.questions import CaptionTruth, InstanceTruth, PanopticTruth, Question, RegionTruth
from xsam.eval.scoreboard import confident
from xsam.types.masks import BoolMask
from xsam.types.requests import SegmentationResult

TRUTH_COLOR = (60, 255, 60)
_MAX_NAME_CHARS = 60


class PictureSample:
    """A uniform random sample of the results it is offered, as drawings.

    Each drawing shows the result as colored masks, the prompts, and the truth as a green outline.

    Args:
        count: size of the sample, at least 1.
        seed: the sample depends only on this and on the order of the results.
    """

    def __init__(self, count: int, *, seed: int = 0) -> None:
        if count < 1:
            raise ValueError(f"count must be positive, got {count}")
        self._count = count
        self._rng = np.random.default_rng(seed)
        self._kept: list[tuple[float, int, float, str, bytes]] = []  # heap, next one to drop in front
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
        """Consider a result for the sample.

        Args:
            rgb: (H, W, 3) uint8.
            question: what the model was asked.
            result: its result.
            iou: IoU of this result, in [0, 1].
            name: name of the image, used in the file name.
        """
        self._offered += 1
        priority = -float(self._rng.random())
        if len(self._kept) == self._count and priority < self._kept[0][0]:
            return
        text = question.query.text or question.kind
        title = re.sub(r"[\W_]+", "_", f"{name}_{question.group}_{text}").strip("_")
        png = cv2.imencode(".png", draw_result(rgb, question, result)[..., ::-1])[1].tobytes()
        record = (priority, self._offered, iou, title[:_MAX_NAME_CHARS], png)
        if len(self._kept) == self._count:
            heapq.heapreplace(self._kept, record)
        else:
            heapq.heappush(self._kept, record)

    def write(self, folder: Path) -> list[Path]:
        """Write files `<rank>_iou<IoU>_<name>.png`, the worst with rank 0, and return their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        worst_first = sorted(self._kept, key=lambda kept: (kept[2], kept[1]))
        for rank, (_, _, iou, title, png) in enumerate(worst_first):
            path = folder / f"{rank:0{len(str(self._count - 1))}d}_iou{iou:.2f}_{title}.png"
            path.write_bytes(png)
            paths.append(path)
        return paths


def draw_result(rgb: NDArray[np.uint8], question: Question, result: SegmentationResult) -> NDArray[np.uint8]:
    """Draw the result, the prompts, and the outline of the truth on a copy of the image (H, W, 3)."""
    segments = result.segments
    if isinstance(question.truth, InstanceTruth):
        segments = confident(segments)  # a ranking for AP has up to a hundred low-score segments
    query = question.query
    text = query.text or ", ".join(query.thing_classes) or result.text or question.kind
    title = f"{question.group}: {text}"
    canvas = draw_prompts(draw_overlay(rgb, segments, title=title), query.prompts)
    lines: list[NDArray[Any]] = []
    for mask in _truth_masks(question):
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        lines += [contour[:, 0].astype(np.float64) for contour in contours]
    draw_polylines(canvas, lines, TRUTH_COLOR, 2, 1, closed=True)
    return canvas


def _truth_masks(question: Question) -> Iterable[BoolMask]:
    truth = question.truth
    if isinstance(truth, RegionTruth):
        return [truth.mask]
    if isinstance(truth, InstanceTruth):
        return [mask for masks in truth.masks for mask in masks]
    if isinstance(truth, CaptionTruth):
        return truth.masks
    areas, void = (truth.segment_ids, 0) if isinstance(truth, PanopticTruth) else (truth.class_map, -1)
    return (areas == area for area in np.unique(areas) if area != void)
