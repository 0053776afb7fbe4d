"""Colors of objects: their everyday names, and how similar two objects are."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from xsam.types.masks import BoolMask

RgbImage = NDArray[np.uint8]

_MIN_PIXELS = 12
_HISTOGRAM_BINS = (6, 12, 12)  # of L*, a*, b*


def color_name(rgb: RgbImage, mask: BoolMask) -> str:
    """Return the everyday name of an object's main color; "" when there are too few pixels to tell.

    The median of the object's colors in CIE L*a*b* is named by lightness, chroma and hue. Shading
    and colored light make this a description, not a measurement.

    Args:
        rgb: uint8 (H, W, 3).
        mask: bool (H, W).
    """
    pixels = rgb[_without_rim(mask)]
    if len(pixels) < _MIN_PIXELS:
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
    """Return how similar the colors under two masks are, 0 to 1: their L*a*b* histogram intersection."""
    one, two = _histogram(first_rgb, first_mask), _histogram(second_rgb, second_mask)
    return float(np.minimum(one, two).sum())


def _histogram(rgb: RgbImage, mask: BoolMask) -> NDArray[np.float64]:
    lab = _lab(rgb[_without_rim(mask)])
    ranges = ((0.0, 100.0), (-90.0, 90.0), (-90.0, 90.0))
    counts, _ = np.histogramdd(lab, bins=_HISTOGRAM_BINS, range=ranges)
    total = counts.sum()
    return counts / total if total else counts


def _without_rim(mask: BoolMask) -> BoolMask:
    """Erode the mask, because the pixels of its rim mix with the background; keep a thin mask as it is."""
    eroded: Any = cv2.erode(mask.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=0)
    inner: BoolMask = eroded.astype(np.bool_)
    return inner if np.count_nonzero(inner) >= _MIN_PIXELS else mask


def _lab(pixels: RgbImage) -> NDArray[np.float32]:
    """Convert (N, 3) uint8 RGB to (N, 3) L* in [0, 100], a* and b*."""
    lab: Any = cv2.cvtColor(pixels.reshape(1, -1, 3).astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
    return np.asarray(lab[0], np.float32)
