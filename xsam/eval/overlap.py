"""How well one region is met: mean IoU, cIoU, gIoU and precision at an IoU.

Used for referring, reasoning and interactive segmentation. NumPy only.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

import numpy as np

from xsam.types.masks import BoolMask


@dataclass(slots=True)
class RegionOverlap:
    """Intersections and unions of answers with their truths, one pair a question.

    An empty truth means that nothing in the picture fits. By the convention of ReasonSeg
    (arXiv 2308.00692) such a question has IoU 1 if the answer is empty, too, else 0.
    """

    intersections: list[int] = field(default_factory=list)
    unions: list[int] = field(default_factory=list)
    has_truth: list[bool] = field(default_factory=list)

    def add(self, found: BoolMask, truth: BoolMask, ignored: BoolMask | None = None) -> float:
        """Count one answer and return its IoU.

        Args:
            found: (H, W) bool, union of the answer's masks.
            truth: (H, W) bool.
            ignored: (H, W) bool, pixels that are neither right nor wrong; None = no pixel.

        Raises:
            ValueError: the shapes differ.
        """
        if found.shape != truth.shape or (ignored is not None and ignored.shape != truth.shape):
            raise ValueError(f"the answer is {found.shape}, the truth {truth.shape}")
        if ignored is not None:
            found, truth = found & ~ignored, truth & ~ignored
        both, either = int(np.count_nonzero(found & truth)), int(np.count_nonzero(found | truth))
        self.intersections.append(both)
        self.unions.append(either)
        self.has_truth.append(bool(truth.any()))
        return both / either if either else 1.0

    def _ious(self, *, with_empty: bool) -> list[float]:
        return [
            both / either if either else 1.0
            for both, either, present in zip(self.intersections, self.unions, self.has_truth, strict=True)
            if present or with_empty
        ]

    @property
    def mean_iou(self) -> float | None:
        """Mean IoU of the questions that have an answer; None without any."""
        return _mean(self._ious(with_empty=False))

    @property
    def giou(self) -> float | None:
        """Mean IoU of all questions, those without an answer included (gIoU); None without any."""
        return _mean(self._ious(with_empty=True))

    @property
    def ciou(self) -> float | None:
        """Sum of intersections by sum of unions over all questions (cIoU); None when all is empty."""
        return sum(self.intersections) / sum(self.unions) if sum(self.unions) else None

    def precision(self, at_iou: float = 0.5) -> float | None:
        """Share of the questions with an answer whose IoU reaches `at_iou` (P@0.5); None without any."""
        return _mean([float(iou >= at_iou) for iou in self._ious(with_empty=False)])


def _mean(values: list[float]) -> float | None:
    return statistics.fmean(values) if values else None
