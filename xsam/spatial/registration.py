"""Register depth: move a depth image from the camera that measured it to the pixels of a color camera.

Frames, units and pixels are those of `xsam.spatial.localize`; both cameras are in their optical frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from xsam.errors import InvalidImageError
from xsam.spatial.lens import distorted_pixels, ray_grid
from xsam.spatial.localize import MAX_DEPTH_M, MIN_DEPTH_M, valid_depth
from xsam.types.lens import LensDistortion

NEAREST_M = 0.3
"""Most depth cameras measure nothing that is nearer."""

_LEAST_COSINE = 0.2  # of the angle between the optical axes: 78°; body and optical frames are 90° apart
_MAX_OFFSET_M = 20.0  # between the cameras
_MAX_DEPTH_PIXELS = 1_500_000  # a larger depth image is subsampled
_STRETCH = 1.5  # between the projections of neighboring depth pixels, on a slanted surface
_MAX_RAY = 2.0  # largest x/z and y/z in a distorted color image: 127° across
_MAX_SPACING_PX = 64.0
_CANVAS_AREA = 4  # of the largest pinhole image, relative to the distorted one

_MAX_HIDDEN = 0.5  # share of an object's points that may lie behind something that was not measured
_DOUBT_POINTS = 256
_DOUBT_STEPS = 24
_LEAST_RISE = 0.05  # relative to the depth: what stands out less makes little difference
_TOLERANCE, _TOLERANCE_M = 0.02, 0.01


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DepthView:
    """A depth image as its own camera sees it, and where that camera is.

    Attributes:
        depth_m: (h, w) float32, along the depth camera's axis.
        intrinsics: (3, 3) K of the depth image.
        color_from_depth: (4, 4) transform of points from the depth camera to the color camera.
        lens: distortion of the depth image; None = a rectified one.
        nearest_m: nothing that is segmented is nearer to the color camera; see `doubt`.

    Raises:
        InvalidImageError: the transform is not rigid, or the cameras cannot see the same things.
    """

    depth_m: NDArray[np.float32]
    intrinsics: NDArray[np.float64]
    color_from_depth: NDArray[np.float64]
    lens: LensDistortion | None = None
    nearest_m: float = NEAREST_M

    def __post_init__(self) -> None:
        rotation, offset = self._rotation, self._offset
        if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-6) or np.linalg.det(rotation) < 0:
            raise InvalidImageError("the transform between depth and color camera is not a rigid one")
        distance_m = float(np.linalg.norm(offset))
        if not distance_m <= _MAX_OFFSET_M:  # also NaN
            raise InvalidImageError(
                f"the depth camera is {distance_m:g} m away from the color camera",
                hint="check the transform between the two cameras",
            )
        if rotation[2, 2] < _LEAST_COSINE:
            angle_deg = math.degrees(math.acos(max(-1.0, float(rotation[2, 2]))))
            raise InvalidImageError(
                f"the axes of depth and color camera are {angle_deg:.0f}° apart: they cannot see the same",
                hint="both frames must be optical ones (x right, y down, z forward); check the transform",
            )

    @property
    def _rotation(self) -> NDArray[np.float64]:
        return self.color_from_depth[:3, :3]

    @property
    def _offset(self) -> NDArray[np.float64]:
        return self.color_from_depth[:3, 3]

    def registered(
        self, image_hw: tuple[int, int], intrinsics: NDArray[np.float64], lens: LensDistortion | None = None
    ) -> NDArray[np.float32]:
        """Return (H, W) float32 depth along the color camera's axis, for the pixels of its image.

        0 = no measurement: the depth camera has none there, cannot see that place, or it is outside its
        image. Of surfaces behind one another the nearest counts; it has no gaps through which the others
        would show where depth has fewer pixels than color.

        Args:
            image_hw: (H, W) of the color image.
            intrinsics: (3, 3) K of the color image.
            lens: distortion of the color image; None = a rectified one.

        Raises:
            InvalidImageError: not one measurement falls into the image.
        """
        if lens is None:
            registered = self._on_pinhole(image_hw, intrinsics)
        else:
            columns, rows, pinhole_hw, pinhole = _pinhole_of(image_hw, intrinsics, lens)
            undistorted = self._on_pinhole(pinhole_hw, pinhole)
            remapped = cv2.remap(
                undistorted,
                columns,
                rows,
                cv2.INTER_NEAREST,
                borderMode=cv2.BORDER_CONSTANT,
                borderValue=(0.0,),
            )
            registered = np.asarray(remapped, np.float32)
        if not registered.any():
            raise InvalidImageError(
                "no measurement of the depth camera falls into the color image",
                hint="check the transform between the two cameras, and the camera info of both",
            )
        return registered

    def doubt(self, points_m: NDArray[np.float64]) -> str:
        """Return why points under a mask may not be the object's; "" = they are.

        A camera at another place sees past objects that it cannot measure (black, shiny, transparent, too
        near, hidden from it), and the background that it measures there is under their masks. So the rays to
        the points are followed: if there is a depth at which most of them pass through space that was not
        measured, the object may be there.

        Args:
            points_m: (N, 3) in the frame of the color camera.
        """
        points = points_m[:: max(1, len(points_m) // _DOUBT_POINTS)]
        depth_m = float(np.median(points[:, 2]))
        first = 1.0 / (1.0 - _LEAST_RISE)
        last = depth_m / self.nearest_m
        if last <= first:
            return ""
        fractions = 1.0 / np.linspace(first, last, _DOUBT_STEPS)
        on_rays = fractions[:, None, None] * points
        hidden = 1.0 - self._is_free(on_rays.reshape(-1, 3)).reshape(on_rays.shape[:2]).mean(axis=1)
        worst = int(np.argmax(hidden))
        if hidden[worst] <= _MAX_HIDDEN:
            return ""
        return (
            f"the depth camera may see past the object: {hidden[worst]:.0%} of it would be where nothing is "
            f"measured if it were {depth_m * fractions[worst]:.2f} m away, so the surface at {depth_m:.2f} m "
            "may be what is behind it"
        )

    def _is_free(self, points_m: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return for (N, 3) points of the color camera whether the depth camera sees them or through them."""
        points = (points_m - self._offset) @ self._rotation
        z = points[:, 2]
        free = np.zeros(len(points), np.bool_)
        ahead = np.flatnonzero(z > MIN_DEPTH_M)
        pixels = distorted_pixels(points[ahead, :2] / z[ahead, None], self.intrinsics, self.lens)
        height, width = self.depth_m.shape
        inside = ((pixels > -0.5) & (pixels < (width - 0.5, height - 0.5))).all(axis=1)  # false for NaN
        ahead = ahead[inside]
        columns, rows = np.rint(pixels[inside]).astype(np.intp).T
        measured = self.depth_m[rows, columns]
        reached = measured >= z[ahead] * (1.0 - _TOLERANCE) - _TOLERANCE_M
        free[ahead] = reached & valid_depth(measured)
        return free

    def _on_pinhole(self, image_hw: tuple[int, int], matrix: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the depth image of a pinhole camera in the place of the color camera; 0 = no measurement."""
        height, width = image_hw
        step = max(1, math.ceil(math.sqrt(self.depth_m.size / _MAX_DEPTH_PIXELS)))
        depth = self.depth_m[::step, ::step]
        own = np.diag((1.0 / step, 1.0 / step, 1.0)) @ self.intrinsics
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            x, y, z = self._moved(np.where(valid_depth(depth), depth, np.float32(np.nan)), own)
            ahead = (z >= MIN_DEPTH_M) & (z <= MAX_DEPTH_M)  # false for NaN
            spacing = _spacing(matrix, own, self._rotation, depth[ahead], z[ahead])
            size_y, size_x = (
                max(1, round(pixels)) for pixels in spacing
            )  # of a depth pixel, in color pixels
            # From here on (row, column) is its upper left corner.
            column = np.rint((matrix[0, 0] * x + matrix[0, 1] * y) / z + (matrix[0, 2] - (size_x - 1) / 2))
            row = np.rint(matrix[1, 1] * y / z + (matrix[1, 2] - (size_y - 1) / 2))
            ahead &= (column > -size_x) & (column < width) & (row > -size_y) & (row < height)
        nearest = np.full((height + size_y, width + size_x), np.inf, np.float32)  # with a margin
        flat = (
            (row[ahead].astype(np.intp) + size_y) * nearest.shape[1] + column[ahead].astype(np.intp) + size_x
        )
        np.minimum.at(nearest.reshape(-1), flat, z[ahead])
        kernel = np.ones((size_y, size_x), np.uint8)
        nearest = np.asarray(cv2.erode(nearest, kernel, anchor=(size_x - 1, size_y - 1)), np.float32)
        gap_y, gap_x = (math.ceil(_STRETCH * pixels) - round(pixels) + 1 for pixels in spacing)
        nearest = _closed(nearest, max(1, gap_y), max(1, gap_x))[size_y:, size_x:]
        return np.where(np.isfinite(nearest), nearest, np.float32(0.0))

    def _moved(
        self, depth: NDArray[np.float32], matrix: NDArray[np.float64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Return (h, w) x, y and z in the frame of the color camera, NaN where `depth` is."""
        height, width = depth.shape
        x: NDArray[np.float32]
        y: NDArray[np.float32]
        if self.lens is None:
            y = ((np.arange(height) - matrix[1, 2]) / matrix[1, 1]).astype(np.float32)[:, None]
            x = ((np.arange(width) - matrix[0, 2] - matrix[0, 1] * y) / matrix[0, 0]).astype(np.float32)
        else:
            x, y = ray_grid((height, width), matrix, self.lens)
        turn, offset = self._rotation.astype(np.float32), self._offset.astype(np.float32)
        moved_x, moved_y, moved_z = (
            (turn[axis, 0] * x + (turn[axis, 1] * y + turn[axis, 2])) * depth + offset[axis]
            for axis in range(3)
        )
        return moved_x, moved_y, moved_z


def _spacing(
    matrix: NDArray[np.float64],
    depth_matrix: NDArray[np.float64],
    rotation: NDArray[np.float64],
    depth_m: NDArray[np.float32],
    z_m: NDArray[np.float32],
) -> tuple[float, float]:
    """Return how many (rows, columns) of the color image neighboring depth pixels are apart."""
    if not len(z_m):
        return 1.0, 1.0
    step = max(1, len(z_m) // 1000)
    nearer = float(np.median(depth_m[::step] / z_m[::step]))
    pixels = (
        float(matrix[axis, axis])
        * nearer
        * float(abs(rotation[axis, 0]) / depth_matrix[0, 0] + abs(rotation[axis, 1]) / depth_matrix[1, 1])
        for axis in (1, 0)
    )
    rows, columns = (min(each, _MAX_SPACING_PX) for each in pixels)
    return rows, columns


def _closed(nearest: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    """Close gaps narrower than rows × columns in nearer surfaces, without moving their edges."""
    kernel = np.ones((rows, columns), np.uint8)
    grown = cv2.erode(nearest, kernel, anchor=(0, 0))
    return np.asarray(cv2.dilate(grown, kernel, anchor=(columns - 1, rows - 1)), np.float32)


def _pinhole_of(
    image_hw: tuple[int, int], matrix: NDArray[np.float64], lens: LensDistortion
) -> tuple[NDArray[np.float32], NDArray[np.float32], tuple[int, int], NDArray[np.float64]]:
    """Return an image without distortion that shows what a distorted one does.

    Returns:
        (H, W) column and row of each distorted pixel in that image, its size (h, w), and its (3, 3) matrix.
    """
    x, y = ray_grid(image_hw, matrix, lens)
    shown = (np.abs(x) <= _MAX_RAY) & (np.abs(y) <= _MAX_RAY)  # false for NaN
    if not shown.any():
        raise InvalidImageError("the lens model of the color image is valid at none of its pixels")
    left, right = float(x[shown].min()), float(x[shown].max())
    top, bottom = float(y[shown].min()), float(y[shown].max())
    fx, fy = float(matrix[0, 0]), float(matrix[1, 1])
    area = (fx * (right - left) + 1.0) * (fy * (bottom - top) + 1.0)
    shrink = min(1.0, math.sqrt(_CANVAS_AREA * image_hw[0] * image_hw[1] / area))
    fx, fy = fx * shrink, fy * shrink
    pinhole = np.array([[fx, 0.0, -fx * left], [0.0, fy, -fy * top], [0.0, 0.0, 1.0]])
    pinhole_hw = (math.ceil(fy * (bottom - top)) + 1, math.ceil(fx * (right - left)) + 1)
    columns = np.where(shown, np.float32(fx) * (x - np.float32(left)), np.float32(-2.0))
    rows = np.where(shown, np.float32(fy) * (y - np.float32(top)), np.float32(-2.0))
    return columns, rows, pinhole_hw, pinhole
