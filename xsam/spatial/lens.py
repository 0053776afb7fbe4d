"""Rays through the pixels of a distorted image. Only the pixels that are used are undistorted."""

from __future__ import annotations

import functools
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from xsam.types.lens import LensDistortion

_MAX_ERROR_PX = 0.5
"""A ray whose projection misses its pixel by more than this was not found."""

_WIDEST_DEG = 85.0
_CRITERIA = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-6)


def undistorted_rays(
    x_px: NDArray[np.generic],
    y_px: NDArray[np.generic],
    intrinsics: NDArray[np.floating],
    lens: LensDistortion,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return x/z and y/z of the rays through pixels of a distorted image.

    NaN where the model has no ray: beyond 85° from the axis, and outside the area that it was fitted to,
    where polynomials fold back.

    Args:
        x_px: (N,) columns.
        y_px: (N,) rows.
        intrinsics: (3, 3) K of the distorted image.
        lens: its distortion.
    """
    if not len(x_px):
        return np.empty(0), np.empty(0)
    pixels = np.stack([x_px, y_px], axis=-1).astype(np.float64)[:, None]
    matrix = np.asarray(intrinsics, np.float64)
    coefficients = np.array(lens.coefficients, np.float64)
    if lens.model == "equidistant":
        found = cv2.fisheye.undistortPoints(pixels, matrix, coefficients)
    else:
        same = np.eye(3)  # no rotation, and rays instead of pixels
        found = cv2.undistortPointsIter(pixels, matrix, coefficients, same, same, _CRITERIA)
    rays = np.asarray(found, np.float64).reshape(-1, 2)
    rays = np.where(np.isfinite(rays), rays, 1e6)
    reached = np.hypot(rays[:, 0], rays[:, 1]) <= _widest_radius(lens)
    rays[~reached] = 0.0
    error_px = np.linalg.norm(_distort(rays, matrix, lens) - pixels[:, 0], axis=1)
    rays[~reached | (error_px > _MAX_ERROR_PX)] = np.nan
    return rays[:, 0], rays[:, 1]


def ray_grid(
    image_hw: tuple[int, int], intrinsics: NDArray[np.floating], lens: LensDistortion
) -> NDArray[np.float32]:
    """Return x/z and y/z for every pixel of a distorted image, read-only float32 (2, H, W); NaN = no ray.

    The grids of the last cameras are kept: one for 640×480 pixels takes 0.1 to 0.7 s.
    """
    return _ray_grid(image_hw, np.asarray(intrinsics, np.float64).tobytes(), lens)


@functools.lru_cache(maxsize=4)
def _ray_grid(image_hw: tuple[int, int], intrinsics: bytes, lens: LensDistortion) -> NDArray[np.float32]:
    rows, columns = (axis.ravel() for axis in np.indices(image_hw))
    rays = undistorted_rays(columns, rows, np.frombuffer(intrinsics).reshape(3, 3), lens)
    grid = np.stack(rays).astype(np.float32).reshape(2, *image_hw)
    grid.flags.writeable = False
    return grid


def distorted_pixels(
    rays: NDArray[np.float64], intrinsics: NDArray[np.floating], lens: LensDistortion | None
) -> NDArray[np.float64]:
    """Return the (N, 2) pixels (x, y) of (N, 2) rays x/z and y/z; NaN where the model has no pixel.

    Args:
        rays: in the camera frame.
        intrinsics: (3, 3) K of the image.
        lens: its distortion; None = a rectified image.
    """
    matrix = np.asarray(intrinsics, np.float64)
    if lens is None:
        return rays @ matrix[:2, :2].T + matrix[:2, 2]
    pixels = np.full(rays.shape, np.nan)
    reached = np.hypot(rays[:, 0], rays[:, 1]) <= _widest_radius(lens)
    if reached.any():
        pixels[reached] = _distort(rays[reached], matrix, lens)
    return pixels


def _distort(
    rays: NDArray[np.float64], matrix: NDArray[np.float64], lens: LensDistortion
) -> NDArray[np.float64]:
    """Return the (N, 2) pixels of (N, 2) rays."""
    coefficients, nothing = np.array(lens.coefficients, np.float64), np.zeros(3)
    points = np.column_stack([rays, np.ones(len(rays))])[:, None]
    project: Any = cv2.fisheye.projectPoints if lens.model == "equidistant" else cv2.projectPoints
    projected: NDArray[np.float64] = project(points, nothing, nothing, matrix, coefficients)[0].reshape(-1, 2)
    return projected


def _widest_radius(lens: LensDistortion) -> float:
    """Return the largest tan(angle from the axis) up to which a larger angle is farther from the center."""
    angle = np.radians(np.linspace(0.0, _WIDEST_DEG, 1000))
    radius = np.tan(angle)
    rays = np.column_stack([radius, np.zeros_like(radius)])
    radial = lens
    if lens.model != "equidistant":
        k1, k2, _, _, *rest = lens.coefficients
        k3, k4, k5, k6 = (*rest[:4], 0.0, 0.0, 0.0, 0.0)[:4]
        radial = LensDistortion(model="rational_polynomial", coefficients=(k1, k2, 0.0, 0.0, k3, k4, k5, k6))
    distorted = _distort(rays, np.eye(3), radial)[:, 0]
    folded = np.flatnonzero(np.diff(distorted) <= 0.0)
    return float(radius[folded[0]] if len(folded) else radius[-1])
