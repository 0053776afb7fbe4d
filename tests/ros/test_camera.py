from __future__ import annotations

import math
import time

import numpy as np
import pytest
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image

from xsam import InvalidImageError, NoFrameError, StaleFrameError
from xsam_ros.camera import CameraSlot
from xsam_ros.conversions import stamp_from_ns
from xsam_ros.image_conversion import image_from_array

_LIMITS = {"max_age_s": 1.0, "max_side_px": 100}


class Clock:
    """The node's clock, as the test wants it."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000_000

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def slot(clock: Clock) -> CameraSlot:
    return CameraSlot("front", "/front/image_raw", clock_ns=clock)


def _image(stamp_ns: int, *, value: int = 0) -> Image:
    message = image_from_array(np.full((2, 3, 3), value, np.uint8), "rgb8")
    message.header.stamp = stamp_from_ns(stamp_ns)
    message.header.frame_id = "lens"
    return message


def test_nothing_arrived(slot: CameraSlot) -> None:
    with pytest.raises(NoFrameError, match="/front/image_raw"):
        slot.newest_frame(**_LIMITS)
    assert slot.frames == 0
    assert math.isnan(slot.age_s)
    assert math.isnan(slot.rate_hz)


def test_the_newest_image_counts(slot: CameraSlot, clock: Clock) -> None:
    for value in (1, 2, 3):
        slot.store(serialize_message(_image(clock(), value=value)))
    got = slot.newest_frame(**_LIMITS)
    assert got.frame.rgb[0, 0, 0] == 3
    assert (got.frame.camera, got.frame.frame_id, got.frame.stamp_ns) == ("front", "lens", clock())
    assert got.header == _image(clock()).header
    assert slot.frames == 3
    assert 0 <= slot.age_s < 1
    assert slot.rate_hz > 0


def test_storing_decodes_nothing(slot: CameraSlot) -> None:
    slot.store(b"this is no image")
    assert slot.frames == 1


def test_a_camera_that_stopped_is_stale(slot: CameraSlot, clock: Clock) -> None:
    slot.store(serialize_message(_image(clock())))
    until = time.monotonic() + 5.0
    while slot.age_s < 0.05:
        assert time.monotonic() < until
    with pytest.raises(StaleFrameError, match=r"at most 0\.05 s"):
        slot.newest_frame(max_age_s=0.05, max_side_px=100)


def test_an_image_that_took_long_to_arrive_is_stale(slot: CameraSlot, clock: Clock) -> None:
    """The time since the arrival alone would call a picture from two seconds ago fresh."""
    slot.store(serialize_message(_image(clock() - 2_000_000_000)))
    with pytest.raises(StaleFrameError, match=r"2\.0"):
        slot.newest_frame(**_LIMITS)


@pytest.mark.parametrize("offset_s", [-3600, 3600, -1_000])
def test_a_stamp_of_another_clock_says_nothing(slot: CameraSlot, clock: Clock, offset_s: int) -> None:
    slot.store(serialize_message(_image(clock() + offset_s * 1_000_000_000)))
    assert slot.newest_frame(**_LIMITS).frame.image_hw == (2, 3)


def test_too_large(slot: CameraSlot, clock: Clock) -> None:
    slot.store(serialize_message(_image(clock())))
    with pytest.raises(InvalidImageError, match="3×2"):
        slot.newest_frame(max_age_s=1.0, max_side_px=2)


def test_clear(slot: CameraSlot, clock: Clock) -> None:
    slot.store(serialize_message(_image(clock())))
    slot.clear()
    with pytest.raises(NoFrameError):
        slot.newest_frame(**_LIMITS)
