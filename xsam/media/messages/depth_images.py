"""Depth images, raw and compressed → meters.

REP 118: 32FC1 is in meters and 16UC1 in millimeters; NaN, infinity, 0 and negative values mean "no
measurement". After conversion a missing measurement is always 0.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.errors import InvalidImageError
from xsam.media.messages.compressed_images import PNG_SIGNATURE, decode_image_file
from xsam.media.messages.fields import RosCompressedImage, RosImage
from xsam.media.messages.images import array_from_image
from xsam.media.messages.rvl import decode_rvl
from xsam.types.requests import MAX_IMAGE_SIDE_PX

_MILLIMETER_ENCODINGS = frozenset({"16UC1", "mono16"})
_METER_ENCODING = "32FC1"
_CONFIG_HEADER = struct.Struct("<iff")  # coding (0 = inverse depth), quantization A and B
_TRANSPORT = "compressedDepth"
_PLAUSIBLE_M = (0.03, 60.0)
"""Medians of depth images of real cameras; millimeters taken for meters are far beyond."""


def depth_from_image(
    message: RosImage, *, max_side_px: int = MAX_IMAGE_SIDE_PX, scale: float = 0.0
) -> NDArray[np.float32]:
    """Convert a 32FC1, 16UC1 or mono16 image to float32 (H, W) meters, 0 = no measurement.

    Args:
        message: the image.
        max_side_px: larger images are refused.
        scale: meters per unit, for cameras that do not follow REP 118; 0 = as the encoding says.

    Raises:
        InvalidImageError: another encoding, or sizes that contradict the data.
    """
    encoding = message.encoding
    if encoding != _METER_ENCODING and encoding not in _MILLIMETER_ENCODINGS:
        raise InvalidImageError(
            f"depth encoding {encoding[:40]!r} is unknown; supported: 32FC1 in meters, 16UC1 in millimeters"
        )
    return _to_meters(array_from_image(message, max_side_px=max_side_px), encoding, scale)


def depth_from_compressed(
    message: RosCompressedImage, *, max_side_px: int = MAX_IMAGE_SIDE_PX, scale: float = 0.0
) -> NDArray[np.float32]:
    """Decode depth of image transport "compressedDepth", or a 16-bit PNG of "compressed", to float32 meters.

    compressedDepth is twelve bytes (an int32 and two float32, A and B) followed by a 16-bit gray PNG, or by
    an image in RVL code. For 16UC1 its values are millimeters; for 32FC1 a value v > 0 means A / (v - B)
    meters. A message that is a PNG file from its first byte holds millimeters.

    Args:
        message: the image.
        max_side_px: larger images are refused before they are decoded.
        scale: meters per unit of a 16-bit image; 0 = millimeters.

    Returns:
        (H, W), 0 = no measurement.

    Raises:
        InvalidImageError: another coding or encoding, or a damaged or oversized image.

    Source: `compressed_depth_image_transport` and `compressed_image_transport` of
    ros-perception/image_transport_plugins, and the comments in `sensor_msgs/CompressedImage`.
    """
    encoding, _, coding = (part.strip() for part in message.format.partition(";"))
    data = memoryview(message.data).cast("B") if len(message.data) else memoryview(b"")
    if data[: len(PNG_SIGNATURE)] == PNG_SIGNATURE:
        if encoding == _METER_ENCODING:
            raise _unsupported(message, "a plain PNG cannot hold 32FC1")
        pixels = decode_image_file(data, formats=("PNG",), max_side_px=max_side_px)
        return _to_meters(_checked_16_bit(pixels), "16UC1", scale)
    if coding not in ("", _TRANSPORT, f"{_TRANSPORT} png", f"{_TRANSPORT} rvl"):
        raise _unsupported(message, "it must be compressedDepth (PNG or RVL), or a 16-bit PNG")
    if encoding != _METER_ENCODING and encoding not in _MILLIMETER_ENCODINGS:
        raise _unsupported(message, "it must begin with 32FC1 or 16UC1")
    if len(data) <= _CONFIG_HEADER.size:
        raise InvalidImageError(
            f"the compressed depth image has only {len(data)} bytes, less than its header"
        )
    _, depth_a, depth_b = _CONFIG_HEADER.unpack_from(data)
    content = data[_CONFIG_HEADER.size :]
    if coding.endswith("rvl"):
        pixels = decode_rvl(content, max_side_px=max_side_px)
    else:
        pixels = _checked_16_bit(decode_image_file(content, formats=("PNG",), max_side_px=max_side_px))
    if encoding in _MILLIMETER_ENCODINGS:
        return _to_meters(pixels, encoding, scale)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):  # removed by _to_meters
        depth_m = np.float32(depth_a) / (pixels.astype(np.float32) - np.float32(depth_b))
    depth_m[pixels == 0] = 0.0
    return _to_meters(depth_m, _METER_ENCODING, scale)


def resize_depth(depth_m: NDArray[np.float32], image_hw: tuple[int, int]) -> NDArray[np.float32]:
    """Resize depth (h, w) to the size (H, W) of the color image it is registered to.

    Nearest neighbor: blending measurements would invent surfaces between an object and its background.

    Raises:
        InvalidImageError: the aspect ratios differ, so depth is not registered to that image.
    """
    height, width = image_hw
    if depth_m.shape == image_hw:
        return depth_m
    if depth_m.shape[0] * width != depth_m.shape[1] * height:
        raise InvalidImageError(
            f"the depth image is {depth_m.shape[1]}×{depth_m.shape[0]}, the color image {width}×{height}: "
            "they are not registered",
            hint="use the depth topic that the driver registers (aligns) to the color image",
        )
    # Each target pixel takes the source pixel that its center falls into.
    rows = (np.arange(height) * 2 + 1) * depth_m.shape[0] // (2 * height)
    columns = (np.arange(width) * 2 + 1) * depth_m.shape[1] // (2 * width)
    resized: NDArray[np.float32] = depth_m[rows[:, None], columns[None, :]]
    return resized


def range_notes(depth_m: NDArray[np.float32], remedy: str) -> list[str]:
    """Return a note on depth that is implausible for a depth camera, as in the wrong unit.

    Args:
        depth_m: (H, W).
        remedy: what to do about it.
    """
    sample = depth_m[::4, ::4]
    measured = sample[sample > 0]
    nearest_m, farthest_m = _PLAUSIBLE_M
    if not len(measured) or nearest_m <= (middle_m := float(np.median(measured))) <= farthest_m:
        return []
    side = "above" if middle_m > farthest_m else "below"
    return [
        f"half of the depth is {side} {middle_m:.4g} m, which is implausible: check its unit, and {remedy}"
    ]


def _unsupported(message: RosCompressedImage, reason: str) -> InvalidImageError:
    return InvalidImageError(
        f"compressed depth of format {message.format[:60]!r} is not supported; {reason}",
        hint="publish the depth image by image transport compressedDepth, or uncompressed",
    )


def _checked_16_bit(pixels: NDArray[Any]) -> NDArray[Any]:
    if pixels.ndim != 2 or pixels.dtype != np.uint16:
        raise InvalidImageError(
            f"compressed depth needs a 16-bit gray PNG, got {pixels.dtype} {pixels.shape}"
        )
    return pixels


def _to_meters(pixels: NDArray[Any], encoding: str, scale: float) -> NDArray[np.float32]:
    """Return meters, 0 where nothing was measured; `scale` in meters per unit, 0 = by the encoding."""
    if encoding in _MILLIMETER_ENCODINGS:
        return pixels.astype(np.float32) * np.float32(scale or 0.001)
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = pixels * np.float32(scale) if scale else pixels
        measured = (scaled > 0) & (scaled < np.inf)
    return np.where(measured, scaled, np.float32(0)).astype(np.float32, copy=False)
