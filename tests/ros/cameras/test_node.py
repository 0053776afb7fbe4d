"""Cameras of the node in a process of its own: compressed, changing, restarting, with a jumping clock."""

from __future__ import annotations

import array
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image

import xsam_ros.msg as messages
from tests.ros.image_driver import ImageDriver
from xsam_ros.messages.encode_images import compressed_from_rgb, image_from_rgb
from xsam_ros.messages.frames import stamp_from_ns
from xsam_ros.srv import GetStatus, Segment

Spawn = Callable[..., Any]
Eventually = Callable[..., Any]
_NODE = "tests/ros/color_node.py"


def _scene(height: int = 48, width: int = 64) -> np.ndarray:
    """A red rectangle on gray that fills the upper left quarter but for a margin of 8 px."""
    rgb = np.full((height, width, 3), 120, np.uint8)
    rgb[8 : height // 2, 8 : width // 2] = (255, 0, 0)
    return rgb


@pytest.fixture
def drive(ros: Any) -> Iterator[Callable[..., ImageDriver]]:
    with contextlib.ExitStack() as drivers:
        yield lambda *what, **options: drivers.enter_context(ImageDriver(ros, *what, **options))


def _ask(ros: Any, *, max_age_s: float = 0.0) -> Segment.Response:
    query = messages.SegmentQuery(text="red")
    request = Segment.Request(camera="front", queries=[query], max_age_s=max_age_s)
    return ros.call(Segment, "/xsam/segment", request)


def _answer(ros: Any, **options: Any) -> messages.SegmentationResult | None:
    """The result, once there is a frame; any other refusal fails the test."""
    response = _ask(ros, **options)
    if response.code in ("NO_FRAME", "STALE_FRAME", "NOT_ACTIVE"):
        return None
    assert response.status == Segment.Response.STATUS_ANSWERED, response
    return response.results[0]


def _box(result: messages.SegmentationResult) -> tuple[float, ...]:
    (instance,) = result.instances
    return (instance.box.x_min, instance.box.y_min, instance.box.x_max, instance.box.y_max)


def test_a_compressed_camera(spawn: Spawn, ros: Any, eventually: Eventually, drive: Any) -> None:
    spawn(_NODE, params={"cameras": "[front]", "front.compressed": "true"})
    drive(compressed_from_rgb(_scene(), "png"), "/front/image_raw/compressed")
    result = eventually(lambda: _answer(ros), "an answer")
    assert (_box(result), result.header.frame_id) == ((8, 8, 32, 24), "lens")
    (camera,) = ros.call(GetStatus, "/xsam/get_status", GetStatus.Request()).cameras
    assert (camera.image_topic, camera.publishers) == ("/front/image_raw/compressed", 1)


def test_a_decompression_bomb_is_refused(spawn: Spawn, ros: Any, eventually: Eventually, drive: Any) -> None:
    process = spawn(
        _NODE, params={"cameras": "[front]", "front.compressed": "true", "max_image_side_px": 100}
    )
    driver = drive(
        compressed_from_rgb(np.zeros((8, 4000, 3), np.uint8), "png"), "/front/image_raw/compressed"
    )
    response = eventually(lambda: (now := _ask(ros)).code == "INVALID_IMAGE" and now, "a refusal")
    assert "camera 'front'" in response.message
    assert "4000×8" in response.message
    driver.message = CompressedImage(format="jpeg", data=array.array("B", b"\xff\xd8\xff\xe0 nonsense"))
    eventually(lambda: "decoded" in _ask(ros).message, "the other refusal")
    driver.message = compressed_from_rgb(_scene(), "jpeg")
    eventually(lambda: _ask(ros).status == Segment.Response.STATUS_ANSWERED, "an answer")
    assert process.running


def test_size_and_encoding_change_while_it_runs(
    spawn: Spawn, ros: Any, eventually: Eventually, drive: Any
) -> None:
    spawn(_NODE, params={"cameras": "[front]"})
    driver = drive(image_from_rgb(_scene(), "rgb8"), "/front/image_raw")
    eventually(lambda: _answer(ros), "an answer")
    for encoding, height, width in (("bgr8", 96, 128), ("nv12", 40, 80), ("bayer_gbrg8", 48, 48)):
        driver.message = image_from_rgb(_scene(height, width), encoding)

        def changed(height: int = height, width: int = width) -> Any:
            result = _answer(ros)
            sizes = result is not None and (result.image_height, result.image_width)
            return result if sizes == (height, width) else None

        result = eventually(changed, encoding)
        np.testing.assert_allclose(_box(result), (8, 8, width // 2, height // 2), atol=1)
    driver.message = Image(height=5, width=5, step=1, encoding="rgb8")
    eventually(lambda: _ask(ros).code == "INVALID_IMAGE", "a refusal of a broken image")
    driver.message = image_from_rgb(_scene(), "rgb8")
    eventually(lambda: _ask(ros).status == Segment.Response.STATUS_ANSWERED, "an answer")


def test_a_camera_that_stops_and_starts_again(
    spawn: Spawn, ros: Any, eventually: Eventually, drive: Any
) -> None:
    spawn(_NODE, params={"cameras": "[front]"})
    driver = drive(image_from_rgb(_scene(), "rgb8"), "/front/image_raw")
    before = eventually(lambda: _answer(ros), "an answer")
    driver.stop()
    eventually(lambda: _ask(ros, max_age_s=0.3).code == "STALE_FRAME", "a stale frame")
    driver.start()
    after = eventually(lambda: _answer(ros, max_age_s=0.3), "an answer of a fresh frame")
    assert after.header.stamp.sec >= before.header.stamp.sec


def test_a_frame_from_before_the_break_is_not_served(
    spawn: Spawn, ros: Any, eventually: Eventually, drive: Any
) -> None:
    """Deactivated and activated again: the last frame of the first time is no frame of the second."""
    spawn(_NODE, params={"cameras": "[front]"})
    driver = drive(image_from_rgb(_scene(), "rgb8"), "/front/image_raw")
    eventually(lambda: _answer(ros), "an answer")
    driver.stop()
    for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE):
        request = ChangeState.Request(transition=Transition(id=transition))
        assert ros.call(ChangeState, "/xsam/change_state", request).success
    assert _ask(ros, max_age_s=60.0).code == "NO_FRAME"
    driver.start()
    eventually(lambda: _answer(ros), "an answer after the break")


def test_a_simulation_that_is_reset(spawn: Spawn, ros: Any, eventually: Eventually, drive: Any) -> None:
    """The clock jumps back and ahead; stamps and node clock jump one after the other, as messages do."""
    spawn(_NODE, params={"cameras": "[front]", "use_sim_time": "true"})
    clock = ros.node.create_publisher(Clock, "/clock", 1)
    now = stamp_from_ns(0)
    driver = drive(image_from_rgb(_scene(), "rgb8"), "/front/image_raw", stamp=lambda: now)

    def answered() -> bool:
        result = _answer(ros)
        return result is not None and result.header.stamp == now

    for now_s in (500, 10, 1010, 1015):
        now = stamp_from_ns(now_s * 1_000_000_000)
        clock.publish(Clock(clock=now))
        eventually(answered, f"an answer at {now_s} s")
    driver.stop()


def test_a_topic_that_cannot_be_one(spawn: Spawn, ros: Any, eventually: Eventually) -> None:
    """Camera parameters are declared on configure: the node says why that failed, and stays."""
    spawn(_NODE, params={"cameras": "[front]", "front.image_topic": "/no spaces please"})

    def status() -> GetStatus.Response:
        return ros.call(GetStatus, "/xsam/get_status", GetStatus.Request())

    last_error = eventually(lambda: status().last_error, "the reason")
    assert "front.image_topic" in last_error
    assert "must not contain characters" in last_error
    assert status().state == "unconfigured"
