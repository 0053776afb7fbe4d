"""`sensor_msgs/CameraInfo` → the camera matrix for the pixels of one image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo

from xsam.errors import InvalidImageError

_MAX_ASPECT_ERROR = 0.01
"""Drivers round sizes to multiples of 8 or 16; cropping to another aspect ratio changes far more."""


def intrinsics_for(
    info: CameraInfo, image_hw: tuple[int, int], *, rectified: bool = False
) -> NDArray[np.float64]:
    """Return the (3, 3) matrix K of an image, with (0, 0) at the center of the upper left pixel.

    K is valid for the image size at calibration. If the image is a region of it (ROI), binned or resized,
    the matrix is shifted and scaled to match.

    Args:
        info: of the camera that took the image.
        image_hw: (H, W) of the received image in pixels.
        rectified: the image is rectified, so P applies instead of K.

    Raises:
        InvalidImageError: the camera is not calibrated, or the aspect ratio differs.

    Source: REP 104 and the comments in `sensor_msgs/CameraInfo`. Binning here keeps pixel centers aligned,
    which moves the principal point by up to half a pixel more than `image_geometry` does.
    """
    height, width = image_hw
    matrix = np.array(info.p, np.float64).reshape(3, 4)[:, :3] if rectified else np.array(info.k, np.float64)
    matrix = matrix.reshape(3, 3)
    if not np.isfinite(matrix).all() or matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
        raise InvalidImageError(
            f"matrix {'P' if rectified else 'K'} of the camera info is not set: the camera is not calibrated"
        )
    x_px, y_px, region_width, region_height = _region(info)
    if region_width <= 0 or region_height <= 0:
        raise InvalidImageError("the camera info has no image size")
    scale_x, scale_y = width / region_width, height / region_height
    binning_x, binning_y = max(1, int(info.binning_x)), max(1, int(info.binning_y))
    same_size = (width, height) == (region_width, region_height)  # some drivers set binning yet adapt K
    stretch = 1.0 if same_size else scale_x * binning_x / (scale_y * binning_y)
    if abs(stretch - 1.0) > _MAX_ASPECT_ERROR:
        raise InvalidImageError(
            f"the camera info is for {region_width // binning_x}×{region_height // binning_y} px, "
            f"the image is {width}×{height}: the aspect ratios differ",
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
    """Return whether raw images have lens distortion, which K alone does not describe."""
    return bool(np.any(np.abs(np.array(info.d, np.float64)) > 1e-9))


def _region(info: CameraInfo) -> tuple[int, int, int, int]:
    """Return (x, y, width, height) of the imaged region, in pixels at calibration."""
    roi = info.roi
    if roi.width == 0 or roi.height == 0:  # all zeros mean full resolution
        return 0, 0, int(info.width), int(info.height)
    return int(roi.x_offset), int(roi.y_offset), int(roi.width), int(roi.height)
