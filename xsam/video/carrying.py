"""Carry masks along with the motion of the image: each object by its own motion, sharp at its edges.

Flow is unreliable at the edges of objects, where two motions meet. So each object has a field of its own: the
flow of the cells inside, weighted and smoothed, extended beyond its edge. Fields add up from the frame in
which the mask was segmented; its pixels are taken from there, so that nothing gets blurred on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from xsam.types.masks import MaskCrop, MaskRle
from xsam.video.growth import ObjectColors
from xsam.video.motion import Field, Motion, Plane, displaced, grid_hw, middle, sample, squared
from xsam.video.outline import Outline

_MARGIN = 4  # cells around an object that its field covers
_SMOOTHING = (9, 9)  # cells
_PRIOR = 0.01  # weight of the motion of the object as a whole, where nothing of it is near
_APART = 0.25  # cells by which a part of an object may move otherwise than the whole
_MIN_CELLS = 6
_ENOUGH_CELLS = 400  # for six numbers
_FLAT = 4.0  # squared gray values per cell: what has smaller slopes says little about its place
_MAX_DRIFT = 1.0  # cells that one frame corrects
_DAMPING = 1e-3
_FITS = 2
_STILL_IN_FRONT = 0.5  # factor of the misfit: who is in front does not change from frame to frame
_PRESENT = 0.05  # share of a cell from which on an object is in it
_MIN_AREA = 0.5  # cells; what is smaller is gone
_SLIVER = 0.15  # share of an object, as far as it looks like it, below which it has left through the edge
_GRAY_TOLERANCE = 20.0  # by which a cell may differ from what it showed in the keyframe
_EDGE_PX = 4  # around an outline, that settling it may look at and change
_AROUND = np.ones((3, 3), np.uint8)
_OTHER_MOTION = 1.0  # cells by which what covers an object moves otherwise

Window = tuple[slice, slice]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CarriedMask:
    """A mask of a keyframe, and where it is now.

    Attributes:
        mask: in the keyframe, in pixels.
        outline: of it.
        colors: of the object; None = they do not tell it from its surroundings.
        coverage: (h, w) in the keyframe, share of each cell from 0 to 1.
        gray: (h, w) of the keyframe.
        image_hw: (H, W) in pixels.
        origin_xy: first cell of `offsets`.
        offsets: from cells of the newest frame to their places in the keyframe, in a window around it.
        visible: (h, w) share of each cell in the newest frame; not where something else covers the object.
        flow: of the last step, in the window.
        covered: (h, w) True where something else covers the object, in the window; None = nowhere.
        fronts: indices of other masks that cover it.
        agreement: share of its cells that look as in the keyframe.
    """

    mask: MaskCrop
    outline: Outline
    colors: ObjectColors | None
    coverage: Plane
    gray: NDArray[np.uint8]
    image_hw: tuple[int, int]
    origin_xy: tuple[int, int]
    offsets: Field
    visible: Plane
    flow: Field
    covered: NDArray[np.bool_] | None = None
    fronts: tuple[int, ...] = ()
    agreement: float = 1.0

    @classmethod
    def of(cls, mask: MaskRle, gray: NDArray[np.uint8], rgb: NDArray[np.uint8]) -> CarriedMask | None:
        """Begin with a mask of a keyframe, which is given in cells and in pixels; None if it is empty."""
        image_hw = (mask.height, mask.width)
        crop = mask.crop()
        if not crop.pixels.size:
            return None
        height, width = grid_hw(image_hw)
        coverage = cv2.resize(
            mask.decode().view(np.uint8) * 255, (width, height), interpolation=cv2.INTER_AREA
        )
        coverage = coverage.astype(np.float32) / 255.0
        window = _window(coverage)
        if window is None:  # it is smaller than the noise
            return None
        shape = (window[0].stop - window[0].start, window[1].stop - window[1].start, 2)
        return cls(
            mask=crop,
            outline=Outline.of(crop, rgb),
            colors=ObjectColors.of(crop, rgb),
            coverage=coverage,
            gray=gray,
            image_hw=image_hw,
            origin_xy=(window[1].start, window[0].start),
            offsets=np.zeros(shape, np.float32),
            visible=coverage,
            flow=np.zeros(shape, np.float32),
        )

    @property
    def nbytes(self) -> int:
        arrays = (self.mask.pixels, self.outline.planes, self.coverage, self.offsets, self.visible, self.flow)
        return sum(array.nbytes for array in arrays)

    @property
    def window(self) -> Window:
        """Of the grid, that the offsets are of."""
        (left, top), (height, width) = self.origin_xy, self.offsets.shape[:2]
        return slice(top, top + height), slice(left, left + width)

    def carried(self, motion: Motion, *, places: Field) -> CarriedMask | None:
        """Return the mask one frame later; None if nothing of it is in view any more.

        Args:
            motion: from the frame where it is.
            places: of the grid, where the motion leads.
        """
        guess = sample(self.visible, places)
        window = _window(guess)
        if window is None:
            return None
        flow = _own_flow(motion, window, guess, self.visible)
        origin_xy = (window[1].start, window[0].start)
        left, top = self.origin_xy
        before = sample(self.offsets, displaced(flow, (origin_xy[0] - left, origin_xy[1] - top)))
        offsets = flow + before
        offsets = offsets + _drift(motion.gray[window], self.gray, self.coverage, offsets, origin_xy)
        moved = replace(self, origin_xy=origin_xy, offsets=offsets, flow=flow)
        return moved._compared(motion, window)

    def _compared(self, motion: Motion, window: Window) -> CarriedMask | None:
        """Return this with what can be seen of the object, by comparison with the keyframe."""
        sources = displaced(self.offsets, self.origin_xy)
        coverage = sample(self.coverage, sources, outside=0.0)
        remaining = float(coverage.sum())
        if remaining < _MIN_AREA:
            return None
        difference = motion.gray[window].astype(np.float32) - sample(self.gray, sources).astype(np.float32)
        inside = coverage > 0.5
        if not inside.any():
            inside = coverage >= float(coverage.max())
        difference -= middle(difference[inside])  # the light may have changed
        differs = np.abs(difference) > _GRAY_TOLERANCE
        agreement = 1.0 - float(np.count_nonzero(differs & inside)) / float(np.count_nonzero(inside))
        if self._is_at_edge() and remaining * agreement < _SLIVER * float(self.coverage.sum()):
            return None
        other = squared(motion.backward[window] - self.flow) > _OTHER_MOTION**2
        strange = (differs & other).view(np.uint8)
        # Cells at the edge show the background, too: only what reaches further in covers the object.
        inner = cv2.erode(inside.view(np.uint8), _AROUND)
        covered = cv2.bitwise_and(cv2.dilate(cv2.bitwise_and(strange, inner), _AROUND), strange)
        visible = np.zeros_like(self.coverage)
        visible[window] = coverage * (covered == 0)
        return replace(
            self,
            visible=visible,
            covered=covered.view(np.bool_) if covered.any() else None,
            agreement=agreement,
        )

    def _is_at_edge(self) -> bool:
        (rows, columns), (height, width) = self.window, self.coverage.shape
        return bool(rows.start == 0 or columns.start == 0 or rows.stop == height or columns.stop == width)

    def enters_by(self) -> float:
        """Return how many cells an object that the edge of the image cut off has moved inwards since."""
        inside = self.visible[self.window] > 0.5
        if not inside.any():
            return 0.0
        x, y = (float(value) for value in self.offsets[inside].mean(axis=0))
        x_min, y_min, x_max, y_max = self.mask.box_xyxy
        height, width = self.image_hw
        ways = ((x_min == 0, -x), (y_min == 0, -y), (x_max == width, x), (y_max == height, y))
        return max((way for is_cut, way in ways if is_cut), default=0.0)

    def misfit(self, motion: Motion, cells: NDArray[np.bool_]) -> float:
        """Return how badly the object explains the motion and the gray values of some cells of the grid."""
        window = self.window
        chosen = cells[window]
        flow = np.sqrt(squared((motion.backward[window] - self.flow)[chosen]))
        shown = sample(self.gray, displaced(self.offsets, self.origin_xy))[chosen].astype(np.float32)
        gray = np.abs(motion.gray[window][chosen].astype(np.float32) - shown)
        return float(flow.sum() / _OTHER_MOTION + gray.sum() / _GRAY_TOLERANCE)

    def pixels(self, rgb: NDArray[np.uint8]) -> MaskCrop:
        """Return the mask in the newest frame, whose pixels (H, W, 3) are given."""
        (image_height, image_width), (height, width) = self.image_hw, self.coverage.shape
        cell_x, cell_y = image_width / width, image_height / height
        rows, columns = self.window
        left, top = int(columns.start * cell_x), int(rows.start * cell_y)
        size = (int(np.ceil(columns.stop * cell_x)) - left, int(np.ceil(rows.stop * cell_y)) - top)
        size = (min(size[0], image_width - left), min(size[1], image_height - top))
        # Pixel (X, Y) of the crop lies at cell ((X + left + 0.5) / cell - 0.5 - origin) of the window.
        to_cells = np.array(
            [
                [1.0 / cell_x, 0.0, (left + 0.5) / cell_x - 0.5 - columns.start],
                [0.0, 1.0 / cell_y, (top + 0.5) / cell_y - 0.5 - rows.start],
            ]
        )
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        border = cv2.BORDER_REPLICATE
        offsets: Field = np.asarray(
            cv2.warpAffine(self.offsets, to_cells, size, flags=flags, borderMode=border), np.float32
        )
        offsets *= np.array([cell_x, cell_y], np.float32)
        places = displaced(offsets, (left - self.outline.left, top - self.outline.top))
        planes = sample(self.outline.planes, places, outside=0.0) > 127
        pixels = np.ascontiguousarray(planes[..., 0])
        if self.covered is not None:
            covered = cv2.warpAffine(self.covered.view(np.uint8) * 255, to_cells, size, flags=flags)
            pixels &= covered <= 127
        x, y, width, height = cv2.boundingRect(pixels.view(np.uint8))
        rows = slice(max(0, y - _EDGE_PX), y + height + _EDGE_PX)
        columns = slice(max(0, x - _EDGE_PX), x + width + _EDGE_PX)
        top, left, pixels = top + rows.start, left + columns.start, pixels[rows, columns]
        shown = rgb[top : top + pixels.shape[0], left : left + pixels.shape[1]]
        pixels = self.outline.settled(pixels, doubtful=planes[rows, columns, 1], rgb=shown)
        return MaskCrop(top=top, left=left, pixels=pixels)


def behind(masks: Sequence[CarriedMask | None], motion: Motion) -> tuple[CarriedMask | None, ...]:
    """Decide which of masks that have moved onto each other is in front; the others lose what it covers.

    Masks that overlapped in the keyframe, such as a mug and its handle, go on to do so.
    """
    result = [mask and replace(mask, fronts=()) for mask in masks]
    for one in range(len(result)):
        for other in range(one):
            first, second = result[one], result[other]
            if first is None or second is None or not _meet(first.window, second.window):
                continue
            both = (first.visible > 0.5) & (second.visible > 0.5)
            if not both.any() or float(np.minimum(first.coverage, second.coverage).sum()) > both.sum() / 2:
                continue
            misfits = {one: first.misfit(motion, both), other: second.misfit(motion, both)}
            for key, rival in ((one, other), (other, one)):
                earlier = masks[rival]
                if earlier is not None and key in earlier.fronts:  # it was in front one frame ago
                    misfits[key] *= _STILL_IN_FRONT
            front, back = sorted(misfits, key=lambda key: misfits[key])
            hidden, cover = result[back], result[front]
            assert hidden is not None
            assert cover is not None
            result[back] = replace(
                hidden, visible=hidden.visible * (1.0 - cover.visible), fronts=(*hidden.fronts, front)
            )
    return tuple(result)


def cut(masks: Sequence[CarriedMask | None], rgb: NDArray[np.uint8]) -> list[MaskCrop | None]:
    """Return the pixels of all masks in the newest frame, each without what covers it.

    Args:
        masks: carried to that frame.
        rgb: (H, W, 3) of it.

    Returns:
        For each mask a crop, None for one that is out of view.
    """
    crops = [None if mask is None else mask.pixels(rgb) for mask in masks]
    return [
        None if mask is None or crop is None else _without(crop, [crops[front] for front in mask.fronts])
        for mask, crop in zip(masks, crops, strict=True)
    ]


def _without(crop: MaskCrop, covers: Sequence[MaskCrop | None]) -> MaskCrop | None:
    """Return a mask without the pixels of others; None if nothing is left."""
    pixels = crop.pixels
    for cover in covers:
        if cover is None:
            continue
        left, top = max(crop.left, cover.left), max(crop.top, cover.top)
        right = min(crop.left + pixels.shape[1], cover.left + cover.pixels.shape[1])
        bottom = min(crop.top + pixels.shape[0], cover.top + cover.pixels.shape[0])
        if left < right and top < bottom:
            pixels = pixels.copy()
            pixels[top - crop.top : bottom - crop.top, left - crop.left : right - crop.left] &= ~cover.pixels[
                top - cover.top : bottom - cover.top, left - cover.left : right - cover.left
            ]
    if not pixels.any():
        return None
    return replace(crop, pixels=pixels) if covers else crop


def _meet(first: Window, second: Window) -> bool:
    return all(a.start < b.stop and b.start < a.stop for a, b in zip(first, second, strict=True))


def _window(coverage: Plane) -> Window | None:
    """Return the part of the grid around an object; None if it is not in view."""
    if float(coverage.sum()) < _MIN_AREA:
        return None
    x, y, width, height = cv2.boundingRect((coverage > _PRESENT).view(np.uint8))
    if not width:
        return None
    rows, columns = coverage.shape
    return (
        slice(max(0, y - _MARGIN), min(rows, y + height + _MARGIN)),
        slice(max(0, x - _MARGIN), min(columns, x + width + _MARGIN)),
    )


def _own_flow(motion: Motion, window: Window, guess: Plane, visible: Plane) -> Field:
    """Return the flow of an object in a window: smoothed inside, extended beyond its edge.

    Cells at the edge of a thin or fast object show the flow of what is behind it. So a cell that moves unlike
    the object as a whole counts little, except where all around it do so: a part that moves by itself.

    Args:
        motion: from the frame before.
        window: around the object.
        guess: (h, w) where it should be by the flow of each cell.
        visible: (h, w) where it was.
    """
    flow = motion.backward[window]
    origin_xy = (window[1].start, window[0].start)
    whole = _affine(flow, guess[window] * motion.consistent[window])
    weights = sample(visible, displaced(whole, origin_xy)) * (motion.consistent[window] + np.float32(1e-3))
    apart = squared(flow - whole)
    weights /= (1.0 + apart / _APART**2).astype(np.float32)
    smooth = cv2.GaussianBlur(np.dstack([(flow - whole) * weights[..., None], weights]), _SMOOTHING, 0)
    return np.asarray(whole + smooth[..., :2] / (smooth[..., 2:] + _PRIOR), np.float32)


def _drift(
    gray: NDArray[np.uint8],
    before: NDArray[np.uint8],
    coverage: Plane,
    offsets: Field,
    origin_xy: tuple[int, int],
) -> Field:
    """Return the affine change of offsets after which an object looks most as in the keyframe.

    It is a single Gauss-Newton step, so a small error of the flow does not grow from frame to frame.

    Args:
        gray: (h, w) of the window in the newest frame.
        before: (h, w) of the keyframe.
        coverage: (h, w) of the object in the keyframe.
        offsets: of the window.
        origin_xy: its first cell.
    """
    sources = displaced(offsets, origin_xy)
    shown = sample(before, sources).astype(np.float32)
    weights = sample(coverage, sources, outside=0.0)
    difference = gray.astype(np.float32) - shown
    total = float(weights.sum())
    if total < _MIN_CELLS:
        return np.zeros_like(offsets)
    difference -= float((difference * weights).sum()) / total
    weights = weights / (1.0 + (difference / _GRAY_TOLERANCE) ** 2)
    dx, dy = cv2.Sobel(shown, cv2.CV_32F, 1, 0, scale=0.125), cv2.Sobel(shown, cv2.CV_32F, 0, 1, scale=0.125)
    height, width = gray.shape
    scale = max(height, width)
    x = (np.arange(width, dtype=np.float32) / scale - 0.5)[None, :]
    y = (np.arange(height, dtype=np.float32) / scale - 0.5)[:, None]
    slopes = np.stack([dx, dy, dx * x, dy * x, dx * y, dy * y]).reshape(6, -1)
    weighted = slopes * weights.ravel()
    damping = _FLAT * total * np.diag([1.0, 1.0, 0.1, 0.1, 0.1, 0.1])
    step = np.linalg.solve(weighted @ slopes.T + damping, weighted @ difference.ravel())
    step = np.clip(step, -_MAX_DRIFT, _MAX_DRIFT).astype(np.float32)
    change: Field = np.dstack([step[k] + step[2 + k] * x + step[4 + k] * y for k in (0, 1)])
    return change


def _affine(flow: Field, weights: Plane) -> Field:
    """Return the affine flow that most of an object follows: least squares, without what deviates."""
    height, width = weights.shape
    rows, columns = np.nonzero(weights > _PRESENT)
    if len(rows) < _MIN_CELLS:
        mean = (flow * weights[..., None]).sum(axis=(0, 1)) / max(float(weights.sum()), 1e-9)
        return np.broadcast_to(mean.astype(np.float32), flow.shape)
    stride = 1 + len(rows) // _ENOUGH_CELLS
    rows, columns = rows[::stride], columns[::stride]
    scale = max(height, width)
    terms = np.stack([np.ones(len(rows)), columns / scale - 0.5, rows / scale - 0.5], axis=1)
    values, base = flow[rows, columns].astype(np.float64), weights[rows, columns].astype(np.float64)
    damping = _DAMPING * base.sum() * np.diag([0.0, 1.0, 1.0])  # of a few cells in a row
    start = np.array([middle(values[:, k]) for k in (0, 1)])
    apart = squared(values - start)
    for _ in range(_FITS):
        robust = base / (1.0 + apart / _APART**2)
        weighted = terms * robust[:, None]
        fitted = np.linalg.solve(weighted.T @ terms + damping + 1e-9 * np.eye(3), weighted.T @ values)
        apart = squared(values - terms @ fitted)
    x = np.arange(width) / scale - 0.5
    y = np.arange(height) / scale - 0.5
    whole = fitted[0] + x[None, :, None] * fitted[1] + y[:, None, None] * fitted[2]
    return np.asarray(whole, np.float32)
