"""What is a usable image, and pixels with more than 8 bits → uint8."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.errors import InvalidImageError
from xsam.types.masks import MAX_IMAGE_SIDE_PX

MAX_JPEG_SCANS = 64
"""Of a progressive file: programs write about ten, and a file of thousands takes minutes to decode."""


def used_bits(pixels: NDArray[np.unsignedinteger[Any]]) -> int:
    """Return the fewest of 8, 10, 12, 14 and 16 bits that hold all values of a color or gray image.

    Cameras with 10 to 14 bits store them in 16, where they look nearly black.

    Args:
        pixels: (H, W) or (H, W, C), unsigned; a fourth channel is alpha and does not count.
    """
    container = 8 * pixels.dtype.itemsize
    if container == 8:
        return 8
    largest = int((pixels[..., :3] if pixels.ndim == 3 else pixels).max())
    return next((bits for bits in (8, 10, 12, 14) if 0 < largest < 1 << bits <= 1 << container), container)


def is_deep(image: Any) -> bool:
    """Tell whether a file has more than 8 bits in a channel, of which Pillow keeps the upper 8 in colors.

    Args:
        image: opened by Pillow, and not decoded yet: then nobody can tell.
    """
    return any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def decode_deep(content: bytes) -> NDArray[np.uint8]:
    """Decode a file with more than 8 bits in a channel, scaled by the bits in use; alpha is dropped.

    Args:
        content: the file. Its orientation tag is ignored.

    Returns:
        (H, W, 3) RGB.

    Raises:
        ValueError: OpenCV cannot decode it.
    """
    import cv2  # imported late: `import xsam` stays fast

    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        bgr: Any = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        bgr = None
    if bgr is None or bgr.dtype not in (np.uint8, np.uint16):
        raise ValueError("its pixels have more than 8 bits and cannot be decoded")
    return np.asarray(cv2.cvtColor(as_u8(bgr, used_bits(bgr)), cv2.COLOR_BGR2RGB), np.uint8)


def has_too_many_scans(content: bytes | memoryview) -> bool:
    """Tell whether a JPEG file, also one with a preview behind it, has more than `MAX_JPEG_SCANS`."""
    return bytes(content[:3]) == b"\xff\xd8\xff" and bytes(content).count(b"\xff\xda") > MAX_JPEG_SCANS


def as_u8(pixels: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Scale 16-bit pixels so that 2^bits - 1 becomes 255, rounding to nearest; return 8-bit pixels as is."""
    if pixels.dtype.itemsize == 1:
        return pixels
    largest = (1 << bits) - 1
    clipped = np.minimum(pixels, largest).astype(np.uint32)
    scaled: NDArray[np.uint8] = ((clipped * 255 + largest // 2) // largest).astype(np.uint8)
    return scaled


def check_rgb(rgb: NDArray[Any]) -> None:
    """Raise `InvalidImageError` unless `rgb` is a usable uint8 (H, W, 3) image."""
    if not isinstance(rgb, np.ndarray):
        raise InvalidImageError(f"an image must be a NumPy array, got {type(rgb).__name__}")
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise InvalidImageError(f"an image must be uint8 (H, W, 3) RGB, got {rgb.dtype} {rgb.shape}")
    height, width = rgb.shape[:2]
    if height == 0 or width == 0:
        raise InvalidImageError(f"the image has no pixels: {width}×{height}")
    if max(height, width) > MAX_IMAGE_SIDE_PX:
        raise InvalidImageError(
            f"the image is {width}×{height}, sides up to {MAX_IMAGE_SIDE_PX} px are allowed"
        )
