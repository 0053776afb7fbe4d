"""Locate masks in space: mask pixels, a depth image and the camera's intrinsics give position and size.

The ROS node and the agent tools both use it, so they compute the same numbers. Frames and units:

* the camera frame is the optical one: x right, y down, z forward, meters;
* depth is along the optical axis, float32 meters; 0, negative, NaN and infinity: no measurement (REP 118),
  and so is what no depth camera can measure: less than 1 mm or more than 10 km;
* images are indexed ``[y, x]``; pixel centers have integer coordinates, as in ROS and OpenCV.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from xsam.errors import InvalidImageError
from xsam.spatial.lens import ray_grid, undistorted_rays
from xsam.types.lens import LensDistortion
from xsam.types.location import Location3D, quaternion_of_matrix, vector3
from xsam.types.masks import MAX_IMAGE_SIDE_PX, BoolMask, MaskCrop, MaskRle

MIN_POINTS = 10
"""Fewer measured pixels than this do not determine a surface."""

MIN_DEPTH_M, MAX_DEPTH_M = 1e-3, 1e4
MIN_VIEW_DEG, MAX_VIEW_DEG = 1.0, 170.0
PointCheck = Callable[[NDArray[np.float64]], str]
"""Gets the (N, 3) points of an object in the camera frame; returns why they may not be its own, or ""."""

_MAX_ASPECT = 2.0  # of fx and fy: no camera has pixels that are more oblong
_MAX_CENTER_PX = 4 * MAX_IMAGE_SIDE_PX  # a crop may lie beside the principal point, but not that far
_MAX_FOCAL_PX = 4 * MAX_IMAGE_SIDE_PX
_MAX_POINTS = 20_000  # a larger surface is subsampled; its median does not change
_CORE_DISTANCE = 5  # pixels this far from the mask's edge are certainly on the object
_NEIGHBORS = ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1))  # (y, x)
_EXTENT_PERCENTILES = (1.0, 99.0)


def check_intrinsics(
    intrinsics: NDArray[np.floating],
    image_hw: tuple[int, int],
    *,
    calibrated_hw: tuple[int, int] | None = None,
) -> None:
    """Raise an error if a camera matrix cannot belong to an image.

    Without `calibrated_hw` the principal point is checked: it is near the middle of an uncropped image,
    and elsewhere if the matrix is for another resolution. A cropped image needs `calibrated_hw`.

    Args:
        intrinsics: (3, 3) K in pixels.
        image_hw: (H, W) of the image.
        calibrated_hw: (H, W) that the camera was calibrated at, if known (`CameraInfo`).

    Raises:
        InvalidImageError: the matrix is not a pinhole camera's, or is for another resolution.
    """
    matrix = np.asarray(intrinsics, np.float64)
    if matrix.shape != (3, 3):
        raise InvalidImageError(f"intrinsics must be (3, 3), got {matrix.shape}")
    height, width = image_hw
    (fx, skew, cx), (zero, fy, cy) = matrix[0].tolist(), matrix[1].tolist()
    if not np.isfinite(matrix).all() or fx <= 0 or fy <= 0:
        raise InvalidImageError(
            f"the intrinsics have no focal length: fx = {fx:g}, fy = {fy:g}",
            hint="the camera is not calibrated; check its camera_info topic",
        )
    _check_view(fx, fy, (height, width) if calibrated_hw is None else calibrated_hw)
    if abs(cx) > _MAX_CENTER_PX or abs(cy) > _MAX_CENTER_PX:
        raise InvalidImageError(
            f"the principal point ({cx:g}, {cy:g}) px is nowhere near an image",
            hint="the camera is not calibrated; check its camera_info topic",
        )
    if abs(skew) > 0.05 * fx or abs(zero) > 1e-6 * fx or not np.allclose(matrix[2], (0, 0, 1)):
        raise InvalidImageError(
            f"the intrinsics are not those of a pinhole camera: {matrix.round(3).tolist()}"
        )
    if calibrated_hw is not None:
        if tuple(calibrated_hw) != (height, width):
            raise InvalidImageError(
                f"the intrinsics are for a {calibrated_hw[1]}×{calibrated_hw[0]} image, this one is "
                f"{width}×{height}",
                hint="use the camera_info that belongs to the image topic, not one of another resolution",
            )
    elif not (0.35 * width < cx < 0.65 * width and 0.35 * height < cy < 0.65 * height):
        raise InvalidImageError(
            f"the principal point ({cx:.1f}, {cy:.1f}) px is far from the middle of the {width}×{height} "
            "image: the intrinsics are for another resolution",
            hint="scale the matrix to the image, or give the calibrated size if the image is cropped",
        )


def _check_view(fx: float, fy: float, image_hw: tuple[int, int]) -> None:
    """Raise an error if no camera has such focal lengths (pixels) for an image of this size."""
    if not 1 / _MAX_ASPECT <= fx / fy <= _MAX_ASPECT:
        raise InvalidImageError(
            f"the focal lengths fx = {fx:g} and fy = {fy:g} px are too different for one camera",
            hint="check the order of the matrix: K is row-major, (fx, 0, cx, 0, fy, cy, 0, 0, 1)",
        )
    for focal, side in ((fx, image_hw[1]), (fy, image_hw[0])):
        narrowest, widest = (
            side / 2 / math.tan(math.radians(angle) / 2) for angle in (MIN_VIEW_DEG, MAX_VIEW_DEG)
        )
        # A small image may be a crop, of which the field of view says little.
        if focal < widest or focal > max(narrowest, _MAX_FOCAL_PX):
            angle = 2 * math.degrees(math.atan(side / 2 / focal))
            raise InvalidImageError(
                f"a focal length of {focal:g} px is a field of view of {angle:.3g}° over {side} px; cameras "
                f"have {MIN_VIEW_DEG:g}° to {MAX_VIEW_DEG:g}°",
                hint="use the camera matrix of this image in pixels; an identity K is a camera that is not "
                "calibrated or a rectified one, whose matrix is in P",
            )


def valid_depth(depth_m: NDArray[np.floating]) -> BoolMask:
    """Return a mask of the pixels with a depth measurement: `MIN_DEPTH_M` to `MAX_DEPTH_M`."""
    valid: BoolMask = (depth_m >= MIN_DEPTH_M) & (depth_m <= MAX_DEPTH_M)  # false for NaN
    return valid


def back_project(
    x_px: NDArray[np.generic],
    y_px: NDArray[np.generic],
    depth_m: NDArray[np.floating],
    intrinsics: NDArray[np.floating],
    lens: LensDistortion | None = None,
) -> NDArray[np.float64]:
    """Return (N, 3) points in the camera frame for N pixels (x, y) and their depths in meters.

    A point is NaN where the model of the lens has no ray.
    """
    depth = np.asarray(depth_m, np.float64)
    if lens is not None:
        x, y = undistorted_rays(x_px, y_px, intrinsics, lens)
        return np.stack([x * depth, y * depth, np.where(np.isfinite(x), depth, np.nan)], axis=-1)
    y = (np.asarray(y_px, np.float64) - intrinsics[1, 2]) / intrinsics[1, 1]
    x = (np.asarray(x_px, np.float64) - intrinsics[0, 2] - intrinsics[0, 1] * y) / intrinsics[0, 0]
    return np.stack([x * depth, y * depth, depth], axis=-1)


def point_grid(
    depth_m: NDArray[np.float32], intrinsics: NDArray[np.floating], lens: LensDistortion | None = None
) -> NDArray[np.float32]:
    """Return a (H, W, 3) float32 point in the camera frame for every pixel; NaN without a measurement."""
    height, width = depth_m.shape
    depth = np.where(valid_depth(depth_m), depth_m, np.float32(np.nan))
    x: NDArray[np.floating]
    y: NDArray[np.floating]
    if lens is None:
        y = ((np.arange(height) - intrinsics[1, 2]) / intrinsics[1, 1])[:, None]
        x = (np.arange(width) - intrinsics[0, 2] - intrinsics[0, 1] * y) / intrinsics[0, 0]
    else:
        x, y = ray_grid((height, width), intrinsics, lens)
        depth = np.where(np.isfinite(x), depth, np.float32(np.nan))
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
    lens: LensDistortion | None = None,
    doubt: PointCheck | None = None,
    min_points: int = MIN_POINTS,
) -> Location3D:
    """Measure position, size and orientation of the surface under a mask, in the camera frame.

    Masks of a model extend beyond the edge of an object, and depth cameras smear the edge itself. So the
    inner part of the mask selects the surface, and pixels toward the edge are added only where the depth
    does not jump.

    Args:
        mask: bool (H, W), True = object.
        depth_m: (H, W) meters, registered to the image of the mask.
        intrinsics: (3, 3) K of that image.
        calibrated_hw: see `check_intrinsics`.
        lens: distortion of the image of the mask; None = a rectified image.
        doubt: makes the location unknown; `DepthView.doubt` if depth was measured by another camera.
        min_points: minimum number of measured pixels.

    Returns:
        The location, or an unknown one with the reason.

    Raises:
        InvalidImageError: shapes or dtypes do not match, or the intrinsics are not those of the image.
    """
    _check_depth(mask.shape, depth_m)
    if mask.dtype != np.bool_:
        raise InvalidImageError(f"a mask must be bool, got {mask.dtype}")
    check_intrinsics(intrinsics, (mask.shape[0], mask.shape[1]), calibrated_hw=calibrated_hw)
    return _locate(MaskCrop.of(mask), depth_m, intrinsics, lens, doubt, min_points)


def locate_masks(
    masks: Sequence[MaskRle],
    depth_m: NDArray[np.float32],
    intrinsics: NDArray[np.floating],
    *,
    calibrated_hw: tuple[int, int] | None = None,
    lens: LensDistortion | None = None,
    doubt: PointCheck | None = None,
    min_points: int = MIN_POINTS,
) -> tuple[Location3D, ...]:
    """Run `locate_mask` on every mask of a result."""
    for mask in masks:
        _check_depth((mask.height, mask.width), depth_m)
    check_intrinsics(intrinsics, (depth_m.shape[0], depth_m.shape[1]), calibrated_hw=calibrated_hw)
    return tuple(_locate(mask.crop(), depth_m, intrinsics, lens, doubt, min_points) for mask in masks)


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
    crop: MaskCrop,
    depth_m: NDArray[np.float32],
    intrinsics: NDArray[np.floating],
    lens: LensDistortion | None,
    doubt: PointCheck | None,
    min_points: int,
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
        absurd = int(np.count_nonzero(mask & np.isfinite(depth) & (depth > 0))) - count
        reason = f"only {count} of the mask's {area} pixels have a depth measurement; {min_points} are needed"
        if absurd:
            reason += (
                f"; {absurd} have a depth below {MIN_DEPTH_M * 1000:g} mm or above {MAX_DEPTH_M / 1000:g} "
                "km: check the unit of the depth image"
            )
        return Location3D.unknown(
            reason,
            depth_valid_ratio=ratio,
        )
    rows, columns = np.nonzero(_surface_pixels(mask, np.where(known, depth, np.float32(np.nan)), pixel_m))
    step = -(-len(rows) // _MAX_POINTS)
    rows, columns = rows[::step], columns[::step]
    points = back_project(columns + crop.left, rows + crop.top, depth[rows, columns], intrinsics, lens)
    if lens is not None:
        points = points[np.isfinite(points[:, 0])]
        if 2 * len(points) < len(rows):  # the middle of what is left would not be that of the object
            lost = 1.0 - len(points) / len(rows)
            return Location3D.unknown(
                f"the lens model ({lens.model}) is not valid at {lost:.0%} of the object's pixels",
                depth_valid_ratio=ratio,
            )
    if doubt is not None and (reason := doubt(points)):
        return Location3D.unknown(reason, depth_valid_ratio=ratio)
    position = np.median(points, axis=0)
    axes, low, high = _oriented_box(points - position)
    return Location3D(
        position_m=vector3(position),
        center_m=vector3(position + axes @ ((low + high) / 2)),
        size_m=vector3(high - low),
        orientation_xyzw=quaternion_of_matrix(axes),
        distance_m=float(np.linalg.norm(position)),
        depth_valid_ratio=ratio,
    )


@np.errstate(invalid="ignore")  # comparisons with NaN are meant to be false
def _surface_pixels(mask: BoolMask, depth: NDArray[np.float32], pixel_m: float) -> BoolMask:
    """Select the pixels of a cropped mask that are on the object's surface.

    The core of the mask selects the surface. From there it grows outward, ring by ring, as long as the depth
    does not jump. A ring does not grow along itself: otherwise the table in front of an object would lead
    around it to the table behind.

    Args:
        mask: (h, w) bool.
        depth: (h, w) meters, NaN where there is no measurement.
        pixel_m: width of a pixel at a distance of 1 m.
    """
    edge_distance = np.pad(_edge_distance(mask), 1)
    depth = np.pad(depth, 1, constant_values=np.nan)
    largest_nearby = cv2.dilate(edge_distance, np.ones((3, 3), np.uint8))
    core = (edge_distance > 0) & (edge_distance >= largest_nearby)  # thin parts have a core, too
    found = core & np.isfinite(depth)
    if np.count_nonzero(found) < MIN_POINTS:  # the depth image is mostly holes: use every measurement
        core = edge_distance > 0
        found = core & np.isfinite(depth)
    nearest, farthest = _dominant_depth_range(depth[found], edge_distance[found], pixel_m)
    found &= (depth >= nearest) & (depth <= farthest)
    reference = np.where(found, depth, np.float32(np.nan)).ravel()
    outside_core = np.where(core, np.uint8(0), edge_distance).ravel()
    neighbors = np.array([y * depth.shape[1] + x for y, x in _NEIGHBORS])  # as offsets of flat indices
    max_step = np.float32(max(0.03, 6.0 * pixel_m))  # relative to the depth
    for distance in range(_CORE_DISTANCE - 1, 0, -1):
        ring = np.flatnonzero(outside_core == distance)
        inner = reference[ring[:, None] + neighbors]  # NaN in this ring, which is filled below, and outside
        own = depth.ravel()[ring]
        step = np.abs(inner - own[:, None])
        continues = (step <= np.maximum(max_step * inner, 0.02)).any(axis=1)
        found.ravel()[ring] = continues
        # Where the depth is unknown, the next ring is compared with the smallest depth farther inside.
        passed_on = np.fmin.reduce(inner, axis=1)
        reference[ring] = np.where(continues, own, np.where(np.isfinite(own), np.float32(np.nan), passed_on))
    return found[1:-1, 1:-1]


def _edge_distance(mask: BoolMask) -> NDArray[np.uint8]:
    """Return how far inside a mask each pixel is: 0 outside, 1 at its edge, up to `_CORE_DISTANCE`.

    Alternating erosions by a square and by a cross come close to the Euclidean distance, in whole steps.
    """
    kernels = [cv2.getStructuringElement(shape, (3, 3)) for shape in (cv2.MORPH_CROSS, cv2.MORPH_RECT)]
    eroded: NDArray[np.uint8] = mask.astype(np.uint8)
    distance = eroded.copy()
    for step in range(1, _CORE_DISTANCE):
        kernel = kernels[step % 2]
        shrunk = cv2.erode(eroded, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=(0,))
        eroded = np.asarray(shrunk, np.uint8)
        distance += eroded
    return distance


def _dominant_depth_range(
    z: NDArray[np.float32], edge_distance: NDArray[np.uint8], pixel_m: float
) -> tuple[float, float]:
    """Return the (nearest, farthest) depth of the surface that most of the core is on.

    Sorted depths belong to different surfaces where they leave a gap. The surface with the largest sum of
    squared edge distances wins: a thin object in a mask that is too wide against a background of more pixels.

    Args:
        z: (N,) depths in meters.
        edge_distance: (N,) of the same pixels.
        pixel_m: width of a pixel at a distance of 1 m.
    """
    order = np.argsort(z, kind="stable")
    ordered, weights = z[order], edge_distance[order].astype(np.int64) ** 2
    gaps = np.diff(ordered) > np.maximum(max(0.02, 4.0 * pixel_m) * ordered[:-1], 0.01)
    starts = np.concatenate(([0], np.flatnonzero(gaps) + 1))
    best = int(np.argmax(np.add.reduceat(weights, starts)))
    stop = starts[best + 1] if best + 1 < len(starts) else len(ordered)
    return float(ordered[starts[best]]), float(ordered[stop - 1])


def _oriented_box(
    points: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Fit a box along the principal axes of (N, 3) points.

    Returns:
        (3, 3) axes as columns, and the (3,) low and high ends along them. The longest side comes first. The
        axes are right-handed; the first two have a positive largest component.
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
