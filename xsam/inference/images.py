"""Images as callers have them (files, Pillow images, arrays) → RGB uint8 arrays."""

from __future__ import annotations

import io
import itertools
import os
import stat
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xsam.errors import InvalidImageError, UnknownCameraError
from xsam.types.masks import MAX_IMAGE_SIDE_PX
from xsam.types.pixels import MAX_JPEG_SCANS, as_u8, has_too_many_scans, is_deep, used_bits
from xsam.types.requests import CameraRef, Frame, check_rgb

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

ImageOrFrame: TypeAlias = "NDArray[np.uint8] | Frame | str | Path | PillowImage"

MAX_FILE_BYTES = 1 << 30
_EXIF_ORIENTATION = 0x0112
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG"
MAX_CLIP_FRAMES = 64  # as many as the language model of X2SAM was shown at most

# What Pillow reads where OpenCV gives up. Not all it knows: for EPS it would start Ghostscript.
_PILLOW_FORMATS = ("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP", "TGA", "ICO", "PCX")
# Bytes near the start of a file → what it is.
_OTHER_FILES: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the image; fetch it with `git lfs pull`"),
    (b"<!doctype html", "an HTML page; the server sent it instead of the image"),
    (b"<html", "an HTML page; the server sent it instead of the image"),
    (b"<svg", "an SVG drawing; export it as PNG"),
    (b"%pdf", "a PDF document; export the page as PNG"),
    (b"ftyphei", "a HEIC photo; convert it to JPEG or PNG"),
    (b"ftypmif1", "a HEIF photo; convert it to JPEG or PNG"),
    (b"ftypavif", "a damaged AVIF picture"),
    (b"jp2 ", "a damaged JPEG 2000 picture"),
    (b"ftyp", "a video; extract a frame as PNG"),
    (b"\x1a\x45\xdf\xa3", "a video; extract a frame as PNG"),
    (b"\x93numpy", "a NumPy array; pass the array itself"),
)


def as_frame(source: ImageOrFrame | CameraRef, notes: list[str] | None = None) -> Frame:
    """Return a frame of an image in any form; a frame as it is.

    Args:
        source: a frame, or anything that `as_rgb` takes.
        notes: see `as_rgb`.

    Raises:
        InvalidImageError: see `as_rgb`.
        UnknownCameraError: the source is a camera.
    """
    if isinstance(source, CameraRef):
        raise UnknownCameraError(
            f"unknown camera {source.name!r}: the in-process engine has no cameras",
            hint="pass the image itself",
        )
    return source if isinstance(source, Frame) else Frame(rgb=as_rgb(source, notes))


def as_clip(sources: Sequence[ImageOrFrame], notes: list[str] | None = None) -> list[Frame]:
    """Return the frames of a clip, all of one size.

    Args:
        sources: images as `as_frame` takes them, or an array (T, H, W, 3).
        notes: see `as_rgb`.

    Raises:
        InvalidImageError: there is none, there are more than `MAX_CLIP_FRAMES`, their sizes differ, or one of
            them cannot be read.
    """
    if isinstance(sources, (str, bytes, os.PathLike, Frame)) or not isinstance(sources, Iterable):
        raise InvalidImageError(f"a clip is a sequence of images, got {type(sources).__name__}")
    given = list(itertools.islice(sources, MAX_CLIP_FRAMES + 1))
    if not 0 < len(given) <= MAX_CLIP_FRAMES:
        raise InvalidImageError(
            f"a clip has from 1 to {MAX_CLIP_FRAMES} frames, got {'more' if given else 'none'}",
            hint="follow a longer video with open_session" if given else "",
        )
    frames = [as_frame(source, notes) for source in given]
    height, width = frames[0].image_hw
    for index, frame in enumerate(frames):
        if frame.image_hw != (height, width):
            raise InvalidImageError(
                f"frame {index} of the clip has {frame.image_hw[1]}×{frame.image_hw[0]} pixels, "
                f"the first one {width}×{height}",
                hint="all frames of a clip must have one size",
            )
    return frames


def as_rgb(image: Any, notes: list[str] | None = None) -> NDArray[np.uint8]:
    """Return the pixels (H, W, 3) of a file, a Pillow image or an array.

    Args:
        image: path, Pillow image, or uint8 array (H, W, 3).
        notes: receives what is unusual about a file, but possible.

    Raises:
        InvalidImageError: the file cannot be read, or the pixels are not 8-bit.
    """
    if isinstance(image, (str, os.PathLike)):
        return read_image(Path(image), notes)
    pillow = sys.modules.get("PIL.Image")  # an image of Pillow cannot exist without it
    if pillow is not None and isinstance(image, pillow.Image):
        return _pillow_pixels(image, "the Pillow image")
    check_rgb(image)
    pixels: NDArray[np.uint8] = image
    return pixels


def read_image(path: Path, notes: list[str] | None = None) -> NDArray[np.uint8]:
    """Read an RGB image (H, W, 3), rotated by its EXIF orientation.

    Values of more than 8 bits are scaled by the number of bits in use: cameras store 10 to 14 bits in 16.

    Args:
        path: a regular file of at most `MAX_FILE_BYTES`.
        notes: receives what is unusual about the file, but possible.

    Raises:
        InvalidImageError: the file cannot be read, is not an image, or is too large.
    """
    content = _read_file(path)
    return decode_image(content, notes, name=str(path), short_name=path.name)


