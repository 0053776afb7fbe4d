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

Window = tuple[slice, slice]
Pixels = NDArray[np.intp]

_BITS = 4  # of each of R, G, B
_COLORS = 1 << 3 * _BITS
_AROUND_PX = 32  # the surroundings of a mask in the keyframe
_REACH = 0.15  # of the longer side of the image, by which a mask may grow
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
    cells_yx = np.nonzero(near)
    image_hw = (rgb.shape[0], rgb.shape[1])
    y, x = ((2 * k + 1) * side // (2 * n) for k, side, n in zip(cells_yx, image_hw, near.shape, strict=True))
    shown = _bins(rgb[y, x])
    for index, (crop, own) in enumerate(zip(crops, colors, strict=True)):
        if crop is None or own is None:
            continue
        fits = own.likely[shown] & _near_box(crop.box_xyxy, y, x, image_hw)
        fits[fits] = ~_is_in(crop, y[fits], x[fits])
        fits[fits] = _joined(crop, (cells_yx[0][fits], cells_yx[1][fits]), near.shape, image_hw)
        if fits.any():
            cell_px = -(-image_hw[1] // near.shape[1])
            window = _window(y[fits], x[fits], cell_px, image_hw)
            others = [other for other in (*result[:index], *result[index + 1 :]) if other is not None]
            result[index] = _grown(crop, own, others, near, rgb, window)
    return result


def _grown(
    crop: MaskCrop,
    colors: ObjectColors,
    others: Sequence[MaskCrop],
    near: NDArray[np.bool_],
    rgb: NDArray[np.uint8],
    window: Window,
) -> MaskCrop:
    """Return a mask with what has come into view next to it, in some rows and columns of the image."""
    rows, columns = window
    cell_rows = np.arange(rows.start, rows.stop) * near.shape[0] // rgb.shape[0]
    cell_columns = np.arange(columns.start, columns.stop) * near.shape[1] // rgb.shape[1]
    mine = _drawn(crop, rows, columns)
    free = near[np.ix_(cell_rows, cell_columns)] & ~mine
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
    left, top, right, bottom = crop.box_xyxy
    top, left = min(top, rows.start), min(left, columns.start)
    whole = _drawn(crop, slice(top, max(bottom, rows.stop)), slice(left, max(right, columns.stop)))
    whole[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] |= pixels
    return MaskCrop(top=top, left=left, pixels=whole)


def _near_box(
    box_xyxy: tuple[int, int, int, int], y: Pixels, x: Pixels, image_hw: tuple[int, int]
) -> NDArray[np.bool_]:
    """Return which pixels lie within reach of a box."""
    reach = _REACH * max(image_hw)
    x_min, y_min, x_max, y_max = box_xyxy
    near: NDArray[np.bool_] = (
        (x >= x_min - reach) & (x < x_max + reach) & (y >= y_min - reach) & (y < y_max + reach)
    )
    return near


def _joined(
    crop: MaskCrop, cells_yx: tuple[Pixels, Pixels], grid_hw: tuple[int, ...], image_hw: tuple[int, int]
) -> NDArray[np.bool_]:
    """Return which cells reach a mask by way of each other."""
    if not len(cells_yx[0]):
        return np.zeros(0, np.bool_)
    grid = np.zeros(grid_hw, np.uint8)
    grid[cells_yx] = 1
    rows, columns = np.nonzero(crop.pixels[::2, ::2])
    own = (
        (rows * 2 + crop.top) * grid_hw[0] // image_hw[0],
        (columns * 2 + crop.left) * grid_hw[1] // image_hw[1],
    )
    grid[own] = 1
    count, parts = cv2.connectedComponents(grid, connectivity=8)
    joined = np.zeros(count, np.bool_)
    joined[parts[own]] = True
    reached: NDArray[np.bool_] = joined[parts[cells_yx]]
    return reached


def _is_in(crop: MaskCrop, y: Pixels, x: Pixels) -> NDArray[np.bool_]:
    """Return which pixels belong to a mask."""
    height, width = crop.pixels.shape
    rows, columns = y - crop.top, x - crop.left
    inside: NDArray[np.bool_] = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    inside[inside] = crop.pixels[rows[inside], columns[inside]]
    return inside


def _window(y: Pixels, x: Pixels, margin: int, image_hw: tuple[int, int]) -> Window:
    """Return the rows and columns of pixels, with a margin around these."""
    return (
        slice(max(0, int(y.min()) - margin), min(image_hw[0], int(y.max()) + margin + 1)),
        slice(max(0, int(x.min()) - margin), min(image_hw[1], int(x.max()) + margin + 1)),
    )


def _around(box_xyxy: tuple[int, int, int, int], image_hw: tuple[int, int]) -> Window:
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
