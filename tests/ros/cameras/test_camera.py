"""A camera's buffer: serialized messages become a frame, or a refusal that says why."""

from __future__ import annotations

import array
import math
from typing import Any

import cv2
import numpy as np
import pytest
from rclpy.serialization import serialize_message

from tests.ros.camera_driver import BufferedCamera, FakeClock
from tests.ros.camera_driver import first_value as _value
from xsam import InvalidImageError, NoFrameError, StaleFrameError
from xsam_ros.cameras.camera import CameraTopics
from xsam_ros.cameras.parameters import CameraParameters
from xsam_ros.messages.encode_images import compressed_from_depth, compressed_from_rgb, image_from_rgb
from xsam_ros.messages.frames import stamp_from_ns

# --------------------------------------------------------------------------------------- topics


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, ("/front/image_raw", "", "")),
        ({"compressed": True}, ("/front/image_raw/compressed", "", "")),
        ({"image_topic": "/a/b"}, ("/a/b", "", "")),
        ({"image_topic": "/a/b", "depth_topic": "/d"}, ("/a/b", "/d", "/a/camera_info")),
        ({"image_topic": "b", "depth_topic": "/d"}, ("b", "/d", "camera_info")),
        ({"image_topic": "~/b", "depth_topic": "/d"}, ("~/b", "/d", "~/camera_info")),
        (
            {"image_topic": "/a/b/compressed", "compressed": True, "depth_topic": "/d"},
            ("/a/b/compressed", "/d", "/a/camera_info"),
        ),
        ({"depth_topic": "/d", "info_topic": "/i"}, ("/front/image_raw", "/d", "/i")),
        ({"info_topic": "/i"}, ("/front/image_raw", "", "/i")),
    ],
)
def test_topics_that_follow_from_the_parameters(
    parameters: dict[str, Any], expected: tuple[str, str, str]
) -> None:
    topics = CameraTopics.from_parameters("front", CameraParameters(**parameters))
    assert (topics.image, topics.depth, topics.info) == expected


# --------------------------------------------------------------------------------------- color


def test_nothing_arrived(color_only: BufferedCamera) -> None:
    with pytest.raises(NoFrameError, match="/front/image_raw"):
        color_only.frame()
    statistics = color_only.buffer.statistics()
    assert (statistics.image.received, statistics.used, statistics.overwritten) == (0, 0, 0)
    assert math.isnan(statistics.image.age_s)


def test_an_incompatible_quality_of_service_is_named(camera: BufferedCamera) -> None:
    """The first thing that goes wrong with a new camera, and the last thing people check."""
    assert camera.buffer.depth is not None
    camera.buffer.image.report_incompatible("RELIABILITY", 1)
    camera.buffer.depth.report_incompatible("DURABILITY", 1)
    with pytest.raises(NoFrameError, match=r"RELIABILITY.*front\.image_qos"):
        camera.frame()
    camera.color()
    assert "DURABILITY" in camera.frame().no_depth_reason


def test_the_newest_image_counts(color_only: BufferedCamera, clock: FakeClock) -> None:
    for value in (1, 2, 3):
        color_only.color(value)
        clock.advance(0.1)
    got = color_only.frame()
    assert _value(got) == 3
    assert (got.frame.camera, got.frame.frame_id, got.sequence) == ("front", "lens_optical", 3)
    assert got.frame.stamp_ns == clock.node_ns() - 100_000_000
    assert got.header.stamp == stamp_from_ns(got.frame.stamp_ns)


def test_a_stamp_that_makes_no_sense_is_passed_on(clock: FakeClock) -> None:
    camera = BufferedCamera(clock, stamp_clock="other")
    message = image_from_rgb(np.zeros((2, 2, 3), np.uint8), "rgb8")
    message.header.stamp.nanosec = 4_000_000_000
    camera.buffer.image.store(serialize_message(message))
    assert camera.frame().header.stamp.nanosec == 4_000_000_000


def test_storing_decodes_nothing(camera: BufferedCamera) -> None:
    for topic in (camera.buffer.image, camera.buffer.depth, camera.buffer.info):
        assert topic is not None
        topic.store(b"this is no message")
    assert camera.buffer.statistics().decode_errors == 0


def test_an_image_that_cannot_be_read_is_an_error_that_is_counted(camera: BufferedCamera) -> None:
    camera.buffer.image.store(b"this is no message")
    for _ in range(2):
        with pytest.raises(InvalidImageError, match=r"camera 'front'.*18 bytes"):
            camera.frame()
    statistics = camera.buffer.statistics()
    assert (statistics.decode_errors, statistics.used) == (2, 1)
    assert "18 bytes" in statistics.last_error
    camera.color(7)
    assert _value(camera.frame()) == 7