def decode_image(
    content: bytes,
    notes: list[str] | None = None,
    *,
    name: str = "the image",
    short_name: str = "",
    formats: tuple[str, ...] = _PILLOW_FORMATS,
    whole: bool = False,
) -> NDArray[np.uint8]:
    """Decode the content of an image file, as `read_image` does.

    Args:
        content: of the file.
        notes: receives what is unusual about it, but possible.
        name: for errors.
        short_name: for notes; "" = `name`.
        formats: what Pillow may try where OpenCV gives up, in its names.
        whole: refuse a file that is cut off also where OpenCV (before 4.14) returns the part that arrived.

    Raises:
        InvalidImageError: it is not an image, or too large.
    """
    import cv2

    count = _check_header(name, content)
    if has_too_many_scans(content):
        raise InvalidImageError(
            f"{name} is a JPEG file of more than {MAX_JPEG_SCANS} scans", hint="save it as a baseline JPEG"
        )
    if notes is not None and count > 1:
        notes.append(f"{short_name or name} has {count} frames or pages, of which the first is used")
    if whole:
        is_jpeg = content.startswith(_JPEG)
        is_deep_png = content.startswith(_PNG) and content[24:25] == b"\x10"
        if not is_jpeg and not is_deep_png:  # Pillow keeps eight bits a channel, whichever are used
            return _decode_with_pillow(name, content, formats)
        if not is_jpeg or not _opencv_refuses_parts():
            _check_whole(name, content, formats)
    try:
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
        bgr: Any = cv2.imdecode(np.frombuffer(content, np.uint8), flags) if content else None
    except cv2.error:
        bgr = None
    if bgr is None:
        return _decode_with_pillow(name, content, formats)
    if bgr.dtype not in (np.uint8, np.uint16):
        raise InvalidImageError(
            f"{name} has {bgr.dtype} pixels, of which the range is not known",
            hint="scale its values to 0…255 and save it with 8 bits",
        )
    bits = used_bits(bgr)
    if notes is not None and bits < 8 * bgr.dtype.itemsize:
        notes.append(f"{short_name or name} uses only {bits} of its 16 bits and was brightened to match")
    return np.asarray(cv2.cvtColor(as_u8(bgr, bits), cv2.COLOR_BGR2RGB), np.uint8)  # NumPy takes 1 ms for VGA


def _read_file(path: Path) -> bytes:
    """Read a file of bounded size; never wait for a pipe or a device."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
            raise InvalidImageError(f"{path} is not a regular file", hint="save the image to a file first")
        if found.st_size > MAX_FILE_BYTES:
            raise InvalidImageError(
                f"{path} has {found.st_size / 1e9:.1f} GB, at most {MAX_FILE_BYTES / 1e9:.1f} GB are allowed"
            )
        with path.open("rb") as stream:
            return stream.read(MAX_FILE_BYTES)  # files under /proc have a size of 0
    except (OSError, ValueError) as error:
        raise InvalidImageError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def _check_header(name: str, content: bytes) -> int:
    """Return the number of frames of an animation or pages of a document, 1 if it is not known.

    Raises:
        InvalidImageError: the header names a size that is too large; decoding would take gigabytes.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                width, height = image.size
                # Phones put a preview behind a photo (MPO): it is no other frame.
                count = 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise InvalidImageError(f"{name} is too large: at most {limit} megapixels are allowed") from error
    except Exception:  # a format that only OpenCV knows, or not an image
        return 1
    _check_side(name, width, height)
    return count


def _check_side(name: str, width: int, height: int) -> None:
    if max(width, height) > MAX_IMAGE_SIDE_PX:
        raise InvalidImageError(f"{name} is {width}×{height}, sides up to {MAX_IMAGE_SIDE_PX} px are allowed")


def _opencv_refuses_parts() -> bool:
    """Return whether this OpenCV refuses a JPEG file that is cut off: older ones return what has arrived."""
    import cv2

    return tuple(int(part) for part in cv2.__version__.split(".")[:2]) >= (4, 14)


def _check_whole(name: str, content: bytes, formats: tuple[str, ...]) -> None:
    """Raise an error if an image file is damaged or cut off."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=formats) as image:
            image.load()
    except Exception as error:
        raise InvalidImageError(f"cannot decode {name}: {error}") from error


def _decode_with_pillow(name: str, content: bytes, formats: tuple[str, ...]) -> NDArray[np.uint8]:
    """Read what OpenCV cannot, or say what the file is."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content), formats=formats)
            return _pillow_pixels(image, name)
    except InvalidImageError:
        raise
    except Exception as error:
        start = content[:512].lower()
        what = "empty" if not content else next((text for magic, text in _OTHER_FILES if magic in start), "")
        raise InvalidImageError(f"{name} is {what or 'not an image that can be read'}") from error


def _pillow_pixels(image: Any, name: str) -> NDArray[np.uint8]:
    from PIL import ImageOps

    if image.mode.split(";")[0] in ("I", "F"):  # `convert` would cut the values off at 255
        raise InvalidImageError(
            f"{name} has mode {image.mode!r}, which is not 8-bit",
            hint="scale its values to 0…255 and convert it to RGB",
        )
    _check_side(name, *image.size)
    if is_deep(image):  # `convert` would keep the upper 8 bits: 10 to 14 in use are nearly black
        raise InvalidImageError(
            f"{name} has more than 8 bits in a channel", hint="pass the path of the file, or 8-bit pixels"
        )
    try:
        upright = image.getexif().get(_EXIF_ORIENTATION, 1) == 1
        turned = image if upright else ImageOps.exif_transpose(image)  # which copies in any case
        if turned.mode == "P":  # Pillow warns if a palette with transparency becomes RGB at once
            turned = turned.convert("RGBA")
        return np.array(turned if turned.mode == "RGB" else turned.convert("RGB"), np.uint8)
    except (OSError, ValueError, SyntaxError) as error:  # Pillow decodes lazily
        raise InvalidImageError(f"cannot decode {name}: {error}") from error
