"""`sensor_msgs/CameraInfo` → the camera matrix for the pixels of one image, or why it cannot be right.

A matrix that belongs to another image gives plausible numbers, and arms move to them. So everything in a
camera info that can be compared is compared, and a contradiction is an error.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xsam.errors import InvalidImageError
from xsam.media.messages.fields import RosCameraInfo
from xsam.spatial.lens import undistorted_rays
from xsam.types.lens import LensDistortion

MIN_VIEW_DEG, MAX_VIEW_DEG = 1.0, 170.0
_MAX_PIXEL_ASPECT = 1.5
"""fx and fy of square pixels are equal; the most oblong pixels of video (anamorphic 16:9) have 1.46."""

_MAX_ASPECT_ERROR = 0.01
"""Drivers round sizes to multiples of 8 or 16; cropping to another aspect ratio changes far more."""

_ROUNDING_PX = 16
_CENTERED = (0.35, 0.65)
"""Principal points of uncropped images, as a share of width and height."""

_MAX_BEND = 2.5
"""How many times the angle of a pinhole camera a lens bends rays; fisheye lenses of 180° have 1.2."""

_FAR_OFF = 0.1
_NEAR_MIDDLE = 0.02
"""A principal point this far from the middle of its image (share of a side), and this near to the middle of
another one, is that one's."""

_USUAL_SIZES = (
    *((320, 180), (320, 240), (424, 240), (480, 270), (640, 360), (640, 400), (640, 480), (672, 376)),
    *((752, 480), (800, 600), (848, 480), (960, 540), (960, 600), (1024, 768), (1280, 720), (1280, 800)),
    *((1280, 960), (1280, 1024), (1344, 376), (1440, 1080), (1600, 1200), (1920, 1080), (1920, 1200)),
    *((2208, 1242), (2592, 1944), (3840, 2160)),
)

_UNDISTORTED_MODELS = ("", "none", "plumb_bob", "rational_polynomial")
"""Models that are no distortion if all coefficients are 0."""

_BELONGS_HINT = "check that info_topic belongs to image_topic, and depth_info_topic to depth_topic"
_RECTIFIED_TOPIC = re.compile(r"(.*_)?rect(ified)?(_.*)?")
"""Parts of the names of topics with rectified images, as in image_rect_color."""


class _Region(NamedTuple):
    """The imaged part of the sensor, in pixels at calibration."""

    x: int
    y: int
    width: int
    height: int


def intrinsics_for(
    info: RosCameraInfo,
    image_hw: tuple[int, int],
    *,
    rectified: bool = False,
    parameter: str = "rectified",
    notes: list[str] | None = None,
) -> NDArray[np.float64]:
    """Return the (3, 3) matrix K of an image, with (0, 0) at the center of the upper left pixel.

    K is valid for the image size at calibration. If the image is a region of it (ROI), binned or resized,
    the matrix is shifted and scaled to match.

    Args:
        info: of the camera that took the image.
        image_hw: (H, W) of the received image in pixels.
        rectified: the image is rectified, so P applies instead of K.
        parameter: name of the camera's parameter that says so, for errors.
        notes: receives what is unusual, but possible.

    Raises:
        InvalidImageError: the camera is not calibrated, the matrix cannot be that of a camera with this image
            size, or region, binning and sizes contradict each other.

    Source: REP 104 and the comments in `sensor_msgs/CameraInfo`. Binning here keeps pixel centers aligned,
    which moves the principal point by up to half a pixel more than `image_geometry` does.
    """
    height, width = image_hw
    region = _region(info)
    binning_x, binning_y = max(1, int(info.binning_x)), max(1, int(info.binning_y))
    matrix = _matrix(info, rectified)
    _check_matrix(matrix, info, rectified=rectified, parameter=parameter)
    _check_sizes(info, region, (binning_x, binning_y), (width, height))
    note = _check_principal_point(matrix, info, (height, width), rectified=rectified)
    if note and notes is not None:
        notes.append(note)
    scale_x, scale_y = width / region.width, height / region.height
    to_image = np.array(
        [
            [scale_x, 0.0, (0.5 - region.x) * scale_x - 0.5],
            [0.0, scale_y, (0.5 - region.y) * scale_y - 0.5],
            [0.0, 0.0, 1.0],
        ]
    )
    scaled: NDArray[np.float64] = to_image @ matrix
    return scaled


