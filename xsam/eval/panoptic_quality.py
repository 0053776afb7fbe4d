"""Panoptic quality (Kirillov et al., arXiv 1801.00868) and semantic mean IoU. NumPy only."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

VOID = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PanopticScores:
    """Means over the classes that occur in the truth or in predictions; None if there are none."""

    pq: float | None
    sq: float | None  # mean IoU of the matched segments, 0 for a class without a match
    rq: float | None  # F1 of the segments
    pq_things: float | None
    pq_stuff: float | None
    pq_by_class: Mapping[str, float]


class PanopticQuality:
    """Accumulates matched segments of many images, by class.

    As in panopticapi, segments of one class match if their IoU is greater than 0.5, not counting predicted
    pixels on void. Crowd segments are never matched and never count as missed. An unmatched segment is not a
    false positive if more than half of it lies on void or on a crowd of its class.

    Args:
        class_names: all classes, things first.
        thing_count: number of things among them.
    """

    def __init__(self, class_names: Sequence[str], thing_count: int) -> None:
        if len(set(class_names)) != len(class_names):
            raise ValueError("class names must differ")
        self.class_names = tuple(class_names)
        self.thing_count = thing_count
        self._iou = np.zeros(len(class_names))
        self._hits, self._extra, self._missed = np.zeros((3, len(class_names)), np.int64)

    def add(
        self,
        truth_ids: NDArray[np.integer],
        truth_classes: Mapping[int, int],
        found_ids: NDArray[np.integer],
        found_classes: Mapping[int, int],
        *,
        crowd: Collection[int] = (),
    ) -> None:
        """Add one image.

        Args:
            truth_ids: (H, W) integers, segment id of each pixel, `VOID` = none.
            truth_classes: class index of each segment.
            found_ids, found_classes: the same for the prediction.
            crowd: ids in `truth_ids` that stand for groups.

        Raises:
            ValueError: the shapes differ, or a map contains an id without a class.
        """
        if truth_ids.shape != found_ids.shape:
            raise ValueError(f"the predicted map is {found_ids.shape}, the truth {truth_ids.shape}")
        truth_known, truth = np.unique(truth_ids, return_inverse=True)
        found_known, found = np.unique(found_ids, return_inverse=True)
        joint = truth.ravel().astype(np.int64) * len(found_known) + found.ravel()
        both = np.bincount(joint, minlength=len(truth_known) * len(found_known))
        both = both.reshape(len(truth_known), len(found_known))  # pixels of each pair of segments
        t_ids, f_ids = truth_known.tolist(), found_known.tolist()
        if unknown := ({*t_ids} - {VOID, *truth_classes}) | ({*f_ids} - {VOID, *found_classes}):
            raise ValueError(f"segments without a class: {sorted(unknown)[:10]}")
        t_area, f_area = both.sum(axis=1), both.sum(axis=0)
        void = both[t_ids.index(VOID)] if VOID in t_ids else np.zeros(len(f_ids), np.int64)

        matched_truth, matched_found = set(), set()
        for row, column in np.argwhere(both > 0).tolist():
            t, f = t_ids[row], f_ids[column]
            if VOID in (t, f) or t in crowd or truth_classes[t] != found_classes[f]:
                continue
            union = t_area[row] + f_area[column] - both[row, column] - void[column]
            iou = float(both[row, column] / union)
            if iou > 0.5:
                self._iou[truth_classes[t]] += iou
                self._hits[truth_classes[t]] += 1
                matched_truth.add(t)
                matched_found.add(f)
        for t in set(t_ids) - {VOID, *crowd, *matched_truth}:
            self._missed[truth_classes[t]] += 1
        for column, f in enumerate(f_ids):
            if f == VOID or f in matched_found:
                continue
            same_crowd = [
                row for row, t in enumerate(t_ids) if t in crowd and truth_classes[t] == found_classes[f]
            ]
            if (void[column] + both[same_crowd, column].sum()) / f_area[column] <= 0.5:
                self._extra[found_classes[f]] += 1

    def scores(self) -> PanopticScores:
        """Compute the quality over all images added so far."""
        weight = self._hits + 0.5 * self._extra + 0.5 * self._missed
        seen = weight > 0
        share = np.where(seen, weight, 1)
        pq, rq = self._iou / share, self._hits / share
        sq = self._iou / np.maximum(self._hits, 1)
        things = np.arange(len(seen)) < self.thing_count
        return PanopticScores(
            pq=_mean(pq[seen]),
            sq=_mean(sq[seen]),
            rq=_mean(rq[seen]),
            pq_things=_mean(pq[seen & things]),
            pq_stuff=_mean(pq[seen & ~things]),
            pq_by_class={self.class_names[i]: float(pq[i]) for i in np.flatnonzero(seen)},
        )


class SemanticOverlap:
    """Confusion matrix of pixels, summed over many images.

    Args:
        class_names: all classes, in index order.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)
        count = len(class_names)
        self.counts = np.zeros((count, count + 1), np.int64)  # truth × prediction; last column = no class

    def add(self, truth: NDArray[np.integer], found: NDArray[np.integer]) -> None:
        """Add one image.

        Args:
            truth: (H, W) integers, class index of each pixel; −1 = void, not counted.
            found: (H, W) integers, the predicted class indices; −1 = no class, counted as incorrect.

        Raises:
            ValueError: the shapes differ, or an index is out of range.
        """
        count = len(self.class_names)
        if truth.shape != found.shape:
            raise ValueError(f"the predicted map is {found.shape}, the truth {truth.shape}")
        for classes in (truth, found):
            if classes.size and (classes.min() < -1 or classes.max() >= count):
                raise ValueError(f"class indices must be from -1 to {count - 1}")
        valid = truth >= 0
        predicted = np.where(found < 0, count, found)[valid].astype(np.int64)
        joint = truth[valid].astype(np.int64) * (count + 1) + predicted
        self.counts += np.bincount(joint, minlength=self.counts.size).reshape(self.counts.shape)

    def iou_by_class(self) -> dict[str, float]:
        """Compute the IoU of every class that occurs in the truth."""
        hits = np.diagonal(self.counts)
        true_px, predicted_px = self.counts.sum(axis=1), self.counts[:, :-1].sum(axis=0)
        return {
            self.class_names[i]: float(hits[i] / (true_px[i] + predicted_px[i] - hits[i]))
            for i in np.flatnonzero(true_px)
        }

    @property
    def mean_iou(self) -> float | None:
        """Mean over the classes that occur in the truth; None if there are none."""
        return _mean(np.array(list(self.iou_by_class().values())))


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if values.size else None