def test_a_camera_that_stopped_is_stale(color_only: BufferedCamera, clock: FakeClock) -> None:
    color_only.color()
    clock.advance(0.9)
    color_only.frame(max_age_s=1.0)
    clock.advance(0.2)
    with pytest.raises(StaleFrameError, match=r"1\.10 s old, at most 1\.00 s") as caught:
        color_only.frame(max_age_s=1.0)
    assert "still publishes" in str(caught.value)


def test_an_image_that_took_long_to_arrive_is_stale(color_only: BufferedCamera) -> None:
    """Counting from arrival alone would call an image from two seconds ago fresh."""
    color_only.color(ago_s=2.0)
    with pytest.raises(StaleFrameError, match=r"2\.00 s old \(it arrived 0\.00 s ago\)") as caught:
        color_only.frame()
    assert "clocks" in str(caught.value)


@pytest.mark.parametrize("ago_s", [59.0, 61.0, 3600.0, 946_080_000.0])
def test_an_old_stamp_is_stale_however_old(color_only: BufferedCamera, ago_s: float) -> None:
    """Beyond a minute, up to 30 years, the stamp was taken for that of another clock: valid positions."""
    color_only.color(ago_s=ago_s)
    with pytest.raises(StaleFrameError, match=f"{ago_s:.2f} s old") as caught:
        color_only.frame()
    assert "use_sim_time" in caught.value.hint
    assert "front.stamp_clock: other" in caught.value.hint


@pytest.mark.parametrize("ahead_s", [2.0, 3600.0])
def test_a_stamp_in_the_future_has_no_age(color_only: BufferedCamera, ahead_s: float) -> None:
    color_only.color(ago_s=-0.9)
    color_only.frame()  # clocks that differ a little
    color_only.color(ago_s=-ahead_s)
    with pytest.raises(StaleFrameError, match=f"{ahead_s:.2f} s in the future") as caught:
        color_only.frame()
    assert "front.stamp_clock: other" in caught.value.hint


@pytest.mark.parametrize("ago_s", [3600.0, -3600.0])
def test_a_camera_with_a_clock_of_its_own(clock: FakeClock, ago_s: float) -> None:
    camera = BufferedCamera(clock, stamp_clock="other")
    camera.color(ago_s=ago_s)
    assert "front.stamp_clock" in camera.frame().notes[0]
    clock.advance(1.1)
    with pytest.raises(StaleFrameError, match=r"1\.10 s old"):
        camera.frame()


def test_an_image_without_a_stamp_counts_from_arrival(color_only: BufferedCamera, clock: FakeClock) -> None:
    message = image_from_rgb(np.zeros((2, 2, 3), np.uint8), "rgb8")
    color_only.buffer.image.store(serialize_message(message))
    assert "no stamp" in color_only.frame().notes[0]
    clock.advance(1.1)
    with pytest.raises(StaleFrameError):
        color_only.frame()


@pytest.mark.parametrize(
    ("rate", "seconds", "fresh"), [(0.05, 19.0, True), (0.05, 21.0, False), (0.0, 1e4, True)]
)
def test_limits_are_in_simulated_time(
    camera: BufferedCamera, clock: FakeClock, rate: float, seconds: float, fresh: bool
) -> None:
    """At a real-time factor of 0.05, 9 of 16 requests were stale; in a paused simulation, all were."""
    clock.simulated, clock.rate = True, rate
    camera.color()
    camera.depth()
    clock.advance(seconds)
    if fresh:
        assert camera.frame().frame.depth_m is not None
    else:
        with pytest.raises(StaleFrameError, match=r"1\.05 s old"):
            camera.frame()


def test_too_large(color_only: BufferedCamera) -> None:
    color_only.color()
    with pytest.raises(InvalidImageError, match="6×4"):
        color_only.frame(max_side_px=5)


def test_size_and_encoding_may_change(color_only: BufferedCamera, clock: FakeClock) -> None:
    rgb = np.zeros((8, 10, 3), np.uint8)
    rgb[..., 0] = 200
    for encoding, hw in (("rgb8", (8, 10)), ("bgr8", (4, 4)), ("bayer_grbg8", (8, 6)), ("nv12", (2, 10))):
        image = np.ascontiguousarray(rgb[: hw[0], : hw[1]])
        color_only.buffer.image.store(serialize_message(image_from_rgb(image, encoding)))
        got = color_only.frame().frame
        assert got.image_hw == hw
        np.testing.assert_allclose(got.rgb[0, 0].astype(int), (200, 0, 0), atol=4)
        clock.advance(0.1)


def test_the_same_image_is_decoded_once(camera: BufferedCamera, clock: FakeClock) -> None:
    """Several queries on one frame pass the same `Frame` to the engine."""
    camera.color(1)
    camera.depth()
    camera.info()
    first = camera.frame()
    camera.info()  # arrives with every image, unchanged
    assert camera.frame() is first
    assert camera.buffer.statistics().used == 1
    camera.info(focal_px=9.0)
    second = camera.frame()
    assert second is not first
    assert second.frame.intrinsics is not None
    assert second.frame.intrinsics[0, 0] == 9.0
    clock.advance(0.1)
    camera.color(2)
    camera.depth()
    assert _value(camera.frame()) == 2
    assert camera.buffer.statistics().used == 2


