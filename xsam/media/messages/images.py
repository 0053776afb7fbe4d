"""`sensor_msgs/Image` ↔ NumPy, for every common encoding, padded rows and both byte orders.

Pixels come out the same as from `cv_bridge`. An unpadded rgb8 image is not copied at all, so it
converts in microseconds; the others take about a millisecond at 720p.

Depth images are in `depth_images`, compressed color in `compressed_images`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xsam.errors import InvalidImageError
from xsam.media.messages.fields import RosImage
from xsam.types.pixels import as_u8, used_bits
from xsam.types.requests import MAX_IMAGE_SIDE_PX


class PixelLayout(NamedTuple):
    """How the pixels of an encoding lie in memory."""

    dtype: str  # of one channel, byte order left out
    channels: int
    planar: bool = False  # H rows of luma, then H/2 rows of chroma


# OpenCV names a Bayer pattern after its second row and column, ROS after the upper left corner.
_BAYER = {"rggb": "BayerBG", "bggr": "BayerRG", "gbrg": "BayerGR", "grbg": "BayerGB"}
_YUV = {"yuv422": "UYVY", "uyvy": "UYVY", "yuv422_yuy2": "YUY2", "yuyv": "YUY2"}
_YUV_PLANAR = {"nv12": "NV12", "nv21": "NV21"}

_COLOR_LAYOUTS = {
    **{f"{order}{bits}": PixelLayout(f"u{bits // 8}", 3) for order in ("rgb", "bgr") for bits in (8, 16)},
    **{f"{order}a{bits}": PixelLayout(f"u{bits // 8}", 4) for order in ("rgb", "bgr") for bits in (8, 16)},
    **{name: PixelLayout("u1", 1) for name in ("mono8", "8UC1")},
    "mono16": PixelLayout("u2", 1),
    **{name: PixelLayout("u1", 3) for name in ("8UC3",)},  # blue first, as in OpenCV
    **{name: PixelLayout("u1", 4) for name in ("8UC4",)},
    **{f"bayer_{pattern}{bits}": PixelLayout(f"u{bits // 8}", 1) for pattern in _BAYER for bits in (8, 16)},
    **{name: PixelLayout("u1", 2) for name in _YUV},
    **{name: PixelLayout("u1", 1, planar=True) for name in _YUV_PLANAR},
}
_DEPTH_LAYOUTS = {"32FC1": PixelLayout("f4", 1), "16UC1": PixelLayout("u2", 1)}
LAYOUTS = {**_COLOR_LAYOUTS, **_DEPTH_LAYOUTS}

DEPTH_ENCODINGS = tuple(_DEPTH_LAYOUTS)
"""Encodings of depth, in meters and millimeters (REP 118), which is never read as color."""

SUPPORTED_ENCODINGS = tuple(_COLOR_LAYOUTS)
"""Encodings that `rgb_from_image` handles without `cv_bridge`."""


def array_from_image(message: RosImage, *, max_side_px: int = MAX_IMAGE_SIDE_PX) -> NDArray[Any]:
    """View the pixels of a message in place, read-only.

    Nothing is allocated, and size and step are checked against the data that actually arrived.

    Returns:
        (H, W) or (H, W, C) in the message's byte order. For nv12 and nv21 (H + H/2, W): luma, then the
        interleaved chroma below it.

    Raises:
        InvalidImageError: unknown encoding, no pixels, a side over `max_side_px`, or too little data.
    """
    encoding = message.encoding
    layout = LAYOUTS.get(encoding)
    if layout is None:
        raise unknown_encoding(encoding)
    height, width, step = checked_size(message, max_side_px)
    if layout.planar and (height % 2 or width % 2):
        raise InvalidImageError(f"a {encoding} image needs even sides, got {width}×{height}")
    rows = height + height // 2 if layout.planar else height
    dtype = np.dtype(layout.dtype).newbyteorder(">" if message.is_bigendian else "<")
    row_bytes = width * layout.channels * dtype.itemsize
    needed = step * (rows - 1) + row_bytes
    if step < row_bytes or len(message.data) < needed:
        raise InvalidImageError(
            f"a {width}×{height} {encoding} image needs a step of at least {row_bytes} and "
            f"{max(needed, row_bytes * rows)} bytes; got a step of {step} and {len(message.data)} bytes"
        )
    pixels: NDArray[Any] = np.ndarray(
        (rows, width, layout.channels),
        dtype,
        np.frombuffer(message.data, np.uint8).data,
        strides=(step, layout.channels * dtype.itemsize, dtype.itemsize),
    )
    pixels.flags.writeable = False
    return pixels[..., 0] if layout.channels == 1 else pixels


def rgb_from_image(
    message: RosImage,
    *,
    max_side_px: int = MAX_IMAGE_SIDE_PX,
    bit_depth: int = 0,
    notes: list[str] | None = None,
) -> NDArray[np.uint8]:
    """Convert any color or gray image to RGB uint8 (H, W, 3), C-contiguous.

    16-bit values are scaled, alpha is dropped, gray is repeated, Bayer patterns are interpolated
    bilinearly, YUV is BT.601 in video range, and 8UC3 and 8UC4 are read as BGR, the order of OpenCV.

    Args:
        message: the image.
        max_side_px: larger images are refused.
        bit_depth: how many bits the values of a 16-bit image have; 0 = the fewest of 8, 10, 12, 14 and 16
            that hold them all, because cameras with 10 to 14 bits send them in 16.
        notes: receives what is unusual, but possible.

    Raises:
        InvalidImageError: the message cannot be read as a color image.
    """
    pixels = array_from_image(message, max_side_px=max_side_px)
    return rgb_from_pixels(pixels, message.encoding, bit_depth=bit_depth, notes=notes)


def rgb_from_pixels(
    pixels: NDArray[Any], encoding: str, *, bit_depth: int = 0, notes: list[str] | None = None
) -> NDArray[np.uint8]:
    """Convert pixels in the layout of `array_from_image` to RGB uint8 (H, W, 3); see `rgb_from_image`.

    Raises:
        InvalidImageError: not a color or gray encoding, or a size that it does not allow.
    """
    if encoding in _DEPTH_LAYOUTS:
        raise depth_as_color(encoding)
    if encoding not in _COLOR_LAYOUTS:
        raise InvalidImageError(
            f"image encoding {encoding!r} is not a color encoding; "
            f"supported: {', '.join(SUPPORTED_ENCODINGS)}"
        )
    height, width = pixels.shape[:2]
    bits = _used_bits(pixels, bit_depth, notes)
    if encoding in _YUV_PLANAR:
        return _convert(pixels, f"YUV2RGB_{_YUV_PLANAR[encoding]}")
    if encoding in _YUV:
        if width % 2:
            raise InvalidImageError(f"a {encoding} image needs an even width, got {width}×{height}")
        return _convert(pixels, f"YUV2RGB_{_YUV[encoding]}")
    if encoding.startswith("bayer_"):
        if min(height, width) < 4:
            raise InvalidImageError(f"a Bayer image needs at least 4×4 pixels, got {width}×{height}")
        return as_u8(_convert(pixels, f"{_BAYER[encoding[6:10]]}2RGB"), bits)
    if pixels.ndim == 2:
        return _convert(as_u8(pixels, bits), "GRAY2RGB")
    source = ("RGB" if encoding.startswith("rgb") else "BGR") + ("A" if pixels.shape[2] == 4 else "")
    if source == "RGB":
        return np.ascontiguousarray(as_u8(pixels, bits))
    return _convert(as_u8(pixels, bits), f"{source}2RGB")


def depth_as_color(encoding: str) -> InvalidImageError:
    """Return the error for a depth image in the place of a color image."""
    return InvalidImageError(
        f"an image of encoding {encoding} is depth (REP 118), not color or gray",
        hint="depth belongs to the camera's depth_topic; gray images of more than 8 bits are mono16",
    )


def checked_size(message: RosImage, max_side_px: int) -> tuple[int, int, int]:
    """Return (height, width, step) after checking the sides."""
    height, width, step = int(message.height), int(message.width), int(message.step)
    if height == 0 or width == 0:
        raise InvalidImageError(f"the image has no pixels: {width}×{height}")
    if max(height, width) > max_side_px:
        raise InvalidImageError(f"the image is {width}×{height}, sides up to {max_side_px} px are allowed")
    return height, width, step


def unknown_encoding(encoding: str) -> InvalidImageError:
    """Return the error for an encoding that is in none of the tables."""
    supported = ", ".join(SUPPORTED_ENCODINGS)
    return InvalidImageError(f"unknown image encoding {encoding[:40]!r}; supported: {supported}")


def _used_bits(pixels: NDArray[Any], bit_depth: int, notes: list[str] | None) -> int:
    """Return how many bits the values have; 0 for `bit_depth` = by the largest value."""
    container = 8 * pixels.dtype.itemsize
    if container == 8 or bit_depth:
        return min(bit_depth or container, container)
    bits = used_bits(pixels)
    if bits < container and notes is not None:
        notes.append(
            f"the 16-bit image uses only {bits} bits and was brightened to match; set the camera's parameter "
            "bit_depth to keep the brightness constant"
        )
    return bits


def _convert(pixels: NDArray[Any], conversion: str) -> NDArray[Any]:
    """Run an OpenCV color conversion on native, contiguous memory."""
    import cv2  # imported late: an rgb8 camera never needs it

    native = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("="))
    converted: NDArray[Any] = cv2.cvtColor(native, getattr(cv2, f"COLOR_{conversion}"))
    return converted
