from __future__ import annotations

import array
import contextlib
import struct

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sensor_msgs.msg import CompressedImage, Image

from xsam import InvalidImageError
from xsam.media.messages.depth_images import depth_from_compressed, depth_from_image, resize_depth


def _raw(pixels: np.ndarray, encoding: str, *, padding: int = 0, big: bool = False) -> Image:
    rows = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<")).view(np.uint8)
    padded = np.pad(rows.reshape(len(pixels), -1), ((0, 0), (0, padding)), constant_values=0xAB)
    return Image(
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        step=padded.shape[1],
        is_bigendian=int(big),
        data=array.array("B", padded.tobytes()),
    )


def _compressed(code: np.ndarray, text: str, depth_a: float = 0.0, depth_b: float = 0.0) -> CompressedImage:
    """Build a message as the C++ transport packs it: int32, two float32, the file."""
    content = struct.pack("<iff", 0, depth_a, depth_b) + cv2.imencode(".png", code)[1].tobytes()
    return CompressedImage(format=text, data=array.array("B", content))


@given(
    millimeters=hnp.arrays(np.uint16, st.tuples(st.integers(1, 5), st.integers(1, 5))),
    encoding=st.sampled_from(["16UC1", "mono16"]),
    padding=st.sampled_from([0, 3]),
    big=st.booleans(),
)
def test_millimeters_become_meters(millimeters: np.ndarray, encoding: str, padding: int, big: bool) -> None:
    got = depth_from_image(_raw(millimeters, encoding, padding=padding, big=big))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, millimeters / 1000.0, rtol=1e-6)


@pytest.mark.parametrize("big", [False, True])
def test_rows_are_y(big: bool) -> None:
    """Depth indexed [x, y] goes unnoticed while the test image is constant or square."""
    meters = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], np.float32)
    got = depth_from_image(_raw(meters, "32FC1", padding=5, big=big))
    assert got.shape == (2, 3)
    assert (got[0, 2], got[1, 0]) == (3.0, 4.0)


def test_every_kind_of_no_measurement_is_0() -> None:
    values = np.array([[np.nan, np.inf, -np.inf, 0.0, -2.0, 1.5]], np.float32)
    assert depth_from_image(_raw(values, "32FC1")).tolist() == [[0.0, 0.0, 0.0, 0.0, 0.0, 1.5]]


@pytest.mark.parametrize("encoding", ["", "rgb8", "mono8", "64FC1", "32FC3", "x" * 10_000])
def test_other_encodings_are_not_depth(encoding: str) -> None:
    message = _raw(np.zeros((2, 2), np.uint16), "16UC1")
    message.encoding = encoding
    with pytest.raises(InvalidImageError, match="32FC1 in meters, 16UC1 in millimeters") as caught:
        depth_from_image(message)
    assert len(caught.value.message) < 300


def test_sizes_are_not_trusted() -> None:
    message = _raw(np.zeros((2, 2), np.uint16), "16UC1")
    message.height = 3
    with pytest.raises(InvalidImageError, match="bytes"):
        depth_from_image(message)
    message.height = 3000
    with pytest.raises(InvalidImageError, match="sides up to 2000"):
        depth_from_image(message, max_side_px=2000)


# ----------------------------------------------------------------------------------- compressed


@pytest.mark.parametrize("text", ["16UC1; compressedDepth", "16UC1; compressedDepth png", "16UC1"])
def test_compressed_millimeters(text: str) -> None:
    code = np.array([[0, 1, 1500], [65535, 250, 2]], np.uint16)
    got = depth_from_compressed(_compressed(code, text))
    np.testing.assert_allclose(got, [[0, 0.001, 1.5], [65.535, 0.25, 0.002]], rtol=1e-6)


def test_inverse_depth() -> None:
    """With A = 10100 and B = -1009: 1 is 10 m, 9091 is 1 m, and 0 is no measurement."""
    code = np.array([[1, 9091, 0], [19191, 65535, 1]], np.uint16)
    got = depth_from_compressed(_compressed(code, "32FC1; compressedDepth png", 10100.0, -1009.0))
    np.testing.assert_allclose(got, [[10.0, 1.0, 0.0], [0.5, 10100 / 66544, 10.0]], rtol=1e-6)


