"""`sensor_msgs/CompressedImage` (JPEG and PNG) → NumPy.

A file of a few kilobytes can claim gigabytes of pixels. Pillow reads the header first and decodes later, so
the size is checked before any memory is allocated. It also refuses truncated files, where OpenCV silently
returns the part that arrived.
"""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage

from xsam.errors import InvalidImageError
from xsam.types.requests import MAX_IMAGE_SIDE_PX
from xsam_ros.messages.images import rgb_from_pixels

_COLOR_ENCODING = re.compile(r"(rgb|bgr)a?(8|16)|yuv422(_yuy2)?|uyvy|yuyv|nv21|nv24")


def rgb_from_compressed(
    message: CompressedImage, *, max_side_px: int = MAX_IMAGE_SIDE_PX
) -> NDArray[np.uint8]:
    """Decode a JPEG or PNG message to RGB uint8 (H, W, 3), C-contiguous.

    The `format` field follows image transport "compressed": a Bayer image is compressed as its gray mosaic
    and interpolated here, and "compressed rgb8" means that red and blue are swapped in the file. EXIF
    orientation is ignored, because masks, depth and camera info refer to the stored pixels.

    Raises:
        InvalidImageError: not JPEG or PNG, damaged, truncated, or a side over `max_side_px`.

    Source: `compressed_image_transport` of ros-perception/image_transport_plugins, and the comments in
    `sensor_msgs/CompressedImage`.
    """
    original, _, compressed = (part.strip() for part in message.format.partition(";"))
    data = memoryview(message.data).cast("B") if len(message.data) else memoryview(b"")
    pixels = decode_image_file(data, formats=("JPEG", "PNG"), max_side_px=max_side_px)
    if pixels.ndim == 2:
        bits = 8 * pixels.dtype.itemsize
        mosaic = original.startswith("bayer_")
        return rgb_from_pixels(pixels, f"{original[:10]}{bits}" if mosaic else f"mono{bits}")
    swapped = _COLOR_ENCODING.fullmatch(original) is not None and "compressed bgr" not in compressed
    return rgb_from_pixels(pixels, "bgr8" if swapped and compressed else "rgb8")


def decode_image_file(
    data: memoryview | bytes, *, formats: tuple[str, ...], max_side_px: int = MAX_IMAGE_SIDE_PX
) -> NDArray[Any]:
    """Decode an image file, dropping alpha.

    Args:
        data: the whole file.
        formats: Pillow's names of the accepted formats; each one is a decoder exposed to strangers.
        max_side_px: checked against the file header, before anything is decoded.

    Returns:
        uint8 (H, W, 3) RGB, or uint8 or uint16 (H, W) gray.

    Raises:
        InvalidImageError: another format, damaged, truncated, or too large.
    """
    from PIL import Image as Pillow  # imported late: a raw camera never needs it

    try:
        with Pillow.open(io.BytesIO(data), formats=formats) as image:
            width, height = image.size
            if max(height, width) > max_side_px:
                raise _too_large(f"{width}×{height}", max_side_px)
            if image.mode in ("I", "I;16", "I;16B"):
                return np.asarray(image).astype(np.uint16)
            return np.asarray(image if image.mode in ("L", "RGB") else _to_gray_or_rgb(image))
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning) as error:
        raise _too_large("too large to open", max_side_px) from error
    except InvalidImageError:
        raise
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, struct.error and more
        raise InvalidImageError(
            f"the compressed image ({len(data)} bytes) cannot be decoded as {' or '.join(formats)}: {error}"
        ) from error


def _to_gray_or_rgb(image: Any) -> Any:
    return image.convert("L" if image.mode in ("1", "LA") else "RGB")


def _too_large(size: str, max_side_px: int) -> InvalidImageError:
    return InvalidImageError(f"the image is {size}, sides up to {max_side_px} px are allowed")
