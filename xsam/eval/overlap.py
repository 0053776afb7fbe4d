"""Overlap metrics of single regions: mean IoU, cIoU, gIoU, and precision at an IoU.

Used for referring, reasoning, and interactive segmentation. NumPy only.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

import numpy as np

from xsam.types.masks import BoolMask


@dataclass(slots=True)
class RegionOverlap:
    """Intersections and unions of predicted and true masks, one pair per question.

    An empty true mask means that nothing in the image matches. By the convention of ReasonSeg
    (arXiv 2308.00692), such a question has IoU 1 if the prediction is also empty, and 0 otherwise.
    """

    intersections: list[int] = field(default_factory=list)
    unions: list[int] = field(default_factory=list)
    has_truth: list[bool] = field(default_factory=list)

    def add(self, found: BoolMask, truth: BoolMask, ignored: BoolMask | None = None) -> float:
        """Add one prediction and return its IoU.

        Args:
            found: (H, W) bool, union of the predicted masks.
            truth: (H, W) bool.
            ignored: (H, W) bool, pixels that are neither correct nor incorrect; None if there are none.

        Raises:
            ValueError: the shapes differ.
        """
        if found.shape != truth.shape or (ignored is not None and ignored.shape != truth.shape):
            raise ValueError(f"the predicted mask is {found.shape}, the truth {truth.shape}")
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
        """Mean IoU of the questions with a non-empty truth; None if there are none."""
        return _mean(self._ious(with_empty=False))

    @property
    def giou(self) -> float | None:
        """Mean IoU of all questions, including those with an empty truth (gIoU); None if there are none."""
        return _mean(self._ious(with_empty=True))

    @property
    def ciou(self) -> float | None:
        """Sum of intersections over sum of unions of all questions (cIoU); None if all masks are empty."""
        return sum(self.intersections) / sum(self.unions) if sum(self.unions) else None

    def precision(self, at_iou: float = 0.5) -> float | None:
        """Return the share of questions with a non-empty truth whose IoU reaches `at_iou`, or None."""
        return _mean([float(iou >= at_iou) for iou in self._ious(with_empty=False)])


def _mean(values: list[float]) -> float | None:
    return statistics.fmean(values) if values else None
