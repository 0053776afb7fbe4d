from __future__ import annotations

import array
import contextlib
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensor_msgs.msg import CompressedImage

from xsam import InvalidImageError
from xsam.media.messages.compressed_images import decode_image_file, rgb_from_compressed


def _message(pixels: np.ndarray, text: str, extension: str = ".png") -> CompressedImage:
    """Build the message of a driver that uses OpenCV, from pixels in OpenCV's order."""
    content = cv2.imencode(extension, pixels)[1].tobytes()
    return CompressedImage(format=text, data=array.array("B", content))


def _rgb() -> np.ndarray:
    """Return a smooth image without symmetry: RGB (48, 64, 3)."""
    y, x = np.mgrid[0:48, 0:64]
    return np.stack([x * 4, y * 5, 255 - 2 * (x + y)], axis=2).clip(0, 255).astype(np.uint8)


def _bgr() -> np.ndarray:
    return np.ascontiguousarray(_rgb()[..., ::-1])


@pytest.mark.parametrize("extension", [".png", ".jpg"])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "jpeg",
        "png",
        "rgb8",
        "bgr8",
        "rgb8; jpeg compressed bgr8",
        "bgr8; png compressed bgr8",
        "mono8; jpeg",
        "rgb8; jpeg",
        "bgr8; jpeg",
        "rgb8; png",
        "rgb8; jpeg compressed",
        "rgb8; jpeg compressed rgb8",
        "rgba8; png compressed ",
        "yuv422; jpeg compressed ",
    ],
)
def test_as_opencv_decodes_it(text: str, extension: str) -> None:
    """Red stays red, whatever the camera's own order; the content decides the decoder, not `format`."""
    message = _message(_bgr(), text, extension)
    expected = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    notes: list[str] = []
    got = rgb_from_compressed(message, notes=notes)
    assert len(notes) == text.endswith("compressed rgb8")
    assert all("swap_red_blue" in note for note in notes)
    assert (got.dtype, got.shape, got.flags.c_contiguous) == (np.uint8, (48, 64, 3), True)
    np.testing.assert_allclose(got.astype(int), expected, atol=0 if extension == ".png" else 1)


@pytest.mark.parametrize("text", ["rgb8; png compressed rgb8", "bgr8; jpeg", "png"])
def test_files_with_swapped_colors(text: str) -> None:
    """The publisher handed RGB to an encoder that takes BGR; only a person can know."""
    notes: list[str] = []
    got = rgb_from_compressed(_message(_rgb(), text), swap_red_blue=True, notes=notes)
    np.testing.assert_array_equal(got, _rgb())
    assert notes == []


@pytest.mark.parametrize("text", ["mono8; png compressed ", "jpeg", "rgb8; jpeg compressed rgb8"])
def test_gray(text: str) -> None:
    gray = np.ascontiguousarray(_rgb()[..., 1])
    got = rgb_from_compressed(_message(gray, text))
    np.testing.assert_array_equal(got, np.repeat(gray[..., None], 3, axis=2))


def test_16_bits_are_scaled() -> None:
    gray = np.array([[0, 128, 129, 65535]], np.uint16)
    assert rgb_from_compressed(_message(gray, "mono16; png compressed "))[0, :, 0].tolist() == [0, 0, 1, 255]
    twelve = np.full((4, 4), 4095, np.uint16)
    assert (rgb_from_compressed(_message(twelve, "mono16; png compressed ")) == 255).all()
    assert (rgb_from_compressed(_message(np.dstack([twelve] * 3), "png")) == 255).all()
    color = _bgr().astype(np.uint16) * 257
    got = rgb_from_compressed(_message(color, "bgr16; png compressed bgr16"))
    np.testing.assert_array_equal(got, _rgb())


