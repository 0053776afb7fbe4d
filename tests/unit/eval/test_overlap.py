"""Mean IoU, cIoU, gIoU and P@0.5 of regions against hand-computed values."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.eval.answers import rectangle
from xsam.eval.overlap import RegionOverlap

HW = (10, 10)
EMPTY = np.zeros(HW, np.bool_)


def test_three_answers_by_hand() -> None:
    scores = RegionOverlap()
    # 20 of 40 pixels: 20 / 40; nothing of 100; 60 pixels, all right.
    assert scores.add(rectangle(0, 0, 10, 2, HW), rectangle(0, 0, 10, 4, HW)) == 0.5
    assert scores.add(EMPTY, ~EMPTY) == 0.0
    assert scores.add(rectangle(0, 0, 10, 6, HW), rectangle(0, 0, 10, 6, HW)) == 1.0
    assert scores.mean_iou == pytest.approx((0.5 + 0 + 1) / 3)
    assert scores.giou == scores.mean_iou
    assert scores.ciou == pytest.approx((20 + 0 + 60) / (40 + 100 + 60))
    assert scores.precision(0.5) == pytest.approx(2 / 3)  # an IoU of just 0.5 counts
    assert scores.precision(0.51) == pytest.approx(1 / 3)


def test_nothing_to_find() -> None:
    """As in ReasonSeg: if nothing matches a question, an empty result has IoU 1 and any other 0."""
    scores = RegionOverlap()
    assert scores.add(EMPTY, EMPTY) == 1.0
    assert scores.add(rectangle(0, 0, 5, 1, HW), EMPTY) == 0.0
    assert scores.mean_iou is None
    assert scores.precision() is None
    assert scores.giou == 0.5
    assert scores.ciou == 0.0
    scores.add(rectangle(0, 0, 5, 1, HW), rectangle(0, 0, 10, 1, HW))
    assert scores.mean_iou == 0.5
    assert scores.giou == 0.5
    assert scores.ciou == pytest.approx(5 / (5 + 10))


def test_ignored_pixels_count_neither_way() -> None:
    scores = RegionOverlap()
    truth, ignored = rectangle(0, 0, 10, 2, HW), rectangle(0, 1, 10, 4, HW)
    assert scores.add(rectangle(0, 0, 10, 4, HW), truth, ignored) == 1.0
    assert scores.unions == [10]
    assert scores.add(EMPTY, rectangle(0, 2, 10, 3, HW), ignored) == 1.0  # nothing is left to find
    assert scores.mean_iou == 1.0
    assert scores.has_truth == [True, False]


def test_without_answers_there_is_no_score() -> None:
    scores = RegionOverlap()
    assert (scores.mean_iou, scores.giou, scores.ciou, scores.precision()) == (None, None, None, None)


def test_masks_of_another_size() -> None:
    with pytest.raises(ValueError, match="the truth"):
        RegionOverlap().add(np.zeros((1, 10), np.bool_), EMPTY)  # NumPy would stretch it
