"""Let carried masks grow over what the keyframe did not show: an object enters, or is revealed.

Such pixels belong to no mask by motion, since there is nothing that they could have moved from. Those next to
a mask that have the colors of its object, and not those around it, are taken to be more of it. The keyframe
tells whether colors can decide: the object's must be unlike its surroundings there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from xsam.types.masks import BoolMask, MaskCrop

_BITS = 4  # of each of R, G, B
_COLORS = 1 << 3 * _BITS
_AROUND_PX = 32  # the surroundings of a mask in the keyframe
_REACH_CELLS = 24  # by which a mask may grow
_TIMES = 4.0  # as frequent in the object as around it
_LEAST = 2e-4  # share of an object's pixels
_KNOWN = 0.5  # share of the object that its colors tell, at least
_MISTAKEN = 0.1  # share of its surroundings that they would take for it, at most
_MIN_PIXELS = 12
_NEAR = np.ones((5, 5), np.uint8)  # cells: flow is not exact where something is revealed
_SPECK = np.ones((3, 3), np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ObjectColors:
    """Which colors are an object's, as (4096,) bool."""

    likely: NDArray[np.bool_]

    @classmethod
    def of(cls, mask: MaskCrop, rgb: NDArray[np.uint8]) -> ObjectColors | None:
        """Learn the colors of an object in a keyframe (H, W, 3); None if its surroundings have them, too."""
        rows, columns = _around(mask.box_xyxy, (rgb.shape[0], rgb.shape[1]))
        pixels = _drawn(mask, rows, columns)
        colors = _bins(rgb[rows, columns])
        inside, outside = (
            np.bincount(colors[chosen], minlength=_COLORS) / max(1, int(np.count_nonzero(chosen)))
            for chosen in (pixels, ~pixels)
        )
        smooth = _smooth(inside)
        likely = (smooth > _TIMES * _smooth(outside)) & (smooth > _LEAST)
        if float(inside[likely].sum()) < _KNOWN or float(outside[likely].sum()) > _MISTAKEN:
            return None
        return cls(likely=likely)


def grown(
    crops: Sequence[MaskCrop | None],
    colors: Sequence[ObjectColors | None],
    unseen: NDArray[np.bool_],
    rgb: NDArray[np.uint8],
) -> list[MaskCrop | None]:
    """Return masks with what has come into view next to them; none takes pixels of another.

    Args:
        crops: of the masks in a frame, None for one that is out of view.
        colors: of each object.
        unseen: (h, w) cells whose content the keyframe did not show.
        rgb: (H, W, 3) of the frame.
    """
    result = list(crops)
    if not unseen.any():
        return result
    near = np.asarray(cv2.dilate(unseen.view(np.uint8), _NEAR), np.uint8).view(np.bool_)
    for index, (crop, own) in enumerate(zip(crops, colors, strict=True)):
        if crop is not None and own is not None:
            others = [other for other in (*result[:index], *result[index + 1 :]) if other is not None]
            result[index] = _grown(crop, own, others, near, rgb)
    return result


def _grown(
    crop: MaskCrop,
    colors: ObjectColors,
    others: Sequence[MaskCrop],
    unseen: NDArray[np.bool_],
    rgb: NDArray[np.uint8],
) -> MaskCrop:
    """Return a mask with what has come into view next to it."""
    tight = MaskCrop.of(crop.pixels)
    tight = MaskCrop(top=crop.top + tight.top, left=crop.left + tight.left, pixels=tight.pixels)
    window = _window(tight.box_xyxy, unseen, (rgb.shape[0], rgb.shape[1]))
    if window is None:
        return crop
    rows, columns = window
    cell_rows = np.arange(rows.start, rows.stop) * unseen.shape[0] // rgb.shape[0]
    cell_columns = np.arange(columns.start, columns.stop) * unseen.shape[1] // rgb.shape[1]
    mine = _drawn(tight, rows, columns)
    free = unseen[cell_rows][:, cell_columns] & ~mine
    for other in others:
        free &= ~_drawn(other, rows, columns)
    new = np.zeros_like(free)
    new[free] = colors.likely[_bins(rgb[rows, columns][free])]
    if np.count_nonzero(new) < _MIN_PIXELS:
        return crop
    new &= cv2.morphologyEx((new | mine).view(np.uint8), cv2.MORPH_OPEN, _SPECK).view(np.bool_)
    count, parts = cv2.connectedComponents((new | mine).view(np.uint8), connectivity=4)
    joined = np.zeros(count, np.bool_)
    joined[parts[mine]] = True
    pixels: BoolMask = joined[parts]
    if np.count_nonzero(pixels & ~mine) < _MIN_PIXELS:
        return crop
    return MaskCrop(top=rows.start, left=columns.start, pixels=pixels)


def _window(
    box_xyxy: tuple[int, int, int, int], unseen: NDArray[np.bool_], image_hw: tuple[int, int]
) -> tuple[slice, slice] | None:
    """Return the rows and columns of a box and of the unseen cells within reach; None if there are none."""
    slices = []
    reach = [slice(0, 0), slice(0, 0)]
    sides = list(zip(unseen.shape, image_hw, box_xyxy[1::-1], box_xyxy[:1:-1], strict=True))
    for axis, (cells, pixels, start, stop) in enumerate(sides):
        first, last = start * cells // pixels, (stop - 1) * cells // pixels
        reach[axis] = slice(max(0, first - _REACH_CELLS), min(cells, last + _REACH_CELLS + 1))
    found = cv2.boundingRect(unseen[reach[0], reach[1]].view(np.uint8))
    if not found[2]:
        return None
    for axis, (cells, pixels, start, stop) in enumerate(sides):
        first = reach[axis].start + found[1 - axis]
        after = first + found[3 - axis]
        slices.append(slice(min(start, first * pixels // cells), max(stop, -(-after * pixels // cells))))
    return slices[0], slices[1]


def _around(box_xyxy: tuple[int, int, int, int], image_hw: tuple[int, int]) -> tuple[slice, slice]:
    """Return the rows and columns of a box and what is around it."""
    x_min, y_min, x_max, y_max = box_xyxy
    return (
        slice(max(0, y_min - _AROUND_PX), min(image_hw[0], y_max + _AROUND_PX)),
        slice(max(0, x_min - _AROUND_PX), min(image_hw[1], x_max + _AROUND_PX)),
    )


def _drawn(crop: MaskCrop, rows: slice, columns: slice) -> BoolMask:
    """Return the part of a mask in a window."""
    window = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.bool_)
    left, top, right, bottom = crop.box_xyxy
    x_min, x_max = max(left, columns.start), min(right, columns.stop)
    y_min, y_max = max(top, rows.start), min(bottom, rows.stop)
    if x_min < x_max and y_min < y_max:
        window[y_min - rows.start : y_max - rows.start, x_min - columns.start : x_max - columns.start] = (
            crop.pixels[y_min - top : y_max - top, x_min - left : x_max - left]
        )
    return window


def _bins(rgb: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return the number of each color (…, 3)."""
    coarse = (rgb >> (8 - _BITS)).astype(np.int32)
    return np.asarray((coarse[..., 0] << 2 * _BITS) | (coarse[..., 1] << _BITS) | coarse[..., 2], np.int32)


def _smooth(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the shares of colors, of which each also counts for its neighbors."""
    side = 1 << _BITS
    cube = np.pad(shares.reshape(side, side, side), 1, mode="edge")
    for axis in range(3):
        before, here, after = (np.take(cube, range(k, k + side), axis) for k in range(3))
        cube = (before + 2.0 * here + after) / 4.0
    return cube.ravel()
