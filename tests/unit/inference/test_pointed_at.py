"""Selection of the mask that a prompt points at, on handmade masks."""

from __future__ import annotations

import numpy as np
import torch

from xsam import VisualPrompt
from xsam.inference.pointing import pointed_at
from xsam.inference.postprocess import UnlabeledSegments
from xsam.inference.prompt_masks import prompt_mask

HW = (60, 80)


def _candidates(*boxes: tuple[int, int, int, int], scores: tuple[float, ...] = ()) -> UnlabeledSegments:
    masks = np.zeros((len(boxes), *HW), bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    values = torch.tensor(scores or (0.9,) * len(boxes))
    return UnlabeledSegments.of_masks(masks, torch.zeros(len(boxes), dtype=torch.long), values, HW)


def _point(candidates: UnlabeledSegments, prompt: VisualPrompt) -> UnlabeledSegments:
    return pointed_at(candidates, [prompt], prompt_mask([prompt], HW))


LARGE, SMALL = (10, 10, 70, 50), (37, 27, 43, 33)


def test_a_point_takes_the_likely_object_and_not_the_smallest_mask() -> None:
    """IoU with the small disc of a point used to favor any small mask under it."""
    found = _point(_candidates(LARGE, SMALL, scores=(0.9, 0.4)), VisualPrompt.point(40, 30))
    assert found.masks[0].crop().box_xyxy == LARGE
    assert float(found.scores[0]) == torch.tensor(0.9)


def test_a_point_takes_what_it_lies_on() -> None:
    beside = _candidates((0, 0, 20, 60), (40, 0, 60, 60), scores=(0.9, 0.3))
    found = _point(beside, VisualPrompt.point(50, 30))
    assert found.masks[0].crop().box_xyxy == (40, 0, 60, 60)


def test_a_box_takes_the_mask_that_fills_it() -> None:
    found = _point(_candidates(LARGE, SMALL), VisualPrompt.box(36, 26, 44, 34))
    assert found.masks[0].crop().box_xyxy == SMALL


def test_what_reaches_out_of_the_box_is_cut_off() -> None:
    found = _point(_candidates(LARGE), VisualPrompt.box(20, 5, 80, 40))
    assert found.masks[0].crop().box_xyxy == (20, 10, 70, 40)


def test_a_box_beside_everything_leaves_the_mask_whole() -> None:
    found = _point(_candidates(SMALL), VisualPrompt.box(0, 0, 5, 5))
    assert found.masks[0].crop().box_xyxy == SMALL


def test_no_candidate_is_no_answer() -> None:
    assert not _point(_candidates(), VisualPrompt.point(1, 1)).masks
