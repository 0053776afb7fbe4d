"""A frame as the bytes that are sent, and their id."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import Literal

import numpy as np

from xsam.errors import InvalidOptionError
from xsam.types.requests import Frame
from xsam.wire.models import SizeBody, raw_rgb_header

Encoding = Literal["raw", "png", "jpeg"]
ENCODINGS: tuple[Encoding, ...] = ("raw", "png", "jpeg")
_EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPicture:
    """An image as it is sent."""

    id: str  # sha256, as the server computes it
    content: bytes
    raw: SizeBody | None = None  # size of raw RGB; None = a file
    note: str = ""  # what was lost; "" = nothing


def picture_of(frame: Frame, encoding: Encoding, jpeg_quality: int) -> EncodedPicture:
    """Return a frame as it is sent: the camera's own file if there is one, else in the given encoding.

    Args:
        frame: the frame.
        encoding: "raw" and "png" lose nothing; "jpeg" does, and the note says so.
        jpeg_quality: 1 to 100.
    """
    if frame.encoded is not None and _is_same_picture(frame.encoded, frame.image_hw):
        return EncodedPicture(id=hashlib.sha256(frame.encoded).hexdigest(), content=frame.encoded)
    height, width = frame.image_hw
    if encoding == "raw":
        pixels = np.ascontiguousarray(frame.rgb)
        digest = hashlib.sha256(raw_rgb_header(width, height))
        digest.update(pixels.data)
        return EncodedPicture(
            id=digest.hexdigest(), content=pixels.tobytes(), raw=SizeBody(width=width, height=height)
        )
    import cv2

    if encoding == "png":
        suffix, options, note = ".png", [cv2.IMWRITE_PNG_COMPRESSION, 1], ""
    else:
        suffix, options = ".jpg", [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality]
        note = f"the image was sent as JPEG of quality {jpeg_quality}: masks may differ from the original's"
    done, encoded = cv2.imencode(suffix, cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise InvalidOptionError(f"this OpenCV cannot write {encoding}", hint='use encoding="raw"')
    content = encoded.tobytes()
    return EncodedPicture(id=hashlib.sha256(content).hexdigest(), content=content, note=note)


def _is_same_picture(encoded: bytes, image_hw: tuple[int, int]) -> bool:
    """Tell whether the server sees a file as its sender does: it turns images by their EXIF orientation."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded), formats=("JPEG", "PNG", "WEBP")) as image:
            turned = image.getexif().get(_EXIF_ORIENTATION, 1) != 1
            return image.size == (image_hw[1], image_hw[0]) and not turned
    except Exception:  # Pillow raises many kinds for damaged files; the pixels are there in any case
        return False