def test_parameters_that_make_no_sense_make_no_measurement() -> None:
    code = np.array([[5, 6, 4]], np.uint16)
    assert depth_from_compressed(_compressed(code, "32FC1", 10.0, 5.0)).tolist() == [[0.0, 10.0, 0.0]]
    for depth_a, depth_b in ((float("nan"), 0.0), (float("inf"), 0.0), (1.0, float("nan"))):
        assert depth_from_compressed(_compressed(code, "32FC1", depth_a, depth_b)).tolist() == [[0.0] * 3]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("16UC1; jpeg compressed", "jpeg"),
        ("rgb8; compressedDepth png", "32FC1 or 16UC1"),
        ("", "32FC1 or 16UC1"),
        ("x" * 10_000, "xxx"),
    ],
)
def test_other_formats(text: str, reason: str) -> None:
    with pytest.raises(InvalidImageError, match=reason) as caught:
        depth_from_compressed(_compressed(np.zeros((2, 2), np.uint16), text))
    assert len(str(caught.value)) < 300


def _rvl(depth: np.ndarray) -> bytes:
    """Encode as the C++ transport does: words of eight nibbles, the first one highest."""
    numbers: list[int] = []
    pixels, index, previous = depth.ravel().tolist(), 0, 0
    while index < len(pixels):
        zeros = next((i for i, value in enumerate(pixels[index:]) if value), len(pixels) - index)
        index += zeros
        others = next((i for i, value in enumerate(pixels[index:]) if not value), len(pixels) - index)
        numbers += [zeros, others]
        for value in pixels[index : index + others]:
            delta = value - previous
            numbers.append(2 * delta if delta >= 0 else -2 * delta - 1)
            previous = value
        index += others
    nibbles: list[int] = []
    for number in numbers:
        while True:
            nibble, number = number & 7, number >> 3
            nibbles.append(nibble | (8 if number else 0))
            if not number:
                break
    nibbles += [0] * (-len(nibbles) % 8)
    words = [int("".join(f"{n:x}" for n in nibbles[i : i + 8]), 16) for i in range(0, len(nibbles), 8)]
    height, width = depth.shape
    return struct.pack("<II", width, height) + b"".join(struct.pack("<I", word) for word in words)


def _rvl_message(depth: np.ndarray, encoding: str = "16UC1", *parameters: float) -> CompressedImage:
    content = struct.pack("<iff", 0, *(parameters or (0.0, 0.0))) + _rvl(depth)
    return CompressedImage(format=f"{encoding}; compressedDepth rvl", data=array.array("B", content))


@given(
    hnp.arrays(
        np.uint16,
        st.tuples(st.integers(1, 9), st.integers(1, 9)),
        elements=st.one_of(st.just(0), st.integers(0, 65535), st.integers(990, 1010)),
    )
)
def test_rvl(depth: np.ndarray) -> None:
    np.testing.assert_allclose(depth_from_compressed(_rvl_message(depth)), depth * 0.001, rtol=1e-6)


def test_rvl_by_hand() -> None:
    """3 zeros, 2 values, +5 = 10 and -1 = 1: nibbles 3 2 a 1 1 0 0 0, of which 'a' says that 1 follows."""
    data = struct.pack("<iff", 0, 0, 0) + struct.pack("<II", 5, 1) + struct.pack("<I", 0x32A11000)
    message = CompressedImage(format="16UC1; compressedDepth rvl", data=array.array("B", data))
    np.testing.assert_allclose(depth_from_compressed(message), [[0, 0, 0, 0.005, 0.004]], rtol=1e-6)


