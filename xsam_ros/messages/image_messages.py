"""NumPy → `sensor_msgs/Image`, and images in encodings that only `cv_bridge` knows."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from xsam.errors import InvalidImageError
from xsam.media.messages import images
from xsam.media.messages.images import LAYOUTS, checked_size, unknown_encoding
from xsam.types.requests import MAX_IMAGE_SIDE_PX


def rgb_from_image(
    message: Image,
    *,
    max_side_px: int = MAX_IMAGE_SIDE_PX,
    bit_depth: int = 0,
    notes: list[str] | None = None,
) -> NDArray[np.uint8]:
    """Convert an image as `xsam.media.messages.images` does, or with `cv_bridge` if it knows more encodings.

    For encodings that are known here, `cv_bridge` would only add a copy.

    Raises:
        InvalidImageError: the message cannot be read as a color image.
    """
    if message.encoding not in LAYOUTS:
        return _rgb_from_cv_bridge(message, max_side_px)
    return images.rgb_from_image(message, max_side_px=max_side_px, bit_depth=bit_depth, notes=notes)


def image_from_array(pixels: NDArray[Any], encoding: str, header: Header | None = None) -> Image:
    """Build a message (little-endian, unpadded rows) from an array.

    Args:
        pixels: with exactly the dtype and channels of `encoding`.
        encoding: a key of the table above, for example "rgb8", "mono16" or "32FC1".
        header: shared with the message, not copied.

    Raises:
        ValueError: dtype or shape does not fit the encoding, a bug in the caller.
    """
    layout = LAYOUTS[encoding]
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


def _rgb_from_cv_bridge(message: Image, max_side_px: int) -> NDArray[np.uint8]:
    """Convert an encoding that is unknown here, if `cv_bridge` is installed and knows it."""
    try:
        from cv_bridge import CvBridge
    except ImportError as error:
        raise unknown_encoding(message.encoding) from error
    height, width, step = checked_size(message, max_side_px)
    if step < width or len(message.data) < step * height:
        raise InvalidImageError(
            f"a {width}×{height} image with a step of {step} has only {len(message.data)} bytes"
        )
    try:
        rgb = np.ascontiguousarray(CvBridge().imgmsg_to_cv2(message, "rgb8"))
    except Exception as error:  # CvBridgeError, and whatever OpenCV and the C++ part raise
        raise unknown_encoding(message.encoding) from error
    if rgb.shape != (height, width, 3) or rgb.dtype != np.uint8:
        raise unknown_encoding(message.encoding)
    return rgb
