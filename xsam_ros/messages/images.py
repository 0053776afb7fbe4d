"""`sensor_msgs/Image` ↔ NumPy, for every common encoding, padded rows and both byte orders.

Pixels come out the same as from `cv_bridge`, which is used only for encodings unknown here, if it is
installed; for the others it would only add a copy. An unpadded rgb8 image is not copied at all, so it
converts in microseconds; the others take about a millisecond at 720p.

Depth images are in `depth_images`, compressed color in `compressed_images`.
"""

from __future__ import annotations

import array
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from xsam.errors import InvalidImageError
from xsam.types.pixels import as_u8, used_bits
from xsam.types.requests import MAX_IMAGE_SIDE_PX


class _Layout(NamedTuple):
    dtype: str  # of one channel, byte order left out
    channels: int
    planar: bool = False  # H rows of luma, then H/2 rows of chroma


# OpenCV names a Bayer pattern after its second row and column, ROS after the upper left corner.
_BAYER = {"rggb": "BayerBG", "bggr": "BayerRG", "gbrg": "BayerGR", "grbg": "BayerGB"}
_YUV = {"yuv422": "UYVY", "uyvy": "UYVY", "yuv422_yuy2": "YUY2", "yuyv": "YUY2"}
_YUV_PLANAR = {"nv12": "NV12", "nv21": "NV21"}

_COLOR_LAYOUTS = {
    **{f"{order}{bits}": _Layout(f"u{bits // 8}", 3) for order in ("rgb", "bgr") for bits in (8, 16)},
    **{f"{order}a{bits}": _Layout(f"u{bits // 8}", 4) for order in ("rgb", "bgr") for bits in (8, 16)},
    **{name: _Layout("u1", 1) for name in ("mono8", "8UC1")},
    **{name: _Layout("u2", 1) for name in ("mono16", "16UC1")},
    **{name: _Layout("u1", 3) for name in ("8UC3",)},  # blue first, as in OpenCV
    **{name: _Layout("u1", 4) for name in ("8UC4",)},
    **{f"bayer_{pattern}{bits}": _Layout(f"u{bits // 8}", 1) for pattern in _BAYER for bits in (8, 16)},
    **{name: _Layout("u1", 2) for name in _YUV},
    **{name: _Layout("u1", 1, planar=True) for name in _YUV_PLANAR},
}
_LAYOUTS = {**_COLOR_LAYOUTS, "32FC1": _Layout("f4", 1)}

SUPPORTED_ENCODINGS = tuple(_COLOR_LAYOUTS)
"""Encodings that `rgb_from_image` handles without `cv_bridge`."""


def array_from_image(message: Image, *, max_side_px: int = MAX_IMAGE_SIDE_PX) -> NDArray[Any]:
    """View the pixels of a message in place, read-only.

    Nothing is allocated, and size and step are checked against the data that actually arrived.

    Returns:
        (H, W) or (H, W, C) in the message's byte order. For nv12 and nv21 (H + H/2, W): luma, then the
        interleaved chroma below it.

    Raises:
        InvalidImageError: unknown encoding, no pixels, a side over `max_side_px`, or too little data.
    """
    encoding = message.encoding
    layout = _LAYOUTS.get(encoding)
    if layout is None:
        raise _unknown(encoding)
    height, width, step = _checked_size(message, max_side_px)
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
    message: Image,
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
    if message.encoding not in _LAYOUTS:
        return _rgb_from_cv_bridge(message, max_side_px)
    pixels = array_from_image(message, max_side_px=max_side_px)
    return rgb_from_pixels(pixels, message.encoding, bit_depth=bit_depth, notes=notes)


def rgb_from_pixels(
    pixels: NDArray[Any], encoding: str, *, bit_depth: int = 0, notes: list[str] | None = None
) -> NDArray[np.uint8]:
    """Convert pixels in the layout of `array_from_image` to RGB uint8 (H, W, 3); see `rgb_from_image`.

    Raises:
        InvalidImageError: not a color or gray encoding, or a size that it does not allow.
    """
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


def image_from_array(pixels: NDArray[Any], encoding: str, header: Header | None = None) -> Image:
    """Build a message (little-endian, unpadded rows) from an array.

    Args:
        pixels: with exactly the dtype and channels of `encoding`.
        encoding: a key of the table above, for example "rgb8", "mono16" or "32FC1".
        header: shared with the message, not copied.

    Raises:
        ValueError: dtype or shape does not fit the encoding, a bug in the caller.
    """
    layout = _LAYOUTS[encoding]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.ndim not in (2, 3) or pixels.dtype != np.dtype(layout.dtype) or channels != layout.channels:
        raise ValueError(f"{pixels.dtype} {pixels.shape} is not a {encoding} image")
    if layout.planar and (pixels.shape[0] % 3 or pixels.shape[1] % 2):
        raise ValueError(f"{pixels.shape} is not the shape (H + H/2, W) of a {encoding} image")
    little = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("<"))
    message = Image(
        height=pixels.shape[0] * 2 // 3 if layout.planar else pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        step=pixels.shape[1] * channels * pixels.dtype.itemsize,
        is_bigendian=0,
    )
    if header is not None:
        message.header = header
    data = array.array("B")  # assigning bytes or an ndarray is checked byte by byte, 170 ms at 720p
    data.frombytes(little.data.cast("B") if little.size else b"")
    message.data = data
    return message


def _checked_size(message: Image, max_side_px: int) -> tuple[int, int, int]:
    """Return (height, width, step) after checking the sides."""
    height, width, step = int(message.height), int(message.width), int(message.step)
    if height == 0 or width == 0:
        raise InvalidImageError(f"the image has no pixels: {width}×{height}")
    if max(height, width) > max_side_px:
        raise InvalidImageError(f"the image is {width}×{height}, sides up to {max_side_px} px are allowed")
    return height, width, step


def _unknown(encoding: str) -> InvalidImageError:
    supported = ", ".join(SUPPORTED_ENCODINGS)
    return InvalidImageError(f"unknown image encoding {encoding[:40]!r}; supported: {supported}")


def _rgb_from_cv_bridge(message: Image, max_side_px: int) -> NDArray[np.uint8]:
    """Convert an encoding that is unknown here, if `cv_bridge` is installed and knows it."""
    try:
        from cv_bridge import CvBridge
    except ImportError as error:
        raise _unknown(message.encoding) from error
    height, width, step = _checked_size(message, max_side_px)
    if step < width or len(message.data) < step * height:
        raise InvalidImageError(
            f"a {width}×{height} image with a step of {step} has only {len(message.data)} bytes"
        )
    try:
        rgb = np.ascontiguousarray(CvBridge().imgmsg_to_cv2(message, "rgb8"))
    except Exception as error:  # CvBridgeError, and whatever OpenCV and the C++ part raise
        raise _unknown(message.encoding) from error
    if rgb.shape != (height, width, 3) or rgb.dtype != np.uint8:
        raise _unknown(message.encoding)
    return rgb


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
