from __future__ import annotations

import array
import sys
from importlib.util import find_spec
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sensor_msgs.msg import Image

from xsam import InvalidImageError
from xsam.media.messages.images import SUPPORTED_ENCODINGS, array_from_image
from xsam_ros.messages.image_messages import image_from_array, rgb_from_image

_CHANNELS_LAST = {"rgb8": 3, "bgr8": 3, "8UC3": 3, "rgba8": 4, "bgra8": 4, "8UC4": 4}
_RED, _GREEN, _BLUE = (250, 10, 20), (10, 240, 30), (20, 30, 230)


def _message(pixels: np.ndarray, encoding: str, *, padding: int = 0, big: bool = False) -> Image:
    """Build a message by hand, as a driver would."""
    height, width = pixels.shape[:2]
    rows = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<")).reshape(height, -1).view(np.uint8)
    padded = np.full((height, rows.shape[1] + padding), 0xAB, np.uint8)
    padded[:, : rows.shape[1]] = rows
    message = Image(
        height=height, width=width, encoding=encoding, step=padded.shape[1], is_bigendian=int(big)
    )
    message.data = array.array("B", padded.tobytes())
    return message


def _native(rgb: np.ndarray, encoding: str) -> np.ndarray:
    """Return the pixels that a camera with this encoding would deliver."""
    wide = rgb.astype(np.uint16) * 257 if encoding.endswith("16") else rgb
    if encoding in ("mono8", "8UC1", "mono16"):
        return wide[..., 1]
    ordered = wide if encoding.startswith("rgb") else wide[..., ::-1]
    if "a" in encoding.removesuffix("16").removesuffix("8") or encoding == "8UC4":
        return np.concatenate([ordered, np.full_like(ordered[..., :1], 7)], axis=2)
    return ordered


_EXACT = [name for name in SUPPORTED_ENCODINGS if not name.startswith(("bayer", "yu", "uy", "nv"))]


@given(
    rgb=hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))),
    encoding=st.sampled_from(_EXACT),
    padding=st.sampled_from([0, 1, 13]),
    big=st.booleans(),
)
def test_every_plain_encoding_gives_the_same_rgb(
    rgb: np.ndarray, encoding: str, padding: int, big: bool
) -> None:
    if encoding in ("mono8", "8UC1", "mono16"):
        rgb = np.repeat(rgb[..., 1:2], 3, axis=2)
    message = _message(_native(rgb, encoding), encoding, padding=padding, big=big)
    got = rgb_from_image(message, bit_depth=16)
    assert got.dtype == np.uint8
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, rgb)


def test_a_red_pixel_stays_red_in_bgr() -> None:
    """Swapped red and blue go unnoticed in gray test images."""
    rgb = np.array([[_RED, _GREEN, _BLUE]], np.uint8)
    for encoding in ("rgb8", "bgr8", "rgba8", "bgra8", "8UC3"):
        assert rgb_from_image(_message(_native(rgb, encoding), encoding))[0, 0].tolist() == list(_RED), (
            encoding
        )


@given(values=hnp.arrays(np.uint16, st.tuples(st.integers(1, 6), st.integers(1, 6))), big=st.booleans())
def test_16_bits_are_scaled_and_rounded(values: np.ndarray, big: bool) -> None:
    got = rgb_from_image(_message(values, "mono16", big=big), bit_depth=16)
    np.testing.assert_array_equal(got[..., 0], np.rint(values / 257.0))


@pytest.mark.parametrize("encoding", ["mono16", "bayer_rggb16", "rgb16", "bgra16"])
@pytest.mark.parametrize(("bits", "noted"), [(10, True), (12, True), (14, True), (16, False)])
def test_fewer_bits_in_16_are_not_nearly_black(encoding: str, bits: int, noted: bool) -> None:
    """A 12-bit image had at most brightness 15 of 255, and nothing was found in it."""
    largest = (1 << bits) - 1
    shape = {"rgb16": (8, 8, 3), "bgra16": (8, 8, 4)}.get(encoding, (8, 8))
    notes: list[str] = []
    got = rgb_from_image(_message(np.full(shape, largest, np.uint16), encoding), notes=notes)
    assert (got == 255).all()
    assert bool(notes) == noted
    assert all(f"{bits} bits" in note and "bit_depth" in note for note in notes)


