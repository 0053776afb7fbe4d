"""`sensor_msgs/CompressedImage` (JPEG and PNG) → NumPy. What is too large is refused before it is decoded.

A few kilobytes can claim to be gigabytes of pixels. Pillow reads the header first and decodes later, so the
size is known and checked before any memory is taken; and it refuses a truncated file, of which OpenCV returns
the part it has.
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
    """A JPEG or PNG image as RGB uint8 (H, W, 3), C-contiguous.

    The message's `format` is read as image transport "compressed" writes it: a Bayer image is compressed as
    the gray mosaic and interpolated here; "compressed rgb8" means that red and blue are exchanged in the
    file. An orientation tag is not obeyed: masks, depth and camera info belong to the pixels as they are.

    Raises:
        InvalidImageError: not JPEG or PNG, damaged, truncated, or sides over `max_side_px`.

    Source: `compressed_image_transport` of ros-perception/image_transport_plugins, and the comments in
    `sensor_msgs/CompressedImage`.
    """
    original, _, compressed = (part.strip() for part in message.format.partition(";"))
    data = memoryview(message.data).cast("B") if len(message.data) else memoryview(b"")
    pixels = picture_pixels(data, formats=("JPEG", "PNG"), max_side_px=max_side_px)
    if pixels.ndim == 2:
        bits = 8 * pixels.dtype.itemsize
        mosaic = original.startswith("bayer_")
        return rgb_from_pixels(pixels, f"{original[:10]}{bits}" if mosaic else f"mono{bits}")
    exchanged = _COLOR_ENCODING.fullmatch(original) is not None and "compressed bgr" not in compressed
    return rgb_from_pixels(pixels, "bgr8" if exchanged and compressed else "rgb8")


def picture_pixels(
    data: memoryview | bytes, *, formats: tuple[str, ...], max_side_px: int = MAX_IMAGE_SIDE_PX
) -> NDArray[Any]:
    """The pixels of an image file: uint8 (H, W, 3) RGB, or uint8 or uint16 (H, W) gray; alpha is dropped.

    Args:
        data: the whole file.
        formats: names of Pillow's formats that are accepted, whatever the data claim to be.
        max_side_px: checked against the file's header, before anything is decoded.

    Raises:
        InvalidImageError: another format, damaged, truncated, or too large.
    """
    from PIL import Image as Pillow  # here, because a raw camera never needs it

    try:
        with Pillow.open(io.BytesIO(data), formats=formats) as picture:
            width, height = picture.size
            if max(height, width) > max_side_px:
                raise _too_large(f"{width}×{height}", max_side_px)
            if picture.mode in ("I", "I;16", "I;16B"):
                return np.asarray(picture).astype(np.uint16)
            return np.asarray(picture if picture.mode in ("L", "RGB") else _plain(picture))
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning) as error:
        raise _too_large("too large to be opened", max_side_px) from error
    except InvalidImageError:
        raise
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, struct.error and more
        raise InvalidImageError(
            f"the compressed image ({len(data)} bytes) cannot be decoded as {' or '.join(formats)}: {error}"
        ) from error


def _plain(picture: Any) -> Any:
    return picture.convert("L" if picture.mode in ("1", "LA") else "RGB")


def _too_large(size: str, max_side_px: int) -> InvalidImageError:
    return InvalidImageError(f"the image is {size}, sides up to {max_side_px} px are allowed")
