"""Where the outline of a carried mask lies, to the pixel: on the edge between two colors.

Motion places an outline to about a third of a pixel, less after some frames. Where the colors on both sides
differ, each pixel at the outline shows which side it belongs to. That holds for some outlines and not for
others: within texture, or in a shadow, the edge of colors is elsewhere. The keyframe tells them apart, since
its mask is known: only where colors give the mask of the keyframe do they decide about later frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from xsam.types.masks import BoolMask, MaskCrop

_MARGIN_PX = 6
_SIDE = (7, 7)  # pixels around one of the outline, from which the colors of both sides are taken
_MIN_PIXELS = 4  # of each side
_CONTRAST = 20.0  # RGB distance between the sides
_BAND = np.ones((3, 3), np.uint8)  # the outline is sought one pixel to each side
_LEVELS = (0.3, 0.4, 0.5, 0.6)  # share of the object from which on a pixel belongs to it
_AROUND = np.ones((5, 5), np.uint8)
_FULL = np.uint8(255)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outline:
    """The mask of a keyframe, and where its outline is one of colors.

    Attributes:
        top: first row of the window.
        left: first column.
        planes: (h, w, 2) uint8 around the object: 255 in the mask; 255 where colors do not give the mask.
        level: share of the object from which on a pixel at the outline belongs to the mask.
    """

    top: int
    left: int
    planes: NDArray[np.uint8]
    level: float

    @classmethod
    def of(cls, mask: MaskCrop, rgb: NDArray[np.uint8]) -> Outline:
        """Compare the outline of a mask with the colors of its frame (H, W, 3)."""
        height, width = rgb.shape[:2]
        x_min, y_min, x_max, y_max = mask.box_xyxy
        top, left = max(0, y_min - _MARGIN_PX), max(0, x_min - _MARGIN_PX)
        bottom, right = min(height, y_max + _MARGIN_PX), min(width, x_max + _MARGIN_PX)
        pixels = np.zeros((bottom - top, right - left), np.bool_)
        pixels[y_min - top : y_max - top, x_min - left : x_max - left] = mask.pixels
        rows, columns, shares = _shares(pixels, rgb[top:bottom, left:right])
        inside = pixels[rows, columns]
        level = min(_LEVELS, key=lambda level: int(np.count_nonzero((shares > level) != inside)))
        wrong = np.zeros(pixels.shape, np.uint8)
        wrong[rows, columns] = (shares > level) != inside
        planes = np.dstack([pixels.view(np.uint8), cv2.dilate(wrong, _AROUND)]) * _FULL
        return cls(top=top, left=left, planes=planes, level=level)

    def settled(self, pixels: BoolMask, doubtful: BoolMask, rgb: NDArray[np.uint8]) -> BoolMask:
        """Return a carried mask with its outline on the edge of colors.

        Args:
            pixels: (h, w) the mask, as motion has it.
            doubtful: (h, w) the second plane, carried as well.
            rgb: (h, w, 3) of these pixels.
        """
        rows, columns, shares = _shares(pixels, rgb)
        known = ~doubtful[rows, columns]
        result = pixels.copy()
        result[rows[known], columns[known]] = shares[known] > self.level
        return result


def _shares(
    pixels: BoolMask, rgb: NDArray[np.uint8]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return how far pixels at the outline show the object, from 0 to 1, where its sides differ in color.

    Args:
        pixels: (h, w) of the mask; at the border of the image it may go on.
        rgb: (h, w, 3).

    Returns:
        Rows, columns and shares of P pixels.
    """
    mask = pixels.view(np.uint8)
    inner_side = np.asarray(cv2.erode(mask, _BAND, borderValue=1), np.uint8)
    reach = np.asarray(cv2.dilate(mask, _BAND, borderValue=0), np.uint8)
    sides = (inner_side, np.uint8(1) - reach)
    # Sums of 49 pixels fit into 16 bits, which is several times as fast as floating point.
    counts = [cv2.boxFilter(side, cv2.CV_16U, _SIDE, normalize=False) for side in sides]
    rows, columns = np.nonzero(inner_side != reach)
    enough = (counts[0][rows, columns] >= _MIN_PIXELS) & (counts[1][rows, columns] >= _MIN_PIXELS)
    rows, columns = rows[enough], columns[enough]
    inner, outer = (
        cv2.boxFilter(cv2.copyTo(rgb, side), cv2.CV_16U, _SIDE, normalize=False)[rows, columns]
        / count[rows, columns, None].astype(np.float32)
        for side, count in zip(sides, counts, strict=True)
    )
    apart = inner - outer
    squared = np.einsum("pc,pc->p", apart, apart)
    shares = np.einsum("pc,pc->p", rgb[rows, columns] - outer, apart) / np.maximum(squared, np.float32(1.0))
    differ = squared > _CONTRAST**2
    return rows[differ], columns[differ], np.asarray(shares[differ], np.float32)