def test_the_bit_depth_of_a_camera_keeps_its_brightness() -> None:
    """By range alone, a dark image of a 12-bit camera would be as bright as one of a 10-bit camera."""
    dark = np.full((2, 2), 900, np.uint16)
    notes: list[str] = []
    got = rgb_from_image(_message(dark, "mono16"), bit_depth=12, notes=notes)
    assert (got == round(900 * 255 / 4095)).all()
    assert notes == []
    assert (rgb_from_image(_message(dark * 10, "mono16"), bit_depth=12) == 255).all(), "clipped, not wrapped"
    assert (rgb_from_image(_message(dark * 0, "mono16"), notes=notes) == 0).all()
    assert notes == []


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("color", [_RED, _GREEN, _BLUE])
def test_bayer_of_one_color_gives_that_color(pattern: str, bits: int, color: tuple[int, int, int]) -> None:
    by_letter = dict(zip("rgb", color, strict=True))
    mosaic = np.empty((6, 8), np.uint16)
    for index, letter in enumerate(pattern):
        mosaic[index // 2 :: 2, index % 2 :: 2] = by_letter[letter] * (257 if bits == 16 else 1)
    if bits == 8:
        mosaic = mosaic.astype(np.uint8)
    got = rgb_from_image(_message(mosaic, f"bayer_{pattern}{bits}", padding=3))
    assert (got == np.array(color, np.uint8)).all()


def _yuv(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """Convert by the formula of ITU-R BT.601 in video range."""
    red, green, blue = color
    luma = 16 + (65.738 * red + 129.057 * green + 25.064 * blue) / 256
    u = 128 + (-37.945 * red - 74.494 * green + 112.439 * blue) / 256
    v = 128 + (112.439 * red - 94.154 * green - 18.285 * blue) / 256
    return round(luma), round(u), round(v)


@pytest.mark.parametrize("encoding", ["yuv422", "uyvy", "yuv422_yuy2", "yuyv"])
@pytest.mark.parametrize("color", [_RED, _GREEN, _BLUE, (128, 128, 128)])
def test_yuv_gives_the_color_it_was_made_from(encoding: str, color: tuple[int, int, int]) -> None:
    luma, u, v = _yuv(color)
    luma_first = encoding in ("yuv422_yuy2", "yuyv")
    pixels = np.empty((2, 4, 2), np.uint8)
    pixels[..., 0 if luma_first else 1] = luma
    pixels[:, 0::2, 1 if luma_first else 0] = u
    pixels[:, 1::2, 1 if luma_first else 0] = v
    got = rgb_from_image(_message(pixels, encoding, padding=2))
    np.testing.assert_allclose(got, np.broadcast_to(np.array(color, np.uint8), got.shape), atol=4)


@pytest.mark.parametrize("encoding", ["nv12", "nv21"])
@pytest.mark.parametrize("color", [_RED, _GREEN, _BLUE, (128, 128, 128)])
def test_planar_yuv_gives_the_color_it_was_made_from(encoding: str, color: tuple[int, int, int]) -> None:
    luma, u, v = _yuv(color)
    pixels = np.full((6, 6), luma, np.uint8)  # a 6×4 image: four rows of luma, two of chroma
    pixels[4:, 0::2] = u if encoding == "nv12" else v
    pixels[4:, 1::2] = v if encoding == "nv12" else u
    message = _message(pixels, encoding, padding=2)
    message.height = 4
    got = rgb_from_image(message)
    assert got.shape == (4, 6, 3)
    np.testing.assert_allclose(got, np.broadcast_to(np.array(color, np.uint8), got.shape), atol=4)
    message.data = message.data[: 5 * message.step]
    with pytest.raises(InvalidImageError, match="bytes"):
        rgb_from_image(message)


def test_planar_yuv_of_odd_sides() -> None:
    for height, width in ((3, 4), (4, 3)):
        message = _message(np.zeros((6, width), np.uint8), "nv12")
        message.height = height
        with pytest.raises(InvalidImageError, match="even sides"):
            rgb_from_image(message)


@given(
    encoding=st.sampled_from(["rgb8", "mono8", "mono16", "32FC1", "bgra8"]),
    data=st.data(),
)
def test_array_to_message_and_back(encoding: str, data: st.DataObject) -> None:
    dtype = {"mono16": np.uint16, "32FC1": np.float32}.get(encoding, np.uint8)
    channels = _CHANNELS_LAST.get(encoding, 0)
    shape = (data.draw(st.integers(1, 7)), data.draw(st.integers(1, 7))) + ((channels,) if channels else ())
    pixels = data.draw(hnp.arrays(dtype, shape))
    message = image_from_array(pixels, encoding)
    assert len(message.data) == message.step * message.height
    np.testing.assert_array_equal(array_from_image(message), pixels)


def test_rgb8_is_not_copied() -> None:
    message = _message(np.zeros((4, 5, 3), np.uint8), "rgb8")
    rgb = rgb_from_image(message)
    message.data[0] = 99
    assert rgb[0, 0, 0] == 99


@pytest.mark.parametrize("encoding", ["", "rgb", "jpeg", "bayer_xxxx8", "32FC3", "8UC2", "x" * 100_000])
def test_an_unknown_encoding_is_named_with_those_that_work(encoding: str) -> None:
    message = _message(np.zeros((2, 2, 3), np.uint8), "rgb8")
    message.encoding = encoding
    with pytest.raises(InvalidImageError, match="bgr8") as caught:
        rgb_from_image(message)
    assert repr(encoding[:40]) in caught.value.message
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize(("encoding", "dtype"), [("32FC1", np.float32), ("16UC1", np.uint16)])
def test_depth_is_not_a_color_image(encoding: str, dtype: type) -> None:
    """In 16UC1 something was "found"; gray images of 16 bits are mono16."""
    pixels = np.full((2, 2), 1000, dtype)
    with pytest.raises(InvalidImageError, match=f"{encoding} is depth") as caught:
        rgb_from_image(_message(pixels, encoding))
    assert "depth_topic" in caught.value.hint
    assert "mono16" in caught.value.hint
    if dtype == np.uint16:
        assert rgb_from_image(_message(pixels, "mono16")).shape == (2, 2, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 0}, "no pixels"),
        ({"width": 0}, "no pixels"),
        ({"height": 2**32 - 1, "width": 2**32 - 1}, "sides up to"),
        ({"height": 16000, "width": 16000}, "bytes"),
        ({"height": 5}, "bytes"),
        ({"step": 11}, "step"),
        ({"step": 0}, "step"),
        ({"step": 2**32 - 1}, "bytes"),
    ],
)
def test_sizes_are_not_trusted(changes: dict[str, int], message: str) -> None:
    image = _message(np.zeros((4, 4, 3), np.uint8), "rgb8")
    for name, value in changes.items():
        setattr(image, name, value)
    with pytest.raises(InvalidImageError, match=message):
        rgb_from_image(image)


