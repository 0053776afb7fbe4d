"""What pixels look like: the name of a color, how alike two objects are, whether a picture has changed."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from xsam.types.masks import BoolMask

RgbImage = NDArray[np.uint8]

SAME_PICTURE_LEVELS = 6.0
"""Two pictures are the same when no block's mean differs by more than this many of 255 gray levels."""

_BLOCKS_WH = (40, 30)
_MIN_COLOUR_PIXELS = 12
_HISTOGRAM_BINS = (6, 12, 12)  # of L*, a*, b*


def signature(rgb: RgbImage) -> NDArray[np.float32]:
    """Mean colors of a grid of blocks, (30, 40, 3): enough to see that the picture has changed.

    A block of a 640×480 image has 16×16 pixels: sensor noise averages out, a fork does not.
    """
    small: Any = cv2.resize(rgb, _BLOCKS_WH, interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32)


def same_picture(first: NDArray[np.float32], second: NDArray[np.float32]) -> bool:
    """Whether two signatures are of pictures that show the same."""
    return bool(np.abs(first - second).max() <= SAME_PICTURE_LEVELS)


def color_name(rgb: RgbImage, mask: BoolMask) -> str:
    """The everyday name of an object's main color; "" when there are too few pixels to tell.

    The middle of the object's colors in CIE L*a*b* is named by lightness, chroma and hue. Shading
    and colored light make this a description, not a measurement.

    Args:
        rgb: uint8 (H, W, 3).
        mask: bool (H, W).
    """
    pixels = rgb[_inner(mask)]
    if len(pixels) < _MIN_COLOUR_PIXELS:
        return ""
    lab = _lab(pixels)
    lightness, a, b = np.median(lab, axis=0).tolist()
    chroma, hue = float(np.hypot(a, b)), float(np.degrees(np.arctan2(b, a))) % 360
    if chroma < 11:
        return "black" if lightness < 27 else "white" if lightness > 69 else "gray"
    if hue < 12 or hue >= 335:
        return "red" if chroma > 45 and lightness < 45 else "pink"
    if hue < 44:
        return "brown" if lightness < 40 and chroma < 35 else "red"
    if hue < 78:
        return "brown" if lightness < 55 and chroma < 42 else "orange"
    if hue < 108:
        return "brown" if lightness < 35 else "yellow"
    if hue < 200:
        return "green"
    if hue < 311:  # the blue of screens is at 306
        return "blue"
    return "pink" if lightness > 62 else "purple"


def color_similarity(
    first_rgb: RgbImage, first_mask: BoolMask, second_rgb: RgbImage, second_mask: BoolMask
) -> float:
    """How alike the colors under two masks are, 0 to 1: the intersection of their L*a*b* histograms."""
    one, two = _histogram(first_rgb, first_mask), _histogram(second_rgb, second_mask)
    return float(np.minimum(one, two).sum())


def _histogram(rgb: RgbImage, mask: BoolMask) -> NDArray[np.float64]:
    lab = _lab(rgb[_inner(mask)])
    ranges = ((0.0, 100.0), (-90.0, 90.0), (-90.0, 90.0))
    counts, _ = np.histogramdd(lab, bins=_HISTOGRAM_BINS, range=ranges)
    total = counts.sum()
    return counts / total if total else counts


def _inner(mask: BoolMask) -> BoolMask:
    """The mask without its rim, whose pixels mix with the background; a thin mask as it is."""
    eroded: Any = cv2.erode(mask.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=0)
    inner: BoolMask = eroded.astype(np.bool_)
    return inner if np.count_nonzero(inner) >= _MIN_COLOUR_PIXELS else mask


def _lab(pixels: RgbImage) -> NDArray[np.float32]:
    """(N, 3) uint8 RGB → (N, 3) L* in [0, 100], a* and b*."""
    lab: Any = cv2.cvtColor(pixels.reshape(1, -1, 3).astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
    return np.asarray(lab[0], np.float32)
