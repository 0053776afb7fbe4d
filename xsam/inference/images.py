"""Images as callers have them (files, Pillow images, arrays) → RGB uint8 arrays."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.errors import InvalidImageError
from xsam.types.masks import MAX_IMAGE_SIDE_PX
from xsam.types.requests import check_rgb


def as_rgb(image: Any) -> NDArray[np.uint8]:
    """Return the pixels (H, W, 3) of a file, a Pillow image or an array.

    Raises:
        InvalidImageError: the file cannot be read, or the pixels are not 8-bit.
    """
    if isinstance(image, (str, os.PathLike)):
        return read_image(Path(image))
    pillow = sys.modules.get("PIL.Image")  # an image of Pillow cannot exist without it
    if pillow is not None and isinstance(image, pillow.Image):
        return _pillow_pixels(image)
    check_rgb(image)
    pixels: NDArray[np.uint8] = image
    return pixels


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an RGB image (H, W, 3), rotated by its EXIF orientation; 16-bit files are reduced to 8 bits.

    Raises:
        InvalidImageError: the file cannot be read, is not an image, or is too large.
    """
    import cv2

    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise InvalidImageError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    _check_header(path, content)
    try:
        bgr = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    except cv2.error:
        bgr = None
    if bgr is None:
        raise InvalidImageError(f"{path} is not an image that OpenCV can read")
    return np.ascontiguousarray(bgr[..., ::-1], dtype=np.uint8)


def _check_header(path: Path, content: bytes) -> None:
    """Raise an error if the header names a size that is too large; decoding would take gigabytes."""
    import io
    import warnings

    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                width, height = image.size
    except Image.DecompressionBombError as error:
        raise InvalidImageError(f"{path} is too large: {error}") from error
    except Exception:  # a format that only OpenCV knows, or not an image
        return
    if max(width, height) > MAX_IMAGE_SIDE_PX:
        raise InvalidImageError(f"{path} is {width}×{height}, sides up to {MAX_IMAGE_SIDE_PX} px are allowed")


def _pillow_pixels(image: Any) -> NDArray[np.uint8]:
    from PIL import ImageOps

    if image.mode.split(";")[0] in ("I", "F"):  # `convert` would cut the values off at 255
        raise InvalidImageError(
            f"the Pillow image has mode {image.mode!r}, which is not 8-bit",
            hint="scale its values to 0…255 and convert it to RGB",
        )
    try:
        return np.array(ImageOps.exif_transpose(image).convert("RGB"), np.uint8)
    except (OSError, ValueError, SyntaxError) as error:  # Pillow decodes lazily
        raise InvalidImageError(f"cannot decode the Pillow image: {error}") from error
