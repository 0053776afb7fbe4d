"""Encoding with NumPy, decoding with OpenCV or Pillow: two implementations that must agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from std_msgs.msg import Header

from xsam.media.messages.compressed_images import rgb_from_compressed
from xsam.media.messages.depth_images import depth_from_compressed, depth_from_image
from xsam.media.messages.images import array_from_image
from xsam_ros.messages.encode_images import (
    ENCODINGS,
    compressed_from_depth,
    compressed_from_rgb,
    image_from_depth,
    image_from_rgb,
)
from xsam_ros.messages.image_messages import rgb_from_image

_HEADER = Header(frame_id="lens")
_LOSSLESS = ("rgb8", "bgr8", "rgba8", "bgra8")
_YUV = ("yuv422", "yuv422_yuy2", "nv12", "nv21")
_BAYER = tuple(name for name in ENCODINGS if name.startswith("bayer"))

_sides = st.integers(1, 6)
_depths = hnp.arrays(
    np.float32,
    st.tuples(_sides, _sides),
    elements=st.one_of(
        st.floats(0.171875, 9.875, width=32), st.sampled_from([0.0, float("nan"), float("inf"), -1.0])
    ),
)


@given(
    rgb=hnp.arrays(np.uint8, st.tuples(_sides, _sides, st.just(3))),
    encoding=st.sampled_from(_LOSSLESS),
)
def test_colors_come_back(rgb: np.ndarray, encoding: str) -> None:
    message = image_from_rgb(rgb, encoding, _HEADER)
    assert (message.encoding, message.header) == (encoding, _HEADER)
    np.testing.assert_array_equal(rgb_from_image(message), rgb)


@given(color=st.tuples(*[st.integers(0, 255)] * 3), encoding=st.sampled_from(("mono8", "mono16")))
def test_gray_is_the_luma_of_rec_601(color: tuple[int, int, int], encoding: str) -> None:
    got = rgb_from_image(image_from_rgb(np.full((2, 2, 3), color, np.uint8), encoding), bit_depth=16)
    red, green, blue = color
    np.testing.assert_allclose(got, 0.299 * red + 0.587 * green + 0.114 * blue, atol=0.51)


@given(color=st.tuples(*[st.integers(0, 255)] * 3), encoding=st.sampled_from((*_BAYER, *_YUV)))
def test_a_plain_surface_keeps_its_color(color: tuple[int, int, int], encoding: str) -> None:
    """YUV in 8 bits and video range has 220 steps of luma and 225 of chroma for 256 of each color."""
    rgb = np.full((6, 8, 3), color, np.uint8)
    got = rgb_from_image(image_from_rgb(rgb, encoding)).astype(int)
    np.testing.assert_allclose(got, rgb, atol=0 if encoding in _BAYER else 4)


@pytest.mark.parametrize("encoding", [*_BAYER, *_YUV])
def test_regions_keep_their_position(encoding: str) -> None:
    """A red square on blue: no encoding shifts, mirrors or transposes the image."""
    rgb = np.full((16, 24, 3), (20, 30, 220), np.uint8)
    rgb[4:8, 12:20] = (220, 30, 20)
    got = rgb_from_image(image_from_rgb(rgb, encoding)).astype(int)
    inside = np.zeros((16, 24), bool)
    inside[5:7, 13:19] = True
    outside = np.ones((16, 24), bool)
    outside[2:10, 10:22] = False
    assert (got[inside][:, 0] > 150).all()
    assert (got[inside][:, 2] < 80).all()
    assert (got[outside][:, 0] < 80).all()
    assert (got[outside][:, 2] > 150).all()


@pytest.mark.parametrize("encoding", _YUV)
def test_yuv_of_odd_sides(encoding: str) -> None:
    with pytest.raises(ValueError, match="even sides"):
        image_from_rgb(np.zeros((4, 5, 3), np.uint8), encoding)


def test_an_unknown_encoding() -> None:
    with pytest.raises(ValueError, match="bayer_rggb8"):
        image_from_rgb(np.zeros((4, 4, 3), np.uint8), "rgb10")


@given(rgb=hnp.arrays(np.uint8, st.tuples(_sides, _sides, st.just(3))))
def test_png_comes_back(rgb: np.ndarray) -> None:
    message = compressed_from_rgb(rgb, "png", _HEADER)
    assert (message.format, message.header) == ("rgb8; png compressed bgr8", _HEADER)
    np.testing.assert_array_equal(rgb_from_compressed(message), rgb)


def test_jpeg_comes_back_nearly() -> None:
    rgb = np.zeros((16, 24, 3), np.uint8)
    rgb[..., 0] = np.linspace(0, 255, 24)
    rgb[..., 2] = np.linspace(0, 255, 16)[:, None]
    good = rgb_from_compressed(compressed_from_rgb(rgb, "jpeg", quality=95)).astype(int)
    assert np.abs(good - rgb).max() < 30
    assert np.abs(good - rgb).mean() < 5
    poor = compressed_from_rgb(rgb, "jpeg", quality=5)
    assert len(poor.data) < len(compressed_from_rgb(rgb, "jpeg", quality=95).data)


def _valid(depth_m: np.ndarray) -> np.ndarray:
    return np.isfinite(depth_m) & (depth_m > 0)


@given(depth_m=_depths)
def test_depth_in_meters_comes_back(depth_m: np.ndarray) -> None:
    message = image_from_depth(depth_m, "32FC1", _HEADER)
    assert message.header == _HEADER
    np.testing.assert_array_equal(array_from_image(message), depth_m)
    np.testing.assert_array_equal(depth_from_image(message), np.where(_valid(depth_m), depth_m, 0))


@given(depth_m=_depths)
def test_depth_in_millimeters_comes_back_to_half_a_millimeter(depth_m: np.ndarray) -> None:
    for got in (
        depth_from_image(image_from_depth(depth_m, "16UC1")),
        depth_from_compressed(compressed_from_depth(depth_m, "16UC1")),
    ):
        assert got.dtype == np.float32
        assert (got[~_valid(depth_m)] == 0).all()
        np.testing.assert_allclose(got[_valid(depth_m)], depth_m[_valid(depth_m)], atol=0.000501)


@given(depth_m=_depths)
def test_inverse_depth_comes_back_to_one_step_of_its_code(depth_m: np.ndarray) -> None:
    """A / d is rounded down to whole numbers, A = 100 · 101: at 1 m a step is 0.1 mm, at 10 m 10 mm."""
    got = depth_from_compressed(compressed_from_depth(depth_m, "32FC1"))
    valid = _valid(depth_m)
    assert (got[~valid] == 0).all()
    step_m = got[valid].astype(float) * depth_m[valid] / 10_100
    error_m = got[valid].astype(float) - depth_m[valid]
    assert (error_m >= -1e-5).all()
    assert (error_m <= step_m + 1e-5).all()


def test_what_is_too_far_or_too_near_is_no_measurement() -> None:
    """Beyond 10 m, and nearer than 0.152 m where 16 bits end, the transport has no code."""
    depth_m = np.array([[0.1, 0.16, 9.99, 10.0, 70.0]], np.float32)
    assert (depth_from_compressed(compressed_from_depth(depth_m, "32FC1")) > 0).tolist() == [
        [False, True, True, False, False]
    ]
    assert (depth_from_image(image_from_depth(depth_m, "16UC1")) > 0).tolist() == [
        [True, True, True, True, False]
    ]