def test_alpha_is_dropped() -> None:
    pixels = np.dstack([_bgr(), np.full((48, 64), 3, np.uint8)])
    np.testing.assert_array_equal(rgb_from_compressed(_message(pixels, "png")), _rgb())


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_a_compressed_mosaic_is_interpolated(pattern: str) -> None:
    """image_transport compresses a Bayer image as the gray mosaic it is."""
    color = {"r": 200, "g": 100, "b": 50}
    mosaic = np.empty((8, 8), np.uint8)
    for index, letter in enumerate(pattern):
        mosaic[index // 2 :: 2, index % 2 :: 2] = color[letter]
    got = rgb_from_compressed(_message(mosaic, f"bayer_{pattern}8; png compressed "))
    assert (got == (200, 100, 50)).all()


def test_an_orientation_tag_is_ignored() -> None:
    """Rotated upright, the image would match neither depth nor camera info."""
    plain = bytes(_message(_bgr(), "", ".jpg").data)
    tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # Orientation = 6
    exif = b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff
    rotated = plain[:2] + exif + plain[2:]
    assert cv2.imdecode(np.frombuffer(rotated, np.uint8), cv2.IMREAD_COLOR).shape == (64, 48, 3)
    got = rgb_from_compressed(CompressedImage(format="jpeg", data=array.array("B", rotated)))
    np.testing.assert_array_equal(got, rgb_from_compressed(_message(_bgr(), "", ".jpg")))


# -------------------------------------------------------------------------------------- refusals


def _png(width: int, height: int, pixels: bytes = b"") -> bytes:
    """Build a PNG whose header claims the given size."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _jpeg(width: int, height: int) -> bytes:
    plain = bytes(_message(_bgr(), "", ".jpg").data)
    start = plain.index(b"\xff\xc0") + 5
    return plain[:start] + struct.pack(">HH", height, width) + plain[start + 4 :]


@pytest.mark.parametrize("width", [4097, 20_000, 65_500])
@pytest.mark.parametrize("make", [_png, _jpeg])
def test_a_decompression_bomb_is_refused_by_its_header(make: object, width: int) -> None:
    """A few hundred bytes that claim up to 12 GB of pixels; nothing is decoded, so the size is the only
    complaint."""
    content = make(width, width)  # type: ignore[operator]
    assert len(content) < 5000
    message = CompressedImage(format="jpeg", data=array.array("B", content))
    with pytest.raises(InvalidImageError, match="sides up to 4096"):
        rgb_from_compressed(message, max_side_px=4096)


def test_a_jpeg_of_many_scans_is_refused() -> None:
    """Each scan goes over the whole image again: a camera's topic could hold a node up for minutes."""
    file = cv2.imencode(".jpg", _bgr(), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    assert decode_image_file(file, formats=("JPEG",)).shape == (48, 64, 3)
    start = file.index(b"\xff\xda")
    bomb = file[:start] + file[start:-2] * 100 + file[-2:]
    for data in (bomb, memoryview(bomb)):
        with pytest.raises(InvalidImageError, match="more than 64 scans"):
            decode_image_file(data, formats=("JPEG",))


def test_the_limit_is_the_parameter() -> None:
    message = _message(_bgr(), "png")
    assert rgb_from_compressed(message, max_side_px=64).shape == (48, 64, 3)
    with pytest.raises(InvalidImageError, match="64×48, sides up to 63"):
        rgb_from_compressed(message, max_side_px=63)


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_a_truncated_file_is_refused(extension: str) -> None:
    """OpenCV returns the half that arrived, and gray below."""
    content = bytes(_message(_bgr(), "", extension).data)
    half = content[: len(content) * 2 // 3]
    with pytest.raises(InvalidImageError, match=f"{len(half)} bytes"):
        rgb_from_compressed(CompressedImage(format="jpeg", data=array.array("B", half)))


@pytest.mark.parametrize(
    "content", [b"", b"GIF89a", bytes(100), b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", _png(8, 8)]
)
def test_bytes_that_are_not_an_image(content: bytes) -> None:
    with pytest.raises(InvalidImageError, match="JPEG or PNG"):
        rgb_from_compressed(CompressedImage(format="jpeg", data=array.array("B", content)))


@pytest.mark.parametrize(("extension", "name"), [(".bmp", "BMP"), (".tiff", "TIFF"), (".webp", "WebP")])
def test_other_formats_are_not_opened(extension: str, name: str) -> None:
    """Each accepted format is a decoder exposed to strangers."""
    with pytest.raises(InvalidImageError, match=f"JPEG or PNG: it is {name}") as caught:
        rgb_from_compressed(_message(_bgr(), "jpeg", extension))
    assert "image transport" in caught.value.hint


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"\0\0\0\1\x67\x42", "H.264"),
        (b"\0\0\1\x65", "H.264"),
        (b"\0\0\0\x1cftypavif", "AVIF"),
        (b"GIF89a", "GIF"),
        (b"\xff\x0a", "JPEG XL"),
    ],
)
def test_data_that_is_something_else_is_named(start: bytes, name: str) -> None:
    message = CompressedImage(format="h264", data=array.array("B", start + bytes(50)))
    with pytest.raises(InvalidImageError, match=f"it is .*{name}"):
        rgb_from_compressed(message)


@given(
    content=st.binary(max_size=200), start=st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"])
)
def test_any_bytes_are_decoded_or_refused(content: bytes, start: bytes) -> None:
    with pytest.raises(InvalidImageError):
        decode_image_file(start + content, formats=("JPEG", "PNG"), max_side_px=100)


@given(offset=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_flipped_byte_is_decoded_or_refused(offset: int, value: int) -> None:
    content = bytearray(_message(_bgr(), "", ".jpg").data)
    content[offset % len(content)] = value
    with contextlib.suppress(InvalidImageError):
        pixels = decode_image_file(bytes(content), formats=("JPEG", "PNG"), max_side_px=100)
        assert max(pixels.shape[:2]) <= 100
        assert pixels.dtype == np.uint8


@pytest.mark.parametrize(
    "name", ["16UC1; png compressed ", "16UC1; compressedDepth png", "32FC1; compressedDepth"]
)
def test_depth_is_not_a_color_image(name: str) -> None:
    """The plain compressed transport sends depth as a 16-bit PNG, as it does gray images."""
    pixels = np.full((4, 4), 1000, np.uint16)
    with pytest.raises(InvalidImageError, match="is depth"):
        rgb_from_compressed(_message(pixels, name))
    assert rgb_from_compressed(_message(pixels, "mono16; png compressed ")).any()
