"""Pairing of depth with color images, and the reasons given when there is no depth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.ros.camera_driver import BufferedCamera, FakeClock
from tests.ros.camera_driver import first_value as _value
from xsam_ros.messages.encode_images import image_from_depth, image_from_rgb
from xsam_ros.messages.image_messages import image_from_array


def test_depth_of_the_same_stamp(camera: BufferedCamera) -> None:
    camera.depth(1.0, ago_s=0.1)
    camera.depth(2.0, ago_s=0.05)
    camera.color(1, ago_s=0.1)
    got = camera.frame()
    assert got.frame.depth_m is not None
    assert got.frame.depth_m.tolist() == np.full((4, 6), 1.0).tolist()
    assert (got.no_depth_reason, got.notes) == ("", ())
    assert camera.buffer.statistics().with_depth == 1


@pytest.mark.parametrize(
    ("gap_s", "expected"), [(0.019, True), (0.021, False), (-0.019, True), (-0.021, False)]
)
def test_the_tolerance(camera: BufferedCamera, gap_s: float, expected: bool) -> None:
    camera.color(ago_s=0.1)
    camera.depth(ago_s=0.1 + gap_s)
    got = camera.frame()
    assert (got.frame.depth_m is not None) is expected
    if not expected:
        assert "0.021 s" in got.no_depth_reason
        assert "front.sync_tolerance_s" in got.no_depth_reason


def test_the_tolerance_may_change_at_any_time(camera: BufferedCamera) -> None:
    camera.color(ago_s=0.1)
    camera.depth(ago_s=0.15)
    assert camera.frame().frame.depth_m is None
    camera.parameters = replace(camera.parameters, sync_tolerance_s=0.06)
    assert camera.frame().frame.depth_m is not None


def test_the_nearest_depth_wins_whatever_its_order(camera: BufferedCamera) -> None:
    camera.color(ago_s=0.1)
    for meters, ago_s in ((1.0, 0.09), (2.0, 0.101), (3.0, 0.115)):
        camera.depth(meters, ago_s=ago_s)
    got = camera.frame().frame.depth_m
    assert got is not None
    assert got[0, 0] == 2.0


def test_a_frame_waits_for_its_depth(camera: BufferedCamera, clock: FakeClock) -> None:
    """Depth arrives two frames after color, so the newest image never has depth yet. Using it anyway would
    mean no 3D at all; an image two frames older has it."""
    for index in range(8):
        camera.color(index)
        if index >= 2:
            camera.depth(float(index - 2), ago_s=2 / 30)
        clock.advance(1 / 30)
    got = camera.frame()
    assert _value(got) == 5
    assert got.frame.depth_m is not None
    assert got.frame.depth_m[0, 0] == 5.0


def test_it_does_not_wait_longer_than_allowed(camera: BufferedCamera, clock: FakeClock) -> None:
    camera.color(1)
    camera.depth()
    clock.advance(0.25)
    camera.color(2)
    got = camera.frame()
    assert _value(got) == 2
    assert got.frame.depth_m is None
    assert "0.250 s" in got.no_depth_reason


def test_with_no_lag_it_is_always_the_newest_frame(clock: FakeClock) -> None:
    camera = BufferedCamera(clock, max_depth_lag_s=0.0)
    camera.color(1)
    camera.depth()
    clock.advance(0.05)
    camera.color(2)
    assert _value(camera.frame()) == 2


def test_an_older_frame_with_depth_has_to_be_young_enough(camera: BufferedCamera, clock: FakeClock) -> None:
    camera.color(1)
    camera.depth()
    clock.advance(0.15)
    camera.color(2)
    assert _value(camera.frame(max_age_s=0.2)) == 1
    got = camera.frame(max_age_s=0.1)
    assert _value(got) == 2
    assert got.frame.depth_m is None


def test_depth_that_stopped(camera: BufferedCamera, clock: FakeClock) -> None:
    camera.depth()
    for index in range(30):
        camera.color(index)
        clock.advance(0.1)
    got = camera.frame()
    assert _value(got) == 29
    assert "2.9" in got.no_depth_reason or "3.0" in got.no_depth_reason
    assert "/front/depth" in camera.buffer.statistics().no_depth_reason


def test_no_depth_yet(camera: BufferedCamera) -> None:
    camera.color()
    got = camera.frame()
    assert got.frame.depth_m is None
    assert "no depth has arrived on /front/depth" in got.no_depth_reason


def test_no_depth_configured(color_only: BufferedCamera) -> None:
    color_only.color()
    got = color_only.frame()
    assert "no depth topic is configured" in got.no_depth_reason
    assert "no camera info topic is configured" in got.no_intrinsics_reason


def test_a_bag_in_a_loop(camera: BufferedCamera, clock: FakeClock) -> None:
    """The second loop repeats the stamps of the first, but its depth is missing: depth of the first loop
    must not be paired with it."""
    camera.color(1)
    camera.depth()
    clock.advance(1.1)
    clock.offset_ns = -1_100_000_000
    camera.color(2)
    got = camera.frame()
    assert _value(got) == 2
    assert got.frame.depth_m is None
    assert "/front/depth" in got.no_depth_reason


@pytest.mark.parametrize("jump_s", [-1000.0, 1000.0, -0.5, 0.5])
def test_a_clock_that_jumps(camera: BufferedCamera, clock: FakeClock, jump_s: float) -> None:
    """`use_sim_time` with a simulation that is reset, or paused and continued."""
    for index in range(10):
        camera.color(index)
        camera.depth(float(index + 1))
        if index == 4:
            clock.offset_ns += round(jump_s * 1e9)
        got = camera.frame()
        assert _value(got) == index
        assert got.frame.depth_m is not None
        assert got.frame.depth_m[0, 0] == index + 1
        clock.advance(0.1)


def test_depth_of_another_resolution(camera: BufferedCamera) -> None:
    camera.color(hw=(4, 6))
    camera.depth(2.0, hw=(8, 12))
    got = camera.frame()
    assert got.frame.depth_m is not None
    assert got.frame.depth_m.shape == (4, 6)
    assert "12×8" in got.notes[0]


@pytest.mark.parametrize("broken", ["shape", "content", "encoding"])
def test_depth_that_cannot_be_used(camera: BufferedCamera, clock: FakeClock, broken: str) -> None:
    """Color still gives masks; 3D says what is wrong instead of guessing."""
    camera.color(1)
    assert camera.buffer.depth is not None
    if broken == "shape":
        camera.depth(hw=(5, 6))
    elif broken == "content":
        stamp = camera.serialized(image_from_depth(np.zeros((1, 1), np.float32), "32FC1"), 0.0)[:12]
        camera.buffer.depth.store(stamp + b"nonsense")
    else:
        message = image_from_rgb(np.zeros((4, 6, 3), np.uint8), "rgb8")
        camera.buffer.depth.store(camera.serialized(message, 0.0))
    got = camera.frame()
    assert _value(got) == 1
    assert got.frame.depth_m is None
    assert "the depth image cannot be used" in got.no_depth_reason
    expected_reason = {"shape": "not registered", "content": "deserialized", "encoding": "'rgb8'"}[broken]
    assert expected_reason in got.no_depth_reason
    statistics = camera.buffer.statistics()
    assert (statistics.decode_errors, statistics.last_error) == (1, got.no_depth_reason)
    clock.advance(0.1)
    camera.color(2)
    camera.depth()
    assert camera.frame().frame.depth_m is not None
    assert camera.buffer.statistics().no_depth_reason == ""


def _store_depth(camera: BufferedCamera, depth: np.ndarray, frame_id: str = "") -> None:
    message = image_from_array(depth, "16UC1" if depth.dtype == np.uint16 else "32FC1")
    message.header.frame_id = frame_id
    assert camera.buffer.depth is not None
    camera.buffer.depth.store(camera.serialized(message, 0.0))


def test_depth_in_another_frame_is_not_used(camera: BufferedCamera) -> None:
    """Depth that was not registered gave valid positions that were centimeters off, and a note."""
    camera.color()
    _store_depth(camera, np.ones((4, 6), np.float32), "infrared_optical")
    got = camera.frame()
    assert got.frame.depth_m is None
    assert "'infrared_optical'" in got.no_depth_reason
    assert "set front.depth_registered" in got.no_depth_reason


def test_depth_in_another_frame_that_is_registered(clock: FakeClock) -> None:
    camera = BufferedCamera(clock, depth_registered=True)
    camera.color()
    _store_depth(camera, np.ones((4, 6), np.float32), "infrared_optical")
    got = camera.frame()
    assert got.frame.depth_m is not None
    assert got.notes == ()


# ------------------------------------------------------------------------------ frames and units


def test_a_frame_that_is_not_optical_is_noted_and_can_be_replaced(clock: FakeClock) -> None:
    """An image stamped in base_link put an object at (-0.27, -0.16, 1) instead of (1, 0.27, 0.16)."""
    for override, frame_id, noted in (
        ("", "base_link", True),
        ("front_optical", "front_optical", False),
        ("base_link", "base_link", False),
    ):
        camera = BufferedCamera(clock, frame_override=override)
        message = image_from_rgb(np.zeros((4, 6, 3), np.uint8), "rgb8")
        message.header.frame_id = "base_link"
        camera.buffer.image.store(camera.serialized(message, 0.0))
        _store_depth(camera, np.ones((4, 6), np.float32), "base_link")
        got = camera.frame()
        assert got.frame.depth_m is not None
        assert (got.frame.frame_id, got.header.frame_id) == (frame_id, frame_id)
        assert bool(got.notes) == noted
        assert all("'base_link'" in note and "front.frame_override" in note for note in got.notes)


@pytest.mark.parametrize("frame_id", ["/front_optical", "front optical", "x" * 100_000])
def test_names_that_no_frame_has_cost_the_locations_only(clock: FakeClock, frame_id: str) -> None:
    """Nobody finds such a frame in TF: the image is segmented, and its locations are unknown."""
    for override in ("", "front_optical"):
        camera = BufferedCamera(clock, frame_override=override)
        message = image_from_rgb(np.zeros((4, 6, 3), np.uint8), "rgb8")
        message.header.frame_id = frame_id
        camera.buffer.image.store(camera.serialized(message, 0.0))
        _store_depth(camera, np.ones((4, 6), np.float32), "front_optical")
        got = camera.frame()
        assert got.frame.rgb.shape == (4, 6, 3)
        assert (got.frame.depth_m is None) == (not override)
        assert got.frame.frame_id == got.header.frame_id == (override or frame_id)
        if not override:
            assert "frame_id of the images" in got.no_depth_reason
            assert "front.frame_override" in got.no_depth_reason
            assert len(got.no_depth_reason) < 400


def test_depth_of_a_frame_that_nobody_has(clock: FakeClock) -> None:
    camera = BufferedCamera(clock)
    camera.color()
    _store_depth(camera, np.ones((4, 6), np.float32), "/lens_optical")
    got = camera.frame()
    assert got.frame.depth_m is None
    assert "its frame_id '/lens_optical' begins with a slash" in got.no_depth_reason


def test_the_frame_of_color_does_not_matter_without_depth(color_only: BufferedCamera) -> None:
    message = image_from_rgb(np.zeros((4, 6, 3), np.uint8), "rgb8")
    message.header.frame_id = "base_link"
    color_only.buffer.image.store(color_only.serialized(message, 0.0))
    assert color_only.frame().notes == ()


@pytest.mark.parametrize(
    ("value", "scale", "meters", "noted"),
    [
        (np.float32(1000.0), 0.0, 1000.0, True),  # millimeters in 32FC1
        (np.float32(1000.0), 0.001, 1.0, False),
        (np.uint16(10_000), 0.0, 10.0, False),  # tenths of a millimeter: nobody can tell
        (np.uint16(10_000), 0.0001, 1.0, False),
        (np.float32(0.001), 0.0, 0.001, True),
        (np.float32(3.0), 0.0, 3.0, False),
        (np.float32(0.0), 0.0, 0.0, False),
    ],
)
def test_units_of_depth(
    clock: FakeClock, value: np.generic, scale: float, meters: float, noted: bool
) -> None:
    camera = BufferedCamera(clock, depth_scale=scale)
    camera.color()
    _store_depth(camera, np.full((4, 6), value))
    got = camera.frame()
    assert got.frame.depth_m is not None
    assert got.frame.depth_m[0, 0] == pytest.approx(meters)
    assert bool(got.notes) == noted
    assert all("front.depth_scale" in note for note in got.notes)
