"""Which mask is pointed at, on masks made by hand."""

from __future__ import annotations

import numpy as np
import torch

from xsam import VisualPrompt
from xsam.inference.pointing import pointed_at
from xsam.inference.postprocess import RawSegments

HW = (60, 80)


def _candidates(*boxes: tuple[int, int, int, int], scores: tuple[float, ...] = ()) -> RawSegments:
    masks = np.zeros((len(boxes), *HW), bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    values = torch.tensor(scores or (0.9,) * len(boxes))
    return RawSegments.of_masks(masks, torch.zeros(len(boxes), dtype=torch.long), values, HW)


LARGE, SMALL = (10, 10, 70, 50), (37, 27, 43, 33)


def test_a_point_takes_the_likely_object_and_not_the_smallest_mask() -> None:
    """IoU with the small disc of a point used to prefer any little mask that lies under it."""
    found = pointed_at(_candidates(LARGE, SMALL, scores=(0.9, 0.4)), [VisualPrompt.point(40, 30)], HW)
    assert found.coded[0].box_xyxy == LARGE
    assert float(found.scores[0]) == torch.tensor(0.9)


def test_a_point_takes_what_it_lies_on() -> None:
    beside = _candidates((0, 0, 20, 60), (40, 0, 60, 60), scores=(0.9, 0.3))
    found = pointed_at(beside, [VisualPrompt.point(50, 30)], HW)
    assert found.coded[0].box_xyxy == (40, 0, 60, 60)


def test_a_box_takes_the_mask_that_fills_it() -> None:
    found = pointed_at(_candidates(LARGE, SMALL), [VisualPrompt.box(36, 26, 44, 34)], HW)
    assert found.coded[0].box_xyxy == SMALL


def test_what_reaches_out_of_the_box_is_cut_off() -> None:
    found = pointed_at(_candidates(LARGE), [VisualPrompt.box(20, 5, 80, 40)], HW)
    assert found.coded[0].box_xyxy == (20, 10, 70, 40)


def test_a_box_beside_everything_leaves_the_mask_whole() -> None:
    found = pointed_at(_candidates(SMALL), [VisualPrompt.box(0, 0, 5, 5)], HW)
    assert found.coded[0].box_xyxy == SMALL


def test_no_candidate_is_no_answer() -> None:
    assert not pointed_at(_candidates(), [VisualPrompt.point(1, 1)], HW).coded
