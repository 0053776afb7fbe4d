"""`sensor_msgs/CameraInfo` → the matrix K that belongs to the pixels of one image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo

from xsam.errors import InvalidImageError

_MAX_ASPECT_ERROR = 0.01
"""Drivers round sizes to multiples of 8 or 16; cropping to another format changes far more."""


def intrinsics_for(
    info: CameraInfo, image_hw: tuple[int, int], *, rectified: bool = False
) -> NDArray[np.float64]:
    """(3, 3) matrix K of an image of (H, W) pixels, (0, 0) being the center of the upper left one.

    K holds for the image size that the calibration was made at. If the image shows a part of it (ROI), is
    binned or was resized, the matrix is moved and scaled along.

    Args:
        info: of the camera that took the image.
        image_hw: size of the image as it came.
        rectified: the image is rectified, so that P counts and not K.

    Raises:
        InvalidImageError: the camera is not calibrated, or the image has another aspect ratio.

    Source: REP 104 and the comments in `sensor_msgs/CameraInfo`. Binning moves the principal point with the
    centers of the pixels here, by up to half a pixel more than in `image_geometry`.
    """
    height, width = image_hw
    matrix = np.array(info.p, np.float64).reshape(3, 4)[:, :3] if rectified else np.array(info.k, np.float64)
    matrix = matrix.reshape(3, 3)
    if not np.isfinite(matrix).all() or matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
        raise InvalidImageError(
            f"matrix {'P' if rectified else 'K'} of the camera info is not set: the camera is not calibrated"
        )
    x_px, y_px, seen_width, seen_height = _region(info)
    if seen_width <= 0 or seen_height <= 0:
        raise InvalidImageError("the camera info says no image size")
    scale_x, scale_y = width / seen_width, height / seen_height
    binning_x, binning_y = max(1, int(info.binning_x)), max(1, int(info.binning_y))
    untouched = (width, height) == (seen_width, seen_height)  # some drivers set binning and adapt K as well
    stretch = 1.0 if untouched else scale_x * binning_x / (scale_y * binning_y)
    if abs(stretch - 1.0) > _MAX_ASPECT_ERROR:
        raise InvalidImageError(
            f"the camera info is for {seen_width // binning_x}×{seen_height // binning_y} px, the image is "
            f"{width}×{height}: another aspect ratio",
            hint="check that info_topic belongs to image_topic",
        )
    to_image = np.array(
        [
            [scale_x, 0.0, (0.5 - x_px) * scale_x - 0.5],
            [0.0, scale_y, (0.5 - y_px) * scale_y - 0.5],
            [0.0, 0.0, 1.0],
        ]
    )
    matrix[2] = (0.0, 0.0, 1.0)
    scaled: NDArray[np.float64] = to_image @ matrix
    return scaled


def is_distorted(info: CameraInfo) -> bool:
    """The raw image of this camera has a lens distortion that K alone does not describe."""
    return bool(np.any(np.abs(np.array(info.d, np.float64)) > 1e-9))


def _region(info: CameraInfo) -> tuple[int, int, int, int]:
    """(x, y, width, height) of what the image shows, in pixels of the calibration."""
    roi = info.roi
    if roi.width == 0 or roi.height == 0:  # all zeros stand for the full resolution
        return 0, 0, int(info.width), int(info.height)
    return int(roi.x_offset), int(roi.y_offset), int(roi.width), int(roi.height)
