"""RGB and depth → messages of any encoding, as camera drivers send them; for simulation, overlays and tests.

Raw encodings are written with NumPy and decoded with OpenCV, so a round trip in the tests compares two
independent implementations.
"""

from __future__ import annotations

import array
import struct

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from xsam_ros.messages.image_messages import image_from_array

ENCODINGS = (
    *("rgb8", "bgr8", "rgba8", "bgra8", "mono8", "mono16"),
    *(f"bayer_{pattern}8" for pattern in ("rggb", "bggr", "gbrg", "grbg")),
    *("yuv422", "yuv422_yuy2", "nv12", "nv21"),
)
"""Encodings that `image_from_rgb` can produce."""

# ITU-R BT.601, video range: rows Y, U, V over columns R, G, B.
_YUV_FROM_RGB = np.array(
    [[65.738, 129.057, 25.064], [-37.945, -74.494, 112.439], [112.439, -94.154, -18.285]]
) / np.float64(256)
_YUV_OFFSET = np.array([16.0, 128.0, 128.0])
_LUMA = np.array([0.299, 0.587, 0.114])


def image_from_rgb(rgb: NDArray[np.uint8], encoding: str, header: Header | None = None) -> Image:
    """Encode RGB uint8 (H, W, 3) as a message in one of `ENCODINGS`.

    Raises:
        ValueError: unknown encoding, or a YUV encoding with an odd side.
    """
    if encoding not in ENCODINGS:
        raise ValueError(f"cannot encode {encoding!r}; supported: {', '.join(ENCODINGS)}")
    return image_from_array(_encode_pixels(rgb, encoding), encoding, header)


def image_from_depth(depth_m: NDArray[np.float32], encoding: str, header: Header | None = None) -> Image:
    """Encode depth (H, W) in meters as 32FC1 (unchanged) or 16UC1 (millimeters; 0 beyond 65.535 m)."""
    pixels = depth_m if encoding == "32FC1" else _millimeters(depth_m)
    return image_from_array(pixels, encoding, header)


def compressed_from_rgb(
    rgb: NDArray[np.uint8], file_format: str, header: Header | None = None, *, quality: int = 90
) -> CompressedImage:
    """Compress an RGB image to JPEG or PNG, with the `format` field of image transport "compressed".

    Args:
        rgb: uint8 (H, W, 3).
        file_format: "jpeg" or "png".
        header: of the image.
        quality: of JPEG, 1 to 100.
    """
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if file_format == "jpeg" else []
    _, data = cv2.imencode(f".{file_format}", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)
    return _compressed(data.tobytes(), f"rgb8; {file_format} compressed bgr8", header)


def compressed_from_depth(
    depth_m: NDArray[np.float32],
    encoding: str,
    header: Header | None = None,
    *,
    max_depth_m: float = 10.0,
    quantization: float = 100.0,
) -> CompressedImage:
    """Compress depth as image transport "compressedDepth" does; the defaults are that transport's.

    Args:
        depth_m: float32 (H, W), 0 or NaN = no measurement.
        encoding: "16UC1" stores millimeters, "32FC1" stores 1/depth in 16 bits.
        header: of the image.
        max_depth_m: anything farther becomes "no measurement".
        quantization: depth in m at which one step of the code is about 1 m.
    """
    import cv2

    with np.errstate(invalid="ignore"):
        measured = (depth_m > 0) & (depth_m < max_depth_m)
    depth_a = depth_b = 0.0
    if encoding == "32FC1":
        depth_a = quantization * (quantization + 1.0)
        depth_b = 1.0 - depth_a / max_depth_m
        inverse = depth_a / np.where(measured, depth_m, 1.0).astype(np.float64) + depth_b
        code = np.where(measured & (inverse <= 65535), inverse, 0).astype(np.uint16)
    else:
        code = _millimeters(np.where(measured, depth_m, np.float32(0)))
    _, data = cv2.imencode(".png", code)
    content = struct.pack("<iff", 0, depth_a, depth_b) + data.tobytes()
    return _compressed(content, f"{encoding}; compressedDepth png", header)


def _encode_pixels(rgb: NDArray[np.uint8], encoding: str) -> NDArray[np.uint8] | NDArray[np.uint16]:
    if encoding == "rgb8":
        return rgb
    if encoding == "bgr8":
        return rgb[..., ::-1]
    if encoding in ("rgba8", "bgra8"):
        colors = rgb if encoding == "rgba8" else rgb[..., ::-1]
        return np.concatenate([colors, np.full_like(colors[..., :1], 255)], axis=2)
    if encoding in ("mono8", "mono16"):
        scale, dtype = (1, np.uint8) if encoding == "mono8" else (257, np.uint16)
        return np.rint((rgb @ _LUMA) * scale).astype(dtype)
    if encoding.startswith("bayer_"):
        mosaic = np.empty(rgb.shape[:2], np.uint8)
        for index, letter in enumerate(encoding[6:10]):
            cells = (slice(index // 2, None, 2), slice(index % 2, None, 2))
            mosaic[cells] = rgb[..., "rgb".index(letter)][cells]
        return mosaic
    return _encode_yuv(rgb, encoding)


def _encode_yuv(rgb: NDArray[np.uint8], encoding: str) -> NDArray[np.uint8]:
    """Encode YUV; chroma is the mean of the pixels sharing it, two in a row, or 2×2 if planar."""
    height, width = rgb.shape[:2]
    rows = 2 if encoding.startswith("nv") else 1
    if width % 2 or height % rows:
        raise ValueError(f"{encoding} needs even sides, got {width}×{height}")
    yuv = rgb @ _YUV_FROM_RGB.T + _YUV_OFFSET
    luma = np.rint(yuv[..., 0]).astype(np.uint8)
    blocks = yuv[..., 1:].reshape(height // rows, rows, width // 2, 2, 2)
    chroma = np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)  # (H / rows, W / 2, UV)
    if rows == 2:
        order = chroma if encoding == "nv12" else chroma[..., ::-1]
        return np.concatenate([luma, order.reshape(height // 2, width)])
    interleaved = chroma.reshape(height, width)  # U V U V, one value per pixel
    pair = (interleaved, luma) if encoding == "yuv422" else (luma, interleaved)
    return np.stack(pair, axis=2)


def _millimeters(depth_m: NDArray[np.float32]) -> NDArray[np.uint16]:
    millimeters = np.rint(np.nan_to_num(depth_m, nan=0.0, posinf=0.0, neginf=0.0).astype(np.float64) * 1000)
    return np.where((millimeters >= 0) & (millimeters <= 65535), millimeters, 0).astype(np.uint16)


def _compressed(content: bytes, image_format: str, header: Header | None) -> CompressedImage:
    message = CompressedImage(format=image_format)
    if header is not None:
        message.header = header
    message.data = array.array("B", content)  # assigning bytes is checked byte by byte
    return message
