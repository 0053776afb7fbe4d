"""Small masks and segments for tests."""

from __future__ import annotations

import numpy as np

from xsam import MaskRle, Segments
from xsam.types.masks import BoolMask


def mask_of(height: int, width: int, *pixels: tuple[int, int]) -> BoolMask:
    mask = np.zeros((height, width), np.bool_)
    for row, column in pixels:
        mask[row, column] = True
    return mask


def four_segments() -> Segments:
    """Return segments of which number i has i + 1 pixels in row i, so that every field identifies it."""
    return Segments(
        image_hw=(4, 7),
        masks=tuple(MaskRle.encode(mask_of(4, 7, *((i, c) for c in range(i + 1)))) for i in range(4)),
        labels=("a", "b", "c", "d"),
        label_indices=np.array([10, 11, 12, 13], np.int32),
        scores=np.array([0.9, 0.8, 0.7, 0.6], np.float32),
        boxes_xyxy=np.array([[0, i, i + 1, i + 1] for i in range(4)], np.float32),
    )
