"""Depth images, raw and compressed, as meters.

REP 118: 32FC1 is meters, 16UC1 millimeters; NaN, infinities, 0 and negative values are no measurements.
Here a missing measurement is always 0.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image

from xsam.errors import InvalidImageError
from xsam.types.requests import MAX_IMAGE_SIDE_PX
from xsam_ros.messages.compressed_images import picture_pixels
from xsam_ros.messages.images import array_from_image

_MILLIMETRES = frozenset({"16UC1", "mono16"})
_METRES = "32FC1"
_CONFIG_HEADER = struct.Struct("<iff")  # kind of coding (0 = inverse depth), quantization A and B
_TRANSPORT = "compressedDepth"


def depth_from_image(message: Image, *, max_side_px: int = MAX_IMAGE_SIDE_PX) -> NDArray[np.float32]:
    """Depth of a 32FC1, 16UC1 or mono16 image: float32 (H, W) meters, 0 = no measurement.

    Raises:
        InvalidImageError: another encoding, or an image that contradicts itself.
    """
    encoding = message.encoding
    if encoding != _METRES and encoding not in _MILLIMETRES:
        raise InvalidImageError(
            f"depth encoding {encoding[:40]!r} is unknown; supported: 32FC1 in meters, 16UC1 in millimeters"
        )
    return _metres(array_from_image(message, max_side_px=max_side_px), encoding)


def depth_from_compressed(
    message: CompressedImage, *, max_side_px: int = MAX_IMAGE_SIDE_PX
) -> NDArray[np.float32]:
    """Depth of an image of transport compressedDepth: float32 (H, W) meters, 0 = no measurement.

    Twelve bytes come first: an int32 and two float32, A and B. A 16-bit gray PNG follows. For 16UC1 its
    values are millimeters; for 32FC1 a value v > 0 means A / (v - B) meters, and 0 no measurement.

    Raises:
        InvalidImageError: RVL coding, another encoding, a damaged or a too large image.

    Source: `compressed_depth_image_transport` of ros-perception/image_transport_plugins, and the comments
    in `sensor_msgs/CompressedImage`.
    """
    encoding, _, coding = (part.strip() for part in message.format.partition(";"))
    if coding not in ("", _TRANSPORT, f"{_TRANSPORT} png"):
        raise InvalidImageError(
            f"compressed depth of format {message.format[:60]!r} is not supported",
            hint="set the publisher's parameter <topic>.compressedDepth.format to png",
        )
    if encoding != _METRES and encoding not in _MILLIMETRES:
        raise InvalidImageError(
            f"compressed depth of format {message.format[:60]!r} is not supported; "
            f"the format has to begin with 32FC1 or 16UC1"
        )
    data = memoryview(message.data).cast("B") if len(message.data) else memoryview(b"")
    if len(data) <= _CONFIG_HEADER.size:
        raise InvalidImageError(f"a compressed depth image has only {len(data)} bytes")
    _, depth_a, depth_b = _CONFIG_HEADER.unpack_from(data)
    pixels = picture_pixels(data[_CONFIG_HEADER.size :], formats=("PNG",), max_side_px=max_side_px)
    if pixels.ndim != 2 or pixels.dtype != np.uint16:
        raise InvalidImageError(
            f"compressed depth needs a 16-bit gray PNG, got {pixels.dtype} {pixels.shape}"
        )
    if encoding in _MILLIMETRES:
        return _metres(pixels, encoding)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):  # what they make is no measurement
        depth_m = np.float32(depth_a) / (pixels.astype(np.float32) - np.float32(depth_b))
    depth_m[pixels == 0] = 0.0
    return _metres(depth_m, _METRES)


def resized_depth(depth_m: NDArray[np.float32], image_hw: tuple[int, int]) -> NDArray[np.float32]:
    """Depth (h, w) at the size (H, W) of the color image it is registered to, by nearest neighbor.

    No two measurements are mixed, so no surface appears between an object and what is behind it.

    Raises:
        InvalidImageError: the aspect ratios differ, so it is not registered to that image.
    """
    height, width = image_hw
    if depth_m.shape == image_hw:
        return depth_m
    if depth_m.shape[0] * width != depth_m.shape[1] * height:
        raise InvalidImageError(
            f"the depth image is {depth_m.shape[1]}×{depth_m.shape[0]}, the color image {width}×{height}: "
            "it is not registered to it",
            hint="use the depth topic that the driver registers (aligns) to the color image",
        )
    # The pixel that the center of each pixel falls into.
    rows = (np.arange(height) * 2 + 1) * depth_m.shape[0] // (2 * height)
    columns = (np.arange(width) * 2 + 1) * depth_m.shape[1] // (2 * width)
    return depth_m[rows[:, None], columns[None, :]]


def _metres(pixels: NDArray[Any], encoding: str) -> NDArray[np.float32]:
    if encoding in _MILLIMETRES:
        return pixels.astype(np.float32) * np.float32(0.001)
    with np.errstate(invalid="ignore"):
        measured = (pixels > 0) & (pixels < np.inf)
    return np.where(measured, pixels, np.float32(0)).astype(np.float32, copy=False)
