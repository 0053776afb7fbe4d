"""Bytes from a client → a frame: the size is read from the header and checked before anything is decoded."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from xsam.errors import InvalidImageError, RequestTooLargeError
from xsam.inference.images import decode_image
from xsam.types.pixels import MAX_JPEG_SCANS, has_too_many_scans
from xsam.types.requests import Frame, check_rgb
from xsam.wire.models import SizeBody, raw_rgb_header
from xsam_server.frames import KeptFrame

FORMATS = ("JPEG", "PNG", "WEBP")


def frame_id(image: bytes, raw: SizeBody | None) -> str:
    """Return the id of an image as it was sent: its sha256; raw pixels count as the PPM file of them."""
    digest = hashlib.sha256(b"" if raw is None else raw_rgb_header(raw.width, raw.height))
    digest.update(image)
    return digest.hexdigest()


def decode(
    image: bytes,
    raw: SizeBody | None,
    *,
    identifier: str,
    max_pixels: int,
    take_memory: Callable[[int], None],
) -> KeptFrame:
    """Decode an image.

    Args:
        image: an image file, or raw RGB.
        raw: size of raw RGB; None = a file.
        identifier: see `frame_id`.
        max_pixels: more are refused.
        take_memory: called with the bytes of the pixels before they are allocated; may raise.

    Raises:
        InvalidImageError: it is no JPEG, PNG or WebP file, damaged, or raw RGB of another size.
        RequestTooLargeError: it has too many pixels, or a JPEG file too many scans.
    """
    width, height = (raw.width, raw.height) if raw is not None else _size_in_header(image)
    if width * height > max_pixels:
        raise RequestTooLargeError(
            f"the image has {width}×{height} = {width * height / 1e6:.1f} megapixels, at most"
            f" {max_pixels / 1e6:.1f} are allowed"
        )
    take_memory(width * height * 3)
    notes: list[str] = []
    rgb = (
        _raw(image, width, height)
        if raw is not None
        else decode_image(image, notes, formats=FORMATS, whole=True)
    )
    check_rgb(rgb)
    if {rgb.shape[0], rgb.shape[1]} != {height, width}:  # EXIF may have turned it
        raise InvalidImageError(
            f"the header of the image says {width}×{height}, its pixels are {rgb.shape[1]}×{rgb.shape[0]}"
        )
    rgb.flags.writeable = False
    return KeptFrame(id=identifier, frame=Frame(rgb=rgb), notes=tuple(notes))


def _raw(image: bytes, width: int, height: int) -> NDArray[np.uint8]:
    if len(image) != width * height * 3:
        raise InvalidImageError(
            f"raw RGB of {width}×{height} has {width * height * 3} bytes, got {len(image)}",
            hint="send 3 bytes a pixel, row by row",
        )
    return np.frombuffer(image, np.uint8).reshape(height, width, 3)


def _size_in_header(image: bytes) -> tuple[int, int]:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(image), formats=FORMATS) as opened:
                size = opened.size
    except Image.DecompressionBombError:
        raise RequestTooLargeError("the header of the image names a size that no camera has") from None
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise InvalidImageError(
            "the image is no JPEG, PNG or WebP file",
            hint="raw RGB needs its size as `image` in the request, and the type application/octet-stream",
        ) from error
    if has_too_many_scans(image):
        raise RequestTooLargeError(
            f"the JPEG file has more than {MAX_JPEG_SCANS} scans", hint="save it as a baseline JPEG"
        )
    return size