def test_a_smaller_limit_applies_to_an_image_that_was_decoded(color_only: BufferedCamera) -> None:
    color_only.color()
    color_only.frame(max_side_px=6)
    with pytest.raises(InvalidImageError):
        color_only.frame(max_side_px=5)


def test_clear(camera: BufferedCamera) -> None:
    camera.color()
    camera.depth()
    camera.frame()
    camera.buffer.clear()
    with pytest.raises(NoFrameError):
        camera.frame()
    assert camera.buffer.statistics().used == 0
    camera.color()
    assert camera.frame().frame.depth_m is None, "depth from before must not be paired"


def test_compressed_color_and_depth(clock: FakeClock) -> None:
    camera = BufferedCamera(clock, compressed=True, depth_compressed=True)
    rgb = np.zeros((8, 10, 3), np.uint8)
    rgb[2:, 3:] = (10, 200, 30)
    depth_m = np.where(rgb[..., 1] > 0, np.float32(1.5), np.float32(0))
    assert camera.buffer.depth is not None
    camera.buffer.image.store(camera.serialized(compressed_from_rgb(rgb, "png"), 0.0))
    camera.buffer.depth.store(camera.serialized(compressed_from_depth(depth_m, "32FC1"), 0.0))
    got = camera.frame()
    np.testing.assert_array_equal(got.frame.rgb, rgb)
    assert got.frame.depth_m is not None
    np.testing.assert_allclose(got.frame.depth_m, depth_m, atol=1e-3)


@pytest.mark.parametrize(
    ("file_format", "kind", "parameters", "passed_on"),
    [
        ("jpeg", None, {}, True),
        ("jpeg", "mono8; jpeg compressed mono8", {}, True),
        ("png", None, {}, False),
        ("jpeg", None, {"swap_red_blue": True}, False),
        ("jpeg", None, {"bit_depth": 8}, False),
        ("jpeg", "bayer_rggb8; jpeg compressed bayer_rggb8", {}, False),
    ],
)
def test_the_file_of_a_jpeg_camera_goes_with_its_frame(
    clock: FakeClock, file_format: str, kind: str | None, parameters: dict[str, Any], passed_on: bool
) -> None:
    """A server gets it untouched; not where others would see other pixels in it."""
    camera = BufferedCamera(clock, compressed=True, **parameters)
    rgb = np.zeros((8, 16, 3), np.uint8)
    rgb[2:, 3:] = (10, 200, 30)
    message = compressed_from_rgb(rgb, file_format)
    if kind is not None:
        gray = cv2.imencode(".jpg", np.ascontiguousarray(rgb[..., 1]))[1]
        message.data, message.format = array.array("B", gray.tobytes()), kind
    camera.buffer.image.store(camera.serialized(message, 0.0))
    frame = camera.frame().frame
    assert frame.encoded == (bytes(message.data) if passed_on else None)


# ----------------------------------------------------------------------------------- statistics


def test_counts(camera: BufferedCamera, clock: FakeClock) -> None:
    """Ten images, of which the fourth and the tenth are used: eight are overwritten."""
    for index in range(1, 11):
        camera.color(index)
        camera.depth()
        clock.advance(0.1)
        if index in (4, 10):
            camera.frame()
    camera.frame()
    statistics = camera.buffer.statistics()
    assert (statistics.name, statistics.image.received) == ("front", 10)
    assert (statistics.used, statistics.overwritten, statistics.with_depth) == (2, 8, 2)
    assert statistics.depth is not None
    assert statistics.depth.received == 10
    assert statistics.info is not None
    assert statistics.info.received == 0
    camera.color(11)
    assert camera.buffer.statistics().overwritten == 8, "the newest may still be used"


def test_memory_is_bounded(clock: FakeClock) -> None:
    """Color is kept for max_depth_lag_s, depth a second longer, both within buffer_mb."""
    camera = BufferedCamera(clock, buffer_mb=1)
    for _ in range(200):
        camera.color(hw=(100, 100))
        camera.depth(hw=(100, 100))
        clock.advance(0.01)
    statistics = camera.buffer.statistics()
    assert 0.19 <= statistics.image.held * 0.01 <= 0.22
    assert statistics.depth is not None
    assert 900_000 < statistics.depth.held_bytes <= 1_000_000


def test_color_alone_keeps_one_image(color_only: BufferedCamera) -> None:
    for _ in range(3):
        color_only.color()
    assert color_only.buffer.statistics().image.held == 1


def test_waiting(camera: BufferedCamera) -> None:
    assert not camera.buffer.wait_newer(0, timeout_s=0.0)
    camera.color()
    assert camera.buffer.wait_newer(0, timeout_s=0.0)
    assert not camera.buffer.wait_newer(camera.frame().sequence, timeout_s=0.0)
