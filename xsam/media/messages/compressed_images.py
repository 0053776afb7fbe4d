"""`sensor_msgs/CompressedImage` (JPEG and PNG) → NumPy.

A file of a few kilobytes can claim gigabytes of pixels. Pillow reads the header first and decodes later, so
the size is checked before any memory is allocated. It also refuses truncated files, where OpenCV silently
returns the part that arrived.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.errors import InvalidImageError
from xsam.media.messages.fields import RosCompressedImage
from xsam.media.messages.images import DEPTH_ENCODINGS, depth_as_color, rgb_from_pixels
from xsam.types.pixels import MAX_JPEG_SCANS, has_too_many_scans
from xsam.types.requests import MAX_IMAGE_SIDE_PX

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_FORMATS = (  # name, offset, first bytes
    ("PNG", 0, PNG_SIGNATURE),
    ("JPEG", 0, b"\xff\xd8\xff"),
    ("WebP", 8, b"WEBP"),
    ("GIF", 0, b"GIF8"),
    ("TIFF", 0, b"II*\0"),
    ("TIFF", 0, b"MM\0*"),
    ("AVIF", 4, b"ftypavif"),
    ("HEIF", 4, b"ftypheic"),
    ("JPEG XL", 0, b"\xff\x0a"),
    ("JPEG XL", 4, b"JXL "),
    ("JPEG 2000", 4, b"jP  "),
    ("JPEG 2000", 0, b"\xff\x4f\xff\x51"),
    ("zstd", 0, b"\x28\xb5\x2f\xfd"),
    ("BMP", 0, b"BM"),
    ("video (H.264 or H.265)", 0, b"\0\0\0\1"),
    ("video (H.264 or H.265)", 0, b"\0\0\1"),
)

_FORMAT_HINT = "publish image transport compressed with JPEG or PNG, or uncompressed images"


def rgb_from_compressed(
    message: RosCompressedImage,
    *,
    max_side_px: int = MAX_IMAGE_SIDE_PX,
    bit_depth: int = 0,
    swap_red_blue: bool = False,
    notes: list[str] | None = None,
) -> NDArray[np.uint8]:
    """Decode a JPEG or PNG message to RGB uint8 (H, W, 3), C-contiguous.

    The file says which channel is red. Only a Bayer image needs the `format` field: it is compressed as its
    gray mosaic and interpolated here. EXIF orientation is ignored, because masks, depth and camera info refer
    to the stored pixels.

    Args:
        message: the image.
        max_side_px: larger images are refused before they are decoded.
        bit_depth: see `rgb_from_image`.
        swap_red_blue: the publisher handed RGB to an encoder that takes BGR, so the file is wrong.
        notes: receives what is unusual, but possible.

    Raises:
        InvalidImageError: depth, not JPEG or PNG, damaged, truncated, or a side over `max_side_px`.

    Source: `compressed_image_transport` of ros-perception/image_transport_plugins, and the comments in
    `sensor_msgs/CompressedImage`.
    """
    original, _, compressed = (part.strip() for part in message.format.partition(";"))
    if original in DEPTH_ENCODINGS:
        raise depth_as_color(original)
    data = memoryview(message.data).cast("B") if len(message.data) else memoryview(b"")
    pixels = decode_image_file(data, formats=("JPEG", "PNG"), max_side_px=max_side_px)
    bits = 8 * pixels.dtype.itemsize
    if pixels.ndim == 2:
        mosaic = original.startswith("bayer_")
        encoding = f"{original[:10]}{bits}" if mosaic else f"mono{bits}"
        return rgb_from_pixels(pixels, encoding, bit_depth=bit_depth, notes=notes)
    if "compressed rgb" in compressed and not swap_red_blue and notes is not None:
        notes.append(
            f"the format {message.format[:60]!r} is ambiguous: some publishers swap red and blue with it; if "
            "red things are blue, set the camera's parameter swap_red_blue"
        )
    encoding = f"{'bgr' if swap_red_blue else 'rgb'}{bits}"
    return rgb_from_pixels(pixels, encoding, bit_depth=bit_depth, notes=notes)


def is_plain_jpeg(message: RosCompressedImage) -> bool:
    """Tell whether a message that can be decoded is a JPEG file that anybody decodes to the same pixels.

    Not a Bayer mosaic, which looks gray to others, and not a PNG, which may have 16 bits or alpha.
    """
    original = message.format.partition(";")[0].strip()
    return bytes(message.data[:3]) == b"\xff\xd8\xff" and not original.startswith("bayer_")


def decode_image_file(
    data: memoryview | bytes, *, formats: tuple[str, ...], max_side_px: int = MAX_IMAGE_SIDE_PX
) -> NDArray[Any]:
    """Decode an image file, dropping alpha.

    Args:
        data: the whole file.
        formats: Pillow's names of the accepted formats; each one is a decoder exposed to strangers.
        max_side_px: checked against the file header, before anything is decoded.

    Returns:
        uint8 or uint16, (H, W, 3) RGB or (H, W) gray.

    Raises:
        InvalidImageError: another format, damaged, truncated, or too large.
    """
    from PIL import Image as Pillow  # imported late: a raw camera never needs it

    if has_too_many_scans(data):
        raise InvalidImageError(
            f"the compressed image is a JPEG file of more than {MAX_JPEG_SCANS} scans",
            hint="publish baseline JPEG",
        )
    try:
        with Pillow.open(io.BytesIO(data), formats=formats) as image:
            width, height = image.size
            if max(height, width) > max_side_px:
                raise _too_large(f"{width}×{height}", max_side_px)
            if image.mode in ("I", "I;16", "I;16B"):
                return np.asarray(image).astype(np.uint16)
            pixels = np.asarray(image if image.mode in ("L", "RGB") else _to_gray_or_rgb(image))
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning) as error:
        raise _too_large("too large to open", max_side_px) from error
    except InvalidImageError:
        raise
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, struct.error and more
        name = _format_name(data)
        known = f"it is {name}" if name and name not in formats else str(error)
        raise InvalidImageError(
            f"the compressed image ({len(data)} bytes) cannot be decoded as {' or '.join(formats)}: {known}",
            hint=_FORMAT_HINT if name not in formats else None,
        ) from error
    is_16_bit_color = bytes(data[:8]) == PNG_SIGNATURE and data[24] == 16  # also gray with alpha
    return _read_16_bit_color(data) if is_16_bit_color else pixels


def _format_name(data: memoryview | bytes) -> str:
    """Return the name of the format by the first bytes of a file; "" = unknown."""
    start = bytes(data[:16])
    return next((name for name, offset, magic in _FORMATS if start.startswith(magic, offset)), "")


def _read_16_bit_color(data: memoryview | bytes) -> NDArray[Any]:
    """Decode a valid PNG with 16 bits a channel, of which Pillow keeps only the upper eight."""
    import cv2

    bgr: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    rgb: NDArray[Any] = bgr[..., 2::-1]
    return rgb


def _to_gray_or_rgb(image: Any) -> Any:
    return image.convert("L" if image.mode in ("1", "LA") else "RGB")


def _too_large(size: str, max_side_px: int) -> InvalidImageError:
    return InvalidImageError(f"the image is {size}, sides up to {max_side_px} px are allowed")