def lens_for(info: RosCameraInfo, *, parameter: str = "rectified") -> LensDistortion | None:
    """Return the distortion of the camera's raw images; None = they have none.

    Args:
        info: of the camera.
        parameter: name of the camera's parameter for rectified images, for errors.

    Raises:
        InvalidImageError: the model is not known, or its coefficients are missing or those of no lens.
    """
    model, coefficients = info.distortion_model, tuple(float(value) for value in info.d)
    if model in _UNDISTORTED_MODELS and not any(coefficients):
        return None
    hint = f"use rectified images and set the camera's parameter {parameter}: true"
    if model == "equidistant" and not any(coefficients):
        raise InvalidImageError(
            "the lens model of the camera info is equidistant, but its coefficients are all 0 or missing: "
            "the lens is not calibrated, or the images are rectified",
            hint=hint,
        )
    try:
        lens = LensDistortion(model=model, coefficients=coefficients)
    except ValueError as error:
        raise InvalidImageError(
            f"the camera info cannot be corrected for distortion: {error}", hint=hint
        ) from error
    if problem := _lens_problem(lens, info):
        raise InvalidImageError(f"the distortion of the camera info is impossible: {problem}", hint=hint)
    return lens


def _lens_problem(lens: LensDistortion, info: RosCameraInfo) -> str:
    """Return why no lens has this distortion, judged halfway to the edges of the image; "" = one may."""
    matrix = np.array(info.k, np.float64).reshape(3, 3)
    if _matrix_problem(matrix, info):  # which is reported by itself
        return ""
    away_px = np.array([[info.width, 0], [-info.width, 0], [0, info.height], [0, -info.height]]) / 4.0
    x_px, y_px = (matrix[:2, 2] + away_px).T
    angles = np.degrees(np.arctan(np.hypot(*undistorted_rays(x_px, y_px, matrix, lens))))
    without = np.degrees(np.arctan(np.hypot(*(away_px / (matrix[0, 0], matrix[1, 1])).T)))
    wrong = [
        index
        for index in range(len(angles))
        if _aspect(max(angles[index], 1e-9) / without[index]) > _MAX_BEND
    ]  # false for NaN: there are no rays at the edges of some wide images
    if not wrong:
        return ""
    return (
        f"halfway to the edge of the image it sees {angles[wrong[0]]:.3g}° from the axis, and without "
        f"distortion {without[wrong[0]]:.3g}°"
    )


def sounds_rectified(topic: str) -> bool:
    """Tell whether a topic has rectified images, by the names that ROS gives them."""
    return any(_RECTIFIED_TOPIC.fullmatch(part) for part in topic.split("/"))


def optical_notes(frame_id: str, remedy: str) -> list[str]:
    """Return a note on a frame that may not have the axes of an optical frame.

    Args:
        frame_id: of the images.
        remedy: what to do if it has other axes.
    """
    if "optical" in frame_id:
        return []
    return [
        f"the frame of the images, {frame_id!r}, is not marked as optical (REP 103): locations have x right, "
        f"y down, z forward; if TF has other axes there, {remedy}"
    ]


def rectified_notes(topic: str, parameter: str) -> list[str]:
    """Return a note on a lens that distorts images whose topic sounds like rectified ones."""
    if not sounds_rectified(topic):
        return []
    return [
        f"{topic} sounds like rectified images; if they are, set {parameter}, or distortion is corrected "
        "twice"
    ]


def _region(info: RosCameraInfo) -> _Region:
    """Return the imaged region.

    Raises:
        InvalidImageError: there is no image size, or the region is not inside it.
    """
    width, height, roi = int(info.width), int(info.height), info.roi
    if width <= 0 or height <= 0:
        raise InvalidImageError("the camera info has no image size")
    if roi.width == 0 or roi.height == 0:  # all zeros mean full resolution
        return _Region(0, 0, width, height)
    region = _Region(int(roi.x_offset), int(roi.y_offset), int(roi.width), int(roi.height))
    if region.x + region.width > width or region.y + region.height > height:
        raise InvalidImageError(
            f"the region of interest, {region.width}×{region.height} px at ({region.x}, {region.y}), is not "
            f"inside the calibrated image of {width}×{height} px",
            hint="the driver must give width, height and roi of the camera info in full resolution (REP 104)",
        )
    return region