def test_rvl_of_inverse_depth() -> None:
    code = np.array([[1, 9091, 0], [19191, 65535, 1]], np.uint16)
    got = depth_from_compressed(_rvl_message(code, "32FC1", 10100.0, -1009.0))
    np.testing.assert_allclose(got, [[10.0, 1.0, 0.0], [0.5, 10100 / 66544, 10.0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (struct.pack("<II", 4, 4), "ends after 0 of 4×4 px"),
        (struct.pack("<II", 0, 4) + bytes(8), "0×4"),
        (struct.pack("<II", 2**31, 2**31) + bytes(8), "sides of 1 to"),
        (struct.pack("<II", 4, 4) + bytes(8), "does not fit"),
        (struct.pack("<II", 4, 4) + b"\xff" * 64, "ends after 0"),
        (struct.pack("<II", 4, 4) + b"\x7f" + b"\xff" * 63, "more than 32 bits|ends after"),
        (struct.pack("<II", 2, 2) + struct.pack("<I", 0x04100000), "16 bits"),
        (struct.pack("<II", 2, 2) + bytes(10_000), "cannot have"),
        (_rvl(np.arange(400, dtype=np.uint16).reshape(20, 20))[:-40], "truncated"),
        (b"abc", "3 bytes"),
    ],
)
def test_damaged_rvl(content: bytes, message: str) -> None:
    data = struct.pack("<iff", 0, 0, 0) + content
    with pytest.raises(InvalidImageError, match=message):
        depth_from_compressed(
            CompressedImage(format="16UC1; compressedDepth rvl", data=array.array("B", data))
        )


@given(st.binary(max_size=100))
def test_any_rvl_code_is_decoded_or_refused(code: bytes) -> None:
    data = struct.pack("<iffII", 0, 0, 0, 5, 5) + code
    with contextlib.suppress(InvalidImageError):
        message = CompressedImage(format="16UC1; compressedDepth rvl", data=array.array("B", data))
        assert depth_from_compressed(message).shape == (5, 5)


@pytest.mark.parametrize("text", ["16UC1; png compressed ", "mono16; png compressed ", "png", ""])
def test_a_16_bit_png_of_transport_compressed(text: str) -> None:
    """image_transport's plain `compressed` sends 16-bit depth as a PNG file, in millimeters."""
    code = np.array([[0, 1, 1500], [65535, 250, 2]], np.uint16)
    content = cv2.imencode(".png", code)[1].tobytes()
    got = depth_from_compressed(CompressedImage(format=text, data=array.array("B", content)))
    np.testing.assert_allclose(got, code * 0.001, rtol=1e-6)


def test_a_plain_png_of_meters_is_refused() -> None:
    content = cv2.imencode(".png", np.ones((2, 2), np.uint16))[1].tobytes()
    with pytest.raises(InvalidImageError, match="cannot hold 32FC1"):
        depth_from_compressed(
            CompressedImage(format="32FC1; png compressed ", data=array.array("B", content))
        )


def test_damaged_files() -> None:
    good = _compressed(np.arange(400, dtype=np.uint16).reshape(20, 20), "16UC1")
    for content in (b"", bytes(good.data[:12]), bytes(good.data[:60]), bytes(12) + b"no image"):
        with pytest.raises(InvalidImageError, match="bytes"):
            depth_from_compressed(CompressedImage(format="16UC1", data=array.array("B", content)))


@pytest.mark.parametrize("code", [np.zeros((2, 2), np.uint8), np.zeros((2, 2, 3), np.uint8)])
def test_a_png_that_is_not_depth(code: np.ndarray) -> None:
    with pytest.raises(InvalidImageError, match="16-bit gray PNG"):
        depth_from_compressed(_compressed(code, "16UC1"))


def test_a_jpeg_is_not_depth() -> None:
    content = bytes(12) + cv2.imencode(".jpg", np.zeros((8, 8), np.uint8))[1].tobytes()
    with pytest.raises(InvalidImageError, match="as PNG"):
        depth_from_compressed(CompressedImage(format="16UC1", data=array.array("B", content)))


def test_compressed_depth_that_is_too_large() -> None:
    with pytest.raises(InvalidImageError, match="30×10, sides up to 20"):
        depth_from_compressed(_compressed(np.zeros((10, 30), np.uint16), "16UC1"), max_side_px=20)


# -------------------------------------------------------------------------------------- resizing


def test_twice_the_size_repeats_each_pixel() -> None:
    depth_m = np.array([[1.0, 2.0], [3.0, 0.0]], np.float32)
    assert resize_depth(depth_m, (4, 4)).tolist() == np.kron(depth_m, np.ones((2, 2))).tolist()


def test_a_third_of_the_size_takes_the_pixels_in_the_middle() -> None:
    depth_m = np.arange(81, dtype=np.float32).reshape(9, 9)
    assert resize_depth(depth_m, (3, 3)).tolist() == depth_m[1::3, 1::3].tolist()


@given(height=st.integers(1, 20), width=st.integers(1, 20), factor=st.integers(1, 5))
def test_larger_and_back_is_the_same(height: int, width: int, factor: int) -> None:
    depth_m = np.random.default_rng(0).random((height, width), np.float32)
    larger = resize_depth(depth_m, (height * factor, width * factor))
    np.testing.assert_array_equal(resize_depth(larger, (height, width)), depth_m)


def test_another_aspect_ratio_is_not_registered() -> None:
    with pytest.raises(InvalidImageError, match=r"640×480.*1280×720.*not registered"):
        resize_depth(np.zeros((480, 640), np.float32), (720, 1280))
