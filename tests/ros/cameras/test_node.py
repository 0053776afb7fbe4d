"""Cameras of a node in its own process: compressed, changing, restarting, with a jumping clock."""

from __future__ import annotations

import array
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

import xsam_ros.msg as messages
from tests.ros.image_driver import ImageDriver
from xsam_ros.messages.encode_images import compressed_from_rgb, image_from_depth, image_from_rgb
from xsam_ros.messages.frames import stamp_from_ns
from xsam_ros.srv import GetStatus, Segment

Spawn = Callable[..., Any]
Eventually = Callable[..., Any]
_NODE = "tests/ros/color_node.py"


def _scene(height: int = 48, width: int = 64) -> np.ndarray:
    """Return a red rectangle on gray that fills the upper left quarter but for a margin of 8 px."""
    rgb = np.full((height, width, 3), 120, np.uint8)
    rgb[8 : height // 2, 8 : width // 2] = (255, 0, 0)
    return rgb


@pytest.fixture(scope="module")
def segmenter(request: pytest.FixtureRequest, module_spawn: Spawn) -> Iterator[Any]:
    """The node's process; consecutive tests with the same parameters share it."""
    process = module_spawn(_NODE, params={"cameras": "[front]", **request.param})
    yield process
    process.stop()


def _parameters(**params: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("segmenter", [params], indirect=True, ids=[""])


_raw = _parameters()
_compressed = _parameters(**{"front.compressed": "true", "max_image_side_px": 100})


@pytest.fixture
def drive(ros: Any) -> Iterator[Callable[..., ImageDriver]]:
    with contextlib.ExitStack() as drivers:
        yield lambda *what, **options: drivers.enter_context(ImageDriver(ros, *what, **options))


def _request(ros: Any, *, max_age_s: float = 0.0) -> Segment.Response:
    query = messages.SegmentQuery(text="red")
    request = Segment.Request(camera="front", queries=[query], max_age_s=max_age_s)
    return ros.call(Segment, "/xsam/segment", request)


def _result(ros: Any, **options: Any) -> messages.SegmentationResult | None:
    """Return the result, None while there is no frame; any other refusal fails the test."""
    response = _request(ros, **options)
    if response.code in ("NO_FRAME", "STALE_FRAME", "NOT_ACTIVE"):
        return None
    assert response.status == Segment.Response.STATUS_ANSWERED, response
    return response.results[0]


def _box(result: messages.SegmentationResult) -> tuple[float, ...]:
    (instance,) = result.instances
    return (instance.box.x_min, instance.box.y_min, instance.box.x_max, instance.box.y_max)


@_compressed
@pytest.mark.usefixtures("segmenter")
def test_a_compressed_camera(ros: Any, eventually: Eventually, drive: Any) -> None:
    drive(compressed_from_rgb(_scene(), "png"), "/front/image_raw/compressed")
    result = eventually(lambda: _result(ros), "a result")
    assert (_box(result), result.header.frame_id) == ((8, 8, 32, 24), "lens")

    def status() -> messages.CameraStatus:
        return ros.call(GetStatus, "/xsam/get_status", GetStatus.Request()).cameras[0]

    assert status().image_topic == "/front/image_raw/compressed"
    eventually(lambda: status().publishers == 1, "the end of publishers of earlier tests")


@_compressed
def test_a_decompression_bomb_is_refused(
    segmenter: Any, ros: Any, eventually: Eventually, drive: Any
) -> None:
    driver = drive(
        compressed_from_rgb(np.zeros((8, 4000, 3), np.uint8), "png"), "/front/image_raw/compressed"
    )
    response = eventually(lambda: (now := _request(ros)).code == "INVALID_IMAGE" and now, "a refusal")
    assert "camera 'front'" in response.message
    assert "4000×8" in response.message
    driver.message = CompressedImage(format="jpeg", data=array.array("B", b"\xff\xd8\xff\xe0 nonsense"))
    eventually(lambda: "decoded" in _request(ros).message, "the other refusal")
    driver.message = compressed_from_rgb(_scene(), "jpeg")
    eventually(lambda: _request(ros).status == Segment.Response.STATUS_ANSWERED, "a result")
    assert segmenter.running


@_raw
@pytest.mark.usefixtures("segmenter")
def test_size_and_encoding_change_while_it_runs(ros: Any, eventually: Eventually, drive: Any) -> None:
    driver = drive(image_from_rgb(_scene(), "rgb8"), "/front/image_raw")
    eventually(lambda: _result(ros), "a result")
    for encoding, height, width in (("bgr8", 96, 128), ("nv12", 40, 80), ("bayer_gbrg8", 48, 48)):
        driver.message = image_from_rgb(_scene(height, width), encoding)

        def changed(height: int = height, width: int = width) -> Any:
            result = _result(ros)
            sizes = result is not None and (result.image_height, result.image_width)
            return result if sizes == (height, width) else None

        result = eventually(changed, encoding)
        np.testing.assert_allclose(_box(result), (8, 8, width // 2, height // 2), atol=1)
    driver.message = Image(height=5, width=5, step=1, encoding="rgb8")
    eventually(lambda: _request(ros).code == "INVALID_IMAGE", "a refusal of a broken image")
    driver.message = image_from_rgb(_scene(), "rgb8")
    eventually(lambda: _request(ros).status == Segment.Response.STATUS_ANSWERED, "a result")


@_raw
@pytest.mark.usefixtures("segmenter")
def test_a_camera_that_stops_and_starts_again(ros: Any, eventually: Eventually, drive: Any) -> None:
    driver = drive(image_from_rgb(_scene(), "rgb8"), "/front/image_raw")
    before = eventually(lambda: _result(ros), "a result")
    driver.stop()
    eventually(lambda: _request(ros, max_age_s=0.3).code == "STALE_FRAME", "a stale frame")
    driver.start()
    after = eventually(lambda: _result(ros, max_age_s=0.3), "a result on a fresh frame")
    assert after.header.stamp.sec >= before.header.stamp.sec


@_raw
@pytest.mark.usefixtures("segmenter")
def test_a_frame_from_before_the_break_is_not_served(ros: Any, eventually: Eventually, drive: Any) -> None:
    """After the node is deactivated and activated again, the last frame from before does not count."""
    driver = drive(image_from_rgb(_scene(), "rgb8"), "/front/image_raw")
    eventually(lambda: _result(ros), "a result")
    driver.stop()
    for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE):
        request = ChangeState.Request(transition=Transition(id=transition))
        assert ros.call(ChangeState, "/xsam/change_state", request).success
    assert _request(ros, max_age_s=60.0).code == "NO_FRAME"
    driver.start()
    eventually(lambda: _result(ros), "a result after the break")


_K = [60.0, 0.0, 31.5, 0.0, 60.0, 23.5, 0.0, 0.0, 1.0]
_P = [60.0, 0.0, 31.5, 0.0, 0.0, 60.0, 23.5, 0.0, 0.0, 0.0, 1.0, 0.0]


def _info(k: list[float] = _K, **fields: Any) -> CameraInfo:
    return CameraInfo(**{"height": 48, "width": 64, "k": k, "distortion_model": "plumb_bob", **fields})


@_parameters(
    **{
        "front.depth_topic": "/front/depth",
        "front.info_topic": "/front/camera_info",
        "front.sync_tolerance_s": 0.5,
    }
)
@pytest.mark.usefixtures("segmenter")
def test_positions_of_right_and_of_impossible_camera_matrices(
    ros: Any, eventually: Eventually, drive: Any
) -> None:
    """Each matrix below gave a valid position somewhere else, up to 20 m away."""
    drive(image_from_rgb(_scene(), "rgb8"), "/front/image_raw")
    drive(image_from_depth(np.ones((48, 64), np.float32), "32FC1"), "/front/depth")
    info = drive(_info(), "/front/camera_info")

    def location(reason: str) -> Any:
        result = _result(ros)
        if result is None or reason not in result.instances[0].location.reason:
            return None
        found = result.instances[0].location
        return result if found.valid or reason else None

    result = eventually(lambda: location(""), "a location")
    (instance,) = result.instances
    position = instance.location.position
    np.testing.assert_allclose((position.x, position.y, position.z), (-0.2, -0.1333, 1.0), atol=0.01)
    assert ["front.frame_override" in note for note in result.notes] == [True], "the frame is 'lens'"
    for matrix, reason in (
        ([1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0], "rectified: true"),
        ([60.0, 0, 31.5, 0, 1.0, 23.5, 0, 0, 1.0], "fy = 1 px"),
        ([60.0, 0, 0, 0, 60.0, 0, 31.5, 23.5, 1.0], "row-major"),
        ([360.0, 0, 189, 0, 360.0, 141, 0, 0, 1.0], "another resolution"),
    ):
        info.message = _info([float(value) for value in matrix], p=_P)
        result = eventually(lambda reason=reason: location(reason), reason)
        assert not result.instances[0].location.valid
        assert result.instances[0].area > 0, "the mask is there all the same"
    info.message = _info(d=[0.0] * 4, distortion_model="equidistant")
    eventually(lambda: location("coefficients are all 0"), "a refusal of the lens")
    info.message = _info(d=[-0.28, 0.07, 0.0, 0.0, 0.0])
    result = eventually(
        lambda: (now := location("")) and now.instances[0].location.valid and now, "a location"
    )
    assert result.instances[0].location.position.x < -0.2, "a barrel lens draws things to the middle"
    assert any("distortion (plumb_bob) is corrected" in note for note in result.notes)
    (camera,) = ros.call(GetStatus, "/xsam/get_status", GetStatus.Request()).cameras
    assert list(camera.notes) == list(result.notes), "the status says what limits the camera"


@_parameters(use_sim_time="true")
@pytest.mark.usefixtures("segmenter")
def test_a_simulation_that_is_reset(ros: Any, eventually: Eventually, drive: Any) -> None:
    """The clock jumps back and ahead; stamps and node clock do not jump at the same moment."""
    clock = ros.node.create_publisher(Clock, "/clock", 1)
    now = stamp_from_ns(0)
    driver = drive(image_from_rgb(_scene(), "rgb8"), "/front/image_raw", stamp=lambda: now)

    def answered() -> bool:
        clock.publish(Clock(clock=now))  # again and again, as simulators do
        result = _result(ros)
        return result is not None and result.header.stamp == now

    for now_s in (500, 10, 1010, 1015):
        now = stamp_from_ns(now_s * 1_000_000_000)
        eventually(answered, f"a result at {now_s} s")
    driver.stop()
    stopped_s = time.monotonic()
    eventually(lambda: time.monotonic() - stopped_s > 1.5, "more real seconds than max_frame_age_s")
    assert answered(), "a paused simulation: no simulated time has passed"


@_parameters(**{"front.image_topic": "/no spaces please"})
@pytest.mark.usefixtures("segmenter")
def test_a_topic_that_cannot_be_one(ros: Any, eventually: Eventually) -> None:
    """Camera parameters are declared on configure: the node reports why that failed, and stays up."""

    def status() -> GetStatus.Response:
        return ros.call(GetStatus, "/xsam/get_status", GetStatus.Request())

    last_error = eventually(lambda: status().last_error, "the reason")
    assert "front.image_topic" in last_error
    assert "must not contain characters" in last_error
    assert status().state == "unconfigured"
