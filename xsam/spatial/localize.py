"""Where a mask is in space: its pixels, a depth image and the camera's intrinsics give position and size.

NumPy only, so that the ROS node and the agent tools compute the same numbers. Frames and units:

* the camera frame is the optical one: x right, y down, z forward, meters;
* depth is along the optical axis, float32 meters; 0, negative, NaN and infinity are no measurement (REP 118);
* images are indexed ``[y, x]``; pixel centers have integer coordinates, as in ROS and OpenCV.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xsam.errors import InvalidImageError
from xsam.types.location import Location3D, quaternion_of_matrix, vector3
from xsam.types.masks import BoolMask, MaskCrop, MaskRle

MIN_POINTS = 10
"""Fewer measured pixels than this say nothing about a surface."""

_MAX_POINTS = 20_000  # a larger surface is thinned out: its median does not change
_LEVELS = 5
_CROSS = ((-1, 0), (1, 0), (0, -1), (0, 1))
_SQUARE = (*_CROSS, (-1, -1), (-1, 1), (1, -1), (1, 1))
_EXTENT_PERCENTILES = (1.0, 99.0)


def check_intrinsics(
    intrinsics: NDArray[np.floating],
    image_hw: tuple[int, int],
    *,
    calibrated_hw: tuple[int, int] | None = None,
) -> None:
    """Refuse a camera matrix that cannot belong to an image.

    Without `calibrated_hw` the principal point decides: that of a whole image is near its middle, and
    that of another resolution is not. A cropped image needs `calibrated_hw`.

    Args:
        intrinsics: (3, 3) K in pixels.
        image_hw: (H, W) of the image.
        calibrated_hw: (H, W) that the matrix was made for, where that is known (`CameraInfo`).

    Raises:
        InvalidImageError: the message says what does not fit.
    """
    matrix = np.asarray(intrinsics, np.float64)
    if matrix.shape != (3, 3):
        raise InvalidImageError(f"intrinsics must be (3, 3), got {matrix.shape}")
    height, width = image_hw
    (fx, skew, cx), (zero, fy, cy) = matrix[0], matrix[1]
    if not np.isfinite(matrix).all() or fx <= 0 or fy <= 0:
        raise InvalidImageError(
            f"the intrinsics have no focal length: fx = {fx:g}, fy = {fy:g}",
            hint="the camera is not calibrated; check its camera_info topic",
        )
    if abs(skew) > 0.05 * fx or abs(zero) > 1e-6 * fx or not np.allclose(matrix[2], (0, 0, 1)):
        raise InvalidImageError(f"the intrinsics are not a pinhole camera's: {matrix.round(3).tolist()}")
    if calibrated_hw is not None:
        if tuple(calibrated_hw) != (height, width):
            raise InvalidImageError(
                f"the intrinsics are of a {calibrated_hw[1]}×{calibrated_hw[0]} image, this one is "
                f"{width}×{height}",
                hint="take the camera_info of the very image topic, not that of another resolution",
            )
    elif not (0.35 * width < cx < 0.65 * width and 0.35 * height < cy < 0.65 * height):
        raise InvalidImageError(
            f"the principal point ({cx:.1f}, {cy:.1f}) px is far from the middle of the {width}×{height} "
            "image: the intrinsics are of another resolution",
            hint="scale the matrix to the image, or say what size it was made for when the image is cropped",
        )


def valid_depth(depth_m: NDArray[np.floating]) -> BoolMask:
    """Where a depth image holds a measurement: finite and positive."""
    valid: BoolMask = np.isfinite(depth_m) & (depth_m > 0)
    return valid


def back_project(
    x_px: NDArray[np.generic],
    y_px: NDArray[np.generic],
    depth_m: NDArray[np.floating],
    intrinsics: NDArray[np.floating],
) -> NDArray[np.float64]:
    """(N, 3) points in the camera frame of N pixels (x, y) with their depths."""
    depth = np.asarray(depth_m, np.float64)
    y = (np.asarray(y_px, np.float64) - intrinsics[1, 2]) / intrinsics[1, 1]
    x = (np.asarray(x_px, np.float64) - intrinsics[0, 2] - intrinsics[0, 1] * y) / intrinsics[0, 0]
    return np.stack([x * depth, y * depth, depth], axis=-1)


def point_grid(depth_m: NDArray[np.float32], intrinsics: NDArray[np.floating]) -> NDArray[np.float32]:
    """(H, W, 3) float32 points in the camera frame, one for each pixel; NaN without a measurement."""
    height, width = depth_m.shape
    depth = np.where(valid_depth(depth_m), depth_m, np.float32(np.nan))
    y = ((np.arange(height) - intrinsics[1, 2]) / intrinsics[1, 1])[:, None]
    x = (np.arange(width) - intrinsics[0, 2] - intrinsics[0, 1] * y) / intrinsics[0, 0]
    points = np.empty((height, width, 3), np.float32)
    points[..., 0] = x * depth
    points[..., 1] = y * depth
    points[..., 2] = depth
    return points


def locate_mask(
    mask: BoolMask,
    depth_m: NDArray[np.float32],
    intrinsics: NDArray[np.floating],
    *,
    calibrated_hw: tuple[int, int] | None = None,
    min_points: int = MIN_POINTS,
) -> Location3D:
    """Position, size and orientation of the surface under a mask, in the camera frame.

    Masks of a model reach over the edge of an object, and depth cameras smear the edge itself. So the
    inner part of the mask decides which surface is meant, and towards the edge only those pixels are
    added at which the depth does not jump.

    Args:
        mask: bool (H, W), True = object.
        depth_m: (H, W) meters, registered to the image of the mask.
        intrinsics: (3, 3) K of that image.
        calibrated_hw: see `check_intrinsics`.
        min_points: least number of measured pixels.

    Returns:
        The location, or an unknown one with the reason.

    Raises:
        InvalidImageError: shapes or dtypes do not fit, or the intrinsics are not those of the image.
    """
    _check_depth(mask.shape, depth_m)
    if mask.dtype != np.bool_:
        raise InvalidImageError(f"a mask must be bool, got {mask.dtype}")
    check_intrinsics(intrinsics, (mask.shape[0], mask.shape[1]), calibrated_hw=calibrated_hw)
    return _locate(MaskCrop.of(mask), depth_m, intrinsics, min_points)


def locate_masks(
    masks: Sequence[MaskRle],
    depth_m: NDArray[np.float32],
    intrinsics: NDArray[np.floating],
    *,
    calibrated_hw: tuple[int, int] | None = None,
    min_points: int = MIN_POINTS,
) -> tuple[Location3D, ...]:
    """`locate_mask` for every segment of an answer."""
    for mask in masks:
        _check_depth((mask.height, mask.width), depth_m)
    check_intrinsics(intrinsics, (depth_m.shape[0], depth_m.shape[1]), calibrated_hw=calibrated_hw)
    return tuple(_locate(mask.crop(), depth_m, intrinsics, min_points) for mask in masks)


# ------------------------------------------------------------------------------------- details


def _check_depth(mask_shape: tuple[int, ...], depth_m: NDArray[np.float32]) -> None:
    if depth_m.dtype != np.float32 or depth_m.ndim != 2:
        raise InvalidImageError(f"depth must be float32 (H, W) meters, got {depth_m.dtype} {depth_m.shape}")
    if tuple(mask_shape) != depth_m.shape:
        raise InvalidImageError(
            f"the mask is {mask_shape}, the depth image {depth_m.shape}",
            hint="use the depth topic that is registered to the color image",
        )


def _locate(
    crop: MaskCrop, depth_m: NDArray[np.float32], intrinsics: NDArray[np.floating], min_points: int
) -> Location3D:
    mask = crop.pixels
    if mask.size == 0:
        return Location3D.unknown("the mask is empty")
    depth = depth_m[crop.window]
    known = mask & valid_depth(depth)
    count, area = int(np.count_nonzero(known)), int(np.count_nonzero(mask))
    ratio = count / area
    pixel_m = 1.0 / min(float(intrinsics[0, 0]), float(intrinsics[1, 1]))  # width of a pixel at 1 m
    if count < max(1, min_points):
        return Location3D.unknown(
            f"only {count} of the mask's {area} pixels have a depth measurement; {min_points} are needed",
            depth_valid_ratio=ratio,
        )
    rows, columns = np.nonzero(_on_surface(mask, np.where(known, depth, np.float32(np.nan)), pixel_m))
    step = -(-len(rows) // _MAX_POINTS)
    rows, columns = rows[::step], columns[::step]
    points = back_project(columns + crop.left, rows + crop.top, depth[rows, columns], intrinsics)
    position = np.median(points, axis=0)
    axes, low, high = _box(points - position)
    return Location3D(
        position_m=vector3(position),
        center_m=vector3(position + axes @ ((low + high) / 2)),
        size_m=vector3(high - low),
        orientation_xyzw=quaternion_of_matrix(axes),
        distance_m=float(np.linalg.norm(position)),
        depth_valid_ratio=ratio,
    )


@np.errstate(invalid="ignore")  # comparisons with NaN are meant to be false
def _on_surface(mask: BoolMask, depth: NDArray[np.float32], pixel_m: float) -> BoolMask:
    """Which pixels of a cropped mask lie on the surface that it means; `depth` is NaN where unknown.

    The core of the mask decides which surface that is. From there it grows outwards, ring by ring, as
    long as the depth does not jump. A ring does not grow along itself: otherwise the table in front of an
    object would lead around it to the table behind.
    """
    levels = np.pad(_levels(mask), 1)
    depth = np.pad(depth, 1, constant_values=np.nan)
    core = (levels > 0) & (levels >= np.minimum(_largest_neighbor(levels), _LEVELS))
    found = core & np.isfinite(depth)
    if np.count_nonzero(found) < MIN_POINTS:  # what is left of a broken depth image: take all there is
        core = levels > 0
        found = core & np.isfinite(depth)
    nearest, farthest = _surface(depth[found], levels[found], pixel_m)
    found &= (depth >= nearest) & (depth <= farthest)
    reference = np.where(found, depth, np.float32(np.nan)).ravel()
    outer = np.where(core, np.uint8(0), levels).ravel()
    around = np.array([y * depth.shape[1] + x for y, x in _SQUARE])
    limit = np.float32(max(0.03, 6.0 * pixel_m))
    for level in range(_LEVELS - 1, 0, -1):
        ring = np.flatnonzero(outer == level)
        inner = reference[ring[:, None] + around]  # NaN in this ring, which is filled in below, and outside
        own = depth.ravel()[ring]
        step = np.abs(inner - own[:, None])
        near = (step <= np.maximum(limit * inner, 0.02)).any(axis=1)
        found.ravel()[ring] = near
        # Where the depth is unknown, the ring outside is compared with the nearest depth inside.
        handed_on = np.fmin.reduce(inner, axis=1)
        reference[ring] = np.where(near, own, np.where(np.isfinite(own), np.float32(np.nan), handed_on))
    return found[1:-1, 1:-1]


def _levels(mask: BoolMask) -> NDArray[np.uint8]:
    """How far inside a mask each pixel is: 0 outside, 1 at its edge, up to `_LEVELS`.

    Erosions by a square and by a cross take turns, which is close to a distance in pixels.
    """
    height, width = mask.shape
    levels = mask.astype(np.uint8)
    current = mask
    for level in range(1, _LEVELS):
        padded = np.pad(current, 1)
        for y, x in _SQUARE if level % 2 else _CROSS:
            current = current & padded[1 + y : 1 + y + height, 1 + x : 1 + x + width]
        levels += current
    return levels


def _largest_neighbor(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = levels.shape
    padded = np.pad(levels, 1)
    shifted = [padded[1 + y : 1 + y + height, 1 + x : 1 + x + width] for y, x in _SQUARE]
    largest: NDArray[np.uint8] = np.maximum.reduce(shifted)
    return largest


def _surface(z: NDArray[np.float32], levels: NDArray[np.uint8], pixel_m: float) -> tuple[float, float]:
    """(nearest, farthest) depth of the surface that pixels with these depths and levels mean.

    The depths fall into surfaces where, sorted, they leave a gap; the one with the largest sum of squared
    levels is meant. So a thin object in a mask that is too wide wins against a background of more pixels.
    """
    order = np.argsort(z, kind="stable")
    ordered, weights = z[order], levels[order].astype(np.int64) ** 2
    gaps = np.diff(ordered) > np.maximum(max(0.02, 4.0 * pixel_m) * ordered[:-1], 0.01)
    starts = np.concatenate(([0], np.flatnonzero(gaps) + 1))
    best = int(np.argmax(np.add.reduceat(weights, starts)))
    stop = starts[best + 1] if best + 1 < len(starts) else len(ordered)
    return float(ordered[starts[best]]), float(ordered[stop - 1])


def _box(
    points: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Box along the principal axes of (N, 3) points: (3, 3) axes as columns, and (3,) ends along them.

    The longest side comes first. The axes are right-handed; the first two have a positive largest component.
    """
    centered = points - points.mean(axis=0)
    axes: NDArray[np.float64] = np.linalg.eigh(centered.T @ centered)[1]
    low, high = np.percentile(points @ axes, _EXTENT_PERCENTILES, axis=0)
    order = np.argsort(low - high, kind="stable")
    axes, low, high = axes[:, order], low[order], high[order]
    signs = np.sign(axes[np.argmax(np.abs(axes), axis=0), range(3)])
    signs[2] = np.linalg.det(axes) * signs[0] * signs[1]
    signs = np.where(signs > 0, 1.0, -1.0)
    forward = signs > 0
    return axes * signs, np.where(forward, low, -high), np.where(forward, high, -low)