def test_no_data_at_all() -> None:
    with pytest.raises(InvalidImageError, match="bytes"):
        rgb_from_image(Image(height=4, width=4, step=12, encoding="rgb8"))


@pytest.mark.parametrize("side", [1, 2, 3])
def test_a_bayer_image_that_is_too_small_to_interpolate(side: int) -> None:
    with pytest.raises(InvalidImageError, match="4×4"):
        rgb_from_image(_message(np.zeros((side, side), np.uint8), "bayer_rggb8"))


def test_yuv_of_odd_width() -> None:
    with pytest.raises(InvalidImageError, match="even width"):
        rgb_from_image(_message(np.zeros((2, 3, 2), np.uint8), "yuyv"))


def test_max_side_is_a_parameter() -> None:
    image = _message(np.zeros((4, 6, 3), np.uint8), "rgb8")
    assert rgb_from_image(image, max_side_px=6).shape == (4, 6, 3)
    with pytest.raises(InvalidImageError, match="6×4, sides up to 5"):
        rgb_from_image(image, max_side_px=5)


def test_wrong_dtype_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="not a mono16 image"):
        image_from_array(np.zeros((2, 2), np.uint8), "mono16")


# ------------------------------------------------------------------------------------ cv_bridge


class _Bridge:
    """Stand-in for `cv_bridge.CvBridge` that knows one more encoding."""

    def imgmsg_to_cv2(self, message: Image, desired_encoding: str) -> np.ndarray:
        if message.encoding != "nv24" or desired_encoding != "rgb8":
            raise RuntimeError(f"[{message.encoding}] is not a color format")
        return np.full((message.height, message.width, 3), 7, np.uint8)


@pytest.fixture
def bridge(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("cv_bridge")
    module.CvBridge = _Bridge  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cv_bridge", module)


def _nv24(**changes: int) -> Image:
    message = Image(height=2, width=3, encoding="nv24", step=3, data=array.array("B", bytes(18)))
    for name, value in changes.items():
        setattr(message, name, value)
    return message


@pytest.mark.usefixtures("bridge")
def test_cv_bridge_takes_the_encodings_that_are_unknown_here() -> None:
    assert rgb_from_image(_nv24()).tolist() == np.full((2, 3, 3), 7).tolist()
    with pytest.raises(InvalidImageError, match="unknown image encoding 'strange'"):
        rgb_from_image(_message(np.zeros((2, 2, 3), np.uint8), "strange"))


@pytest.mark.usefixtures("bridge")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 20_000}, "sides up to"),
        ({"width": 0}, "no pixels"),
        ({"height": 7}, "bytes"),
        ({"step": 2}, "step"),
    ],
)
def test_sizes_are_checked_before_cv_bridge_sees_them(changes: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidImageError, match=message):
        rgb_from_image(_nv24(**changes))


_NOT_IN_CV_BRIDGE = ("nv12", "nv21", "8UC1", "8UC3", "8UC4")  # it converts color encodings only


@pytest.mark.skipif(find_spec("cv_bridge") is None, reason="cv_bridge is not installed (it comes with ROS)")
def test_equal_to_cv_bridge() -> None:
    from cv_bridge import CvBridge

    random = np.random.default_rng(0)
    for encoding in SUPPORTED_ENCODINGS:
        if encoding in _NOT_IN_CV_BRIDGE:
            continue
        dtype, channels = _layout_of(encoding)
        shape = (8, 12, channels) if channels > 1 else (8, 12)
        pixels = random.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
        for padding in (0, 6):
            message = _message(pixels, encoding, padding=padding)
            expected = CvBridge().imgmsg_to_cv2(message, "rgb8")
            np.testing.assert_array_equal(rgb_from_image(message), expected, err_msg=encoding)


def _layout_of(encoding: str) -> tuple[np.dtype, int]:
    """Return dtype and channels of an encoding."""
    channels = 1
    if encoding.startswith(("rgb", "bgr")):
        channels = 4 if "a" in encoding else 3
    elif encoding in ("yuv422", "uyvy", "yuv422_yuy2", "yuyv"):
        channels = 2
    return np.dtype(np.uint16 if encoding.endswith("16") else np.uint8), channels
