"""Dense motion between the frames of one camera, on a coarse grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from xsam.types.requests import Frame

Field = NDArray[np.float32]
"""(h, w, 2) displacement of each cell as (x, y), in cells."""

Plane = NDArray[np.float32]
"""(h, w) one number per cell."""

Number = TypeVar("Number", np.float32, np.uint8)
Real = TypeVar("Real", np.float32, np.float64)

GRID_SIDE = 160
"""Cells along the longer side of an image: 4 px each at 640×480. Half of that loses small objects, twice as
many take four times as long."""

_PATCH_STRIDE = 5
_DESCENT_STEPS = 12
_TOLERANCE = 0.5  # cells by which flow there and back may miss the start
_RELATIVE_TOLERANCE = 0.1  # … or this share of the motion


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Motion:
    """How the image has moved from one frame to the next.

    Attributes:
        backward: (h, w, 2) from each cell of the new frame to where its content was.
        consistent: (h, w) True where the flow forward leads back to the cell: what it shows was in view.
        gray: (h, w) uint8 of the new frame.
        gray_before: (h, w) uint8 of the frame before.
    """

    backward: Field
    consistent: NDArray[np.bool_]
    gray: NDArray[np.uint8]
    gray_before: NDArray[np.uint8]


class CameraMotion:
    """The motion of one camera's images, from frame to frame. Sessions of the camera may share it."""

    def __init__(self) -> None:
        vision: Any = cv2  # whose annotations lack it
        flow = vision.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        flow.setFinestScale(0)
        flow.setPatchStride(_PATCH_STRIDE)
        flow.setGradientDescentIterations(_DESCENT_STEPS)
        # It would smooth across the edges of objects, at twice the time; each object smooths its own flow.
        flow.setVariationalRefinementIterations(0)
        self._flow = flow
        self._frame: Frame | None = None
        self._gray: NDArray[np.uint8] | None = None
        self._motion: Motion | None = None

    def advance(self, frame: Frame) -> Motion | None:
        """Return the motion from the frame before; None if it does not follow that one.

        A frame follows the one before if its size is the same and its time does not go back. The same frame
        given again has the same motion.
        """
        if frame is self._frame:
            return self._motion
        before, gray_before = self._frame, self._gray
        gray = gray_grid(frame.rgb)
        self._frame, self._gray, self._motion = frame, gray, None
        if before is None or gray_before is None or before.image_hw != frame.image_hw:
            return None
        if frame.stamp_ns < before.stamp_ns:
            return None
        backward, forward = self._calculate(gray, gray_before), self._calculate(gray_before, gray)
        there = sample(forward, displaced(backward))
        length = squared(backward) + squared(there)
        consistent = squared(backward + there) <= _TOLERANCE**2 + _RELATIVE_TOLERANCE**2 * length
        self._motion = Motion(backward=backward, consistent=consistent, gray=gray, gray_before=gray_before)
        return self._motion

    def _calculate(self, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Field:
        nothing_known: Any = None
        return np.asarray(self._flow.calc(first, second, nothing_known), np.float32)

    def fork(self) -> CameraMotion:
        """Return the same, to go on by itself with other frames."""
        other = CameraMotion()
        other._frame, other._gray, other._motion = self._frame, self._gray, self._motion
        return other

    @property
    def gray(self) -> NDArray[np.uint8]:
        """(h, w) of the newest frame; call `advance` first."""
        assert self._gray is not None
        return self._gray


def grid_hw(image_hw: tuple[int, int]) -> tuple[int, int]:
    """Return how many cells an image has, down and across."""
    cell_px = max(1.0, max(image_hw) / GRID_SIDE)
    height, width = (max(1, round(side / cell_px)) for side in image_hw)
    return height, width


def gray_grid(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the gray value of each cell, (h, w) uint8."""
    height, width = grid_hw((rgb.shape[0], rgb.shape[1]))
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(gray, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def squared(field: NDArray[Real]) -> NDArray[Real]:
    """Return the squared length of each vector (…, 2); a sum along so short an axis is slow."""
    return np.asarray(field[..., 0] ** 2 + field[..., 1] ** 2)


def middle(values: NDArray[Any]) -> float:
    """Return the upper median of numbers; `np.median` takes five times as long for a few hundred."""
    half = values.size // 2
    return float(np.partition(values, half, axis=None)[half])


def displaced(field: Field, origin_xy: tuple[int, int] = (0, 0)) -> Field:
    """Return where the displacement of each cell leads: (h, w, 2) x, y in cells.

    Args:
        field: of a window of the grid.
        origin_xy: its first cell.
    """
    places = field.copy()
    (left, top), (height, width) = origin_xy, field.shape[:2]
    places[..., 0] += np.arange(left, left + width, dtype=np.float32)
    places[..., 1] += np.arange(top, top + height, dtype=np.float32)[:, None]
    return places


def sample(values: NDArray[Number], places: Field, *, outside: float | None = None) -> NDArray[Number]:
    """Return values of the grid at places between its cells.

    Args:
        values: (h, w) or (h, w, C).
        places: (H, W, 2) x, y in cells.
        outside: value beyond the grid; None = that at its edge.
    """
    border = cv2.BORDER_REPLICATE if outside is None else cv2.BORDER_CONSTANT
    no_second_map: Any = None
    sampled: Any = cv2.remap(
        values, places, no_second_map, cv2.INTER_LINEAR, borderMode=border, borderValue=outside or 0.0
    )
    return cast("NDArray[Number]", sampled)