def _matrix(info: RosCameraInfo, rectified: bool) -> NDArray[np.float64]:
    if rectified:
        return np.array(info.p, np.float64).reshape(3, 4)[:, :3]
    return np.array(info.k, np.float64).reshape(3, 3)


def _check_matrix(
    matrix: NDArray[np.float64], info: RosCameraInfo, *, rectified: bool, parameter: str
) -> None:
    """Raise an error unless it is the matrix of a pinhole camera with the calibrated image size."""
    problem = _matrix_problem(matrix, info)
    if not problem and rectified and float(info.p[11]):
        problem = f"ends with the row (0, 0, 1, {float(info.p[11]):g}) instead of (0, 0, 1, 0)"
    if not problem:
        return
    name = "P" if rectified else "K"
    if not _matrix_problem(matrix.T, info):
        hint = f"the driver stores {name} column by column; it must be row-major"
    elif not rectified and not _matrix_problem(_matrix(info, rectified=True), info):
        hint = (
            f"matrix P is usable: if the images are rectified, set the camera's parameter {parameter}: true; "
            "otherwise calibrate the camera"
        )
    else:
        hint = "calibrate the camera, or correct the driver's camera info"
    raise InvalidImageError(f"matrix {name} of the camera info {problem}", hint=hint)


def _matrix_problem(matrix: NDArray[np.float64], info: RosCameraInfo) -> str:
    """Return why a matrix cannot be that of a pinhole camera, as a predicate; "" = it can."""
    (fx, skew, _), (zero, fy, _), bottom = matrix.tolist()
    if not np.isfinite(matrix).all() or not matrix.any() or fx <= 0 or fy <= 0:
        return "is not set: the camera is not calibrated"
    if bottom != [0.0, 0.0, 1.0]:
        return f"ends with the row {tuple(bottom)} instead of (0, 0, 1)"
    if abs(zero) > 1e-6 * fy or abs(skew) > 0.05 * fx:
        return f"is not that of a pinhole camera: skew {skew:g} and {zero:g}"
    sides = (("fx", fx, int(info.width)), ("fy", fy, int(info.height)))
    for name, focal, side in sides:
        view_deg = 2.0 * math.degrees(math.atan(side / 2.0 / focal))
        if not MIN_VIEW_DEG <= view_deg <= MAX_VIEW_DEG:
            return (
                f"is impossible: {name} = {focal:g} px is a field of view of {view_deg:.3g}° over {side} px; "
                f"cameras have {MIN_VIEW_DEG:g}° to {MAX_VIEW_DEG:g}°"
            )
    # Binning of one axis only makes oblong pixels, and some drivers give K of the binned image.
    binned = max(1, int(info.binning_x)) / max(1, int(info.binning_y))
    if min(_aspect(fx / fy), _aspect(fx * binned / fy)) > _MAX_PIXEL_ASPECT:
        return f"is impossible: fx = {fx:g} and fy = {fy:g} px are too different for one camera"
    return ""


def _other_size(cx: float, cy: float, width: int, height: int) -> tuple[int, int] | None:
    """Return the usual size of another aspect ratio that a principal point is the middle of, if any.

    A matrix of 640×360 px, used for 640×480, is off by 60 px in one direction only.
    """
    if max(abs((cx + 0.5) / width - 0.5), abs((cy + 0.5) / height - 0.5)) < _FAR_OFF:
        return None
    for other in _USUAL_SIZES:
        same_aspect = abs(other[0] * height / (other[1] * width) - 1.0) < _MAX_ASPECT_ERROR
        if not same_aspect and all(
            abs(2.0 * (middle + 0.5) / side - 1.0) < _NEAR_MIDDLE
            for middle, side in zip((cx, cy), other, strict=True)
        ):
            return other
    return None


def _aspect(ratio: float) -> float:
    return max(ratio, 1.0 / ratio)


