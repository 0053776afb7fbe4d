"""Masks → polygons, for tools that know no masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from xsam.types.masks import MaskRle

MAX_PARTS = 32
"""Polygons of one mask; the largest parts are kept."""

_SMALL = 0.01  # of the mask: parts below it are left out, and holes up to it are not worth a word


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlines:
    """The polygons of a mask, largest first, and in words what they do not show."""

    polygons_xy: tuple[NDArray[np.float64], ...]  # each (N, 2), N ≥ 3, in pixels of the image, not closed
    missing: str = ""


def outlines_of(mask: MaskRle, tolerance_px: Callable[[float], float]) -> Outlines:
    """Return the outlines of the parts of a mask, along the borders of its pixels.

    Args:
        mask: (H, W).
        tolerance_px: perimeter of a part in pixels → how far its polygon may be from it.

    Returns:
        One polygon per part; none for an empty mask. Polygons cannot have holes: `missing` says how much of
        them is object by mistake, and how many parts were too small.
    """
    crop = mask.crop()
    height, width = crop.pixels.shape
    if not height:
        return Outlines(polygons_xy=())
    # On a grid twice as fine, with the borders of pixels on even and their middles on odd numbers.
    grid = np.zeros((2 * height + 1, 2 * width + 1), np.uint8)
    grid[1::2, 1::2] = crop.pixels
    cv2.dilate(grid, np.ones((3, 3), np.uint8), dst=grid)
    contours, _ = cv2.findContours(grid, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    del grid
    parts = sorted(((cv2.contourArea(part) / 4, part) for part in contours), key=lambda part: -part[0])
    area_px = int(np.count_nonzero(crop.pixels))
    shown = [(size, part) for size, part in parts if size >= _SMALL * area_px][:MAX_PARTS]
    polygons = [_simplified(part, tolerance_px) for _, part in shown]
    words = []
    holes_px = sum(size for size, _ in parts) - area_px
    if holes_px > _SMALL * area_px:
        words.append(f"holes of {holes_px:.0f} px are filled: a polygon has none")
    if len(shown) < len(parts):
        words.append(f"{len(parts) - len(shown)} small parts are left out")
    return Outlines(
        polygons_xy=tuple(polygon + np.array([crop.left, crop.top]) for polygon in polygons),
        missing="; ".join(words),
    )


def _simplified(part: cv2.typing.MatLike, tolerance_px: Callable[[float], float]) -> NDArray[np.float64]:
    """Return a contour on the fine grid as few corners in pixels (N, 2), N ≥ 3."""
    corners = np.asarray(part[:, 0] / 2, np.float32)
    simple = cv2.approxPolyDP(corners, tolerance_px(cv2.arcLength(corners, True)), True)[:, 0]
    return np.asarray(corners if len(simple) < 3 else simple, np.float64)