def _check_sizes(
    info: RosCameraInfo, region: _Region, binning_xy: tuple[int, int], image_wh: tuple[int, int]
) -> None:
    """Raise an error unless the image can be the region, binned or resized."""
    (width, height), (binning_x, binning_y) = image_wh, binning_xy
    if image_wh == (region.width, region.height):  # some drivers set binning yet adapt size and K
        return
    calibrated = f"{int(info.width)}×{int(info.height)}"
    binned = f"{region.width // binning_x}×{region.height // binning_y}"
    stretch = (width * binning_x * region.height) / (height * binning_y * region.width)
    if abs(stretch - 1.0) > _MAX_ASPECT_ERROR:
        raise InvalidImageError(
            f"the camera info is for {binned} px, the image is {width}×{height}: the aspect ratios differ",
            hint=_BELONGS_HINT,
        )
    is_part = (region.width, region.height) != (int(info.width), int(info.height))
    too_large = width > region.width or height > region.height
    if is_part and too_large:
        raise InvalidImageError(
            f"the camera info says that the image is a region of {region.width}×{region.height} px, but the "
            f"image is {width}×{height}",
            hint="the driver must reset roi of the camera info when it sends the whole image",
        )
    is_binned = max(binning_xy) > 1
    off_x, off_y = abs(width - region.width / binning_x), abs(height - region.height / binning_y)
    if is_binned and (off_x > _ROUNDING_PX or off_y > _ROUNDING_PX):
        raise InvalidImageError(
            f"the camera info says {calibrated} px with binning {binning_x}×{binning_y}, so {binned} px, but "
            f"the image is {width}×{height}",
            hint=_BELONGS_HINT,
        )


def _check_principal_point(
    matrix: NDArray[np.float64], info: RosCameraInfo, image_hw: tuple[int, int], *, rectified: bool
) -> str:
    """Return a note on a principal point far from the middle of the calibrated image; "" = it is near.

    Raises:
        InvalidImageError: it is outside, or it is in the middle of an image of another size.
    """
    name = "P" if rectified else "K"
    width, height = int(info.width), int(info.height)
    cx, cy = float(matrix[0, 2]), float(matrix[1, 2])
    at = f"the principal point ({cx:.6g}, {cy:.6g}) px of matrix {name}"
    calibrated = f"the calibrated image of {width}×{height} px"
    share_x, share_y = (cx + 0.5) / width, (cy + 0.5) / height
    if not (0.0 < share_x < 1.0 and 0.0 < share_y < 1.0):
        raise InvalidImageError(
            f"{at} is outside {calibrated}: the matrix is for another resolution or region",
            hint=f"{_BELONGS_HINT}, and that the driver scales {name} with width and height",
        )
    low, high = _CENTERED
    other = _other_size(cx, cy, width, height)
    if low < share_x < high and low < share_y < high and other is None:
        return ""
    region = _region(info)
    of_region = (cx + 0.5) / region.width, (cy + 0.5) / region.height
    is_part = (region.width, region.height) != (width, height)
    if is_part and all(low < share < high for share in of_region):
        raise InvalidImageError(
            f"{at} is the middle of the region of interest of {region.width}×{region.height} px, not of "
            f"{calibrated}: {name} must be that of the full resolution (REP 104)",
            hint=f"correct the driver's camera info: either no roi, or {name} before the region is cut out",
        )
    if all(0.45 < share < 0.55 for share in ((cx + 0.5) / height, (cy + 0.5) / width)):
        raise InvalidImageError(
            f"{at} is the middle of the turned image of {height}×{width} px, not of {calibrated}",
            hint="if the driver rotates the image, it must rotate its camera info, too",
        )
    if other is not None:
        belongs = (
            f"{at} is the middle of an image of {other[0]}×{other[1]} px, not of {calibrated}: {name} is for "
            "another resolution"
        )
        if rectified or image_hw != (height, width):  # rectification moves it, and so does a crop
            return f"{belongs}, unless the lens is shifted or the image is a crop"
        raise InvalidImageError(
            belongs,
            hint="width, height and K of a camera info must be those of one resolution, and roi its part",
        )
    if _aspect(share_x / share_y) < 1.2:  # as far off in both directions: the middle of another size
        raise InvalidImageError(
            f"{at} is the middle of an image of about {2 * cx:.0f}×{2 * cy:.0f} px, not of {calibrated}: "
            f"{name} is for another resolution",
            hint="width, height, K and P of a camera info must all be those of the full resolution, before "
            "roi and binning (REP 104)",
        )
    return f"{at} is far from the middle of {calibrated}; locations are wrong unless the image is a crop"
