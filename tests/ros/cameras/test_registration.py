"""Depth of another camera is registered by TF and its camera info, or refused with what is missing.

A red box (1 m away) in front of a wall (2 m away). What the two cameras see follows from similar triangles:
color has 64×48 px and a focal length of 60 px; depth has 160×100 px, 90 px, and is 0.1 m to the right.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

import xsam_ros.msg as messages
from tests.ros.camera_driver import BufferedCamera, FakeClock
from tests.ros.image_driver import ImageDriver
from xsam_ros.cameras.camera import CameraFrame, CameraTopics
from xsam_ros.cameras.registration import TransformLookupError
from xsam_ros.messages.encode_images import image_from_depth, image_from_rgb
from xsam_ros.srv import Segment

_COLOR_HW, _DEPTH_HW = (48, 64), (100, 160)
_BOX_PX = (slice(8, 24), slice(8, 32))
# Its edges are at x = -0.4 and 0 m, y = -0.2667 and 0 m: 90 · (x - 0.1) / 1 + 79.5 and 90 · y / 1 + 49.5.
_BOX_IN_DEPTH_PX = (slice(26, 50), slice(35, 71))
_BOX_M = (-0.2, -0.1333, 1.0)
_OFFSET_M = 0.1
_COLOR, _DEPTH = "color_optical", "depth_optical"
_TOPICS = CameraTopics(
    image="/front/image_raw",
    depth="/front/depth",
    info="/front/camera_info",
    depth_info="/front/depth/camera_info",
)


def _color() -> Image:
    rgb = np.full((*_COLOR_HW, 3), 120, np.uint8)
    rgb[_BOX_PX] = (255, 0, 0)
    return image_from_rgb(rgb, "rgb8", Header(frame_id=_COLOR))


def _depth(box_m: float = 1.0) -> Image:
    depth = np.full(_DEPTH_HW, 2.0, np.float32)
    depth[_BOX_IN_DEPTH_PX] = box_m
    return image_from_depth(depth, "32FC1", Header(frame_id=_DEPTH))


def _info(hw: tuple[int, int], focal: float, frame_id: str, **fields: Any) -> CameraInfo:
    k = [focal, 0.0, (hw[1] - 1) / 2, 0.0, focal, (hw[0] - 1) / 2, 0.0, 0.0, 1.0]
    return CameraInfo(
        **{"header": Header(frame_id=frame_id), "height": hw[0], "width": hw[1], "k": k, **fields}
    )


_COLOR_INFO = _info(_COLOR_HW, 60.0, _COLOR)
_DEPTH_INFO = _info(_DEPTH_HW, 90.0, _DEPTH)


def _transform() -> NDArray[np.float64]:
    matrix = np.eye(4)
    matrix[0, 3] = _OFFSET_M
    return matrix


class Tf:
    """A `TransformLookup` that knows one transform or none."""

    def __init__(self) -> None:
        self.matrix: NDArray[np.float64] | None = _transform()
        self.asked: list[tuple[str, str]] = []

    def __call__(self, header: Header, target_frame: str) -> NDArray[np.float64]:
        self.asked.append((header.frame_id, target_frame))
        if self.matrix is None:
            raise TransformLookupError("the tree is empty")
        return self.matrix


@pytest.fixture
def tf() -> Tf:
    return Tf()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return FakeClock.installed(monkeypatch)


def _camera(clock: FakeClock, tf: Tf, topics: CameraTopics = _TOPICS, **parameters: Any) -> BufferedCamera:
    given = {"depth_info_topic": topics.depth_info, **parameters}
    camera = BufferedCamera(clock, topics, look_up=tf, **given)
    assert camera.buffer.depth is not None
    assert camera.buffer.info is not None
    for buffer, message in (
        (camera.buffer.image, _color()),
        (camera.buffer.depth, _depth()),
        (camera.buffer.info, _COLOR_INFO),
    ):
        buffer.store(camera.serialized(message, 0.0))
    return camera


def _frame(camera: BufferedCamera) -> CameraFrame:
    return camera.frame(max_side_px=200)


def _store_info(camera: BufferedCamera, info: CameraInfo) -> None:
    assert camera.buffer.depth_info is not None
    camera.buffer.depth_info.store(camera.serialized(info, 0.0))


def test_depth_of_another_frame_and_size_is_registered(clock: FakeClock, tf: Tf) -> None:
    camera = _camera(clock, tf)
    _store_info(camera, _DEPTH_INFO)
    got = _frame(camera)
    assert got.no_depth_reason == ""
    depth = got.frame.depth_m
    assert depth is not None
    assert depth.shape == _COLOR_HW
    np.testing.assert_allclose(depth[8:24, 8:31], 1.0, atol=1e-5)
    np.testing.assert_allclose(depth[26:, 4:], 2.0, atol=1e-5)
    assert tf.asked == [(_DEPTH, _COLOR)]
    assert any("was registered to color" in note for note in got.notes)
    assert _frame(camera) is got


def test_the_frame_of_the_locations_is_the_target(clock: FakeClock, tf: Tf) -> None:
    camera = _camera(clock, tf, frame_override="wrist_optical")
    _store_info(camera, _DEPTH_INFO)
    assert _frame(camera).frame.depth_m is not None
    assert tf.asked == [(_DEPTH, "wrist_optical")]


def test_one_camera_with_two_resolutions_needs_no_tf(clock: FakeClock, tf: Tf) -> None:
    """Depth in the frame of color, of another shape: it was refused, or wrong if the shape was the same."""
    tf.matrix = None
    camera = _camera(clock, tf)
    assert camera.buffer.depth is not None
    camera.buffer.depth.clear()
    depth = np.full(_DEPTH_HW, 2.0, np.float32)
    depth[26:50, 44:80] = 1.0  # 90 · x + 79.5
    message = image_from_depth(depth, "32FC1", Header(frame_id=_COLOR))
    camera.buffer.depth.store(camera.serialized(message, 0.0))
    _store_info(camera, _info(_DEPTH_HW, 90.0, _COLOR))
    got = _frame(camera)
    assert got.frame.depth_m is not None
    expected = np.where(np.isin(np.arange(64), np.arange(8, 32)), 1.0, 2.0)
    np.testing.assert_allclose(got.frame.depth_m[16], expected, atol=1e-5)
    assert tf.asked == []


def test_a_transform_that_comes_later_counts(clock: FakeClock, tf: Tf) -> None:
    """It is no broken message, and the same image has depth as soon as the transform is there."""
    tf.matrix = None
    camera = _camera(clock, tf)
    _store_info(camera, _DEPTH_INFO)
    got = _frame(camera)
    assert got.frame.depth_m is None
    assert f"'{_DEPTH}' and color in '{_COLOR}'" in got.no_depth_reason
    assert "needs TF: the tree is empty" in got.no_depth_reason
    assert camera.buffer.statistics().decode_errors == 0
    tf.matrix = _transform()
    assert _frame(camera).frame.depth_m is not None


@pytest.mark.parametrize(
    ("info", "parameters", "reason"),
    [
        (None, {}, "no depth camera info has arrived on /front/depth/camera_info"),
        (None, {"depth_info_topic": ""}, "set front.depth_info_topic"),
        (_COLOR_INFO, {}, "the depth camera info in 'color_optical'"),
        (_info((50, 75), 60.0, _DEPTH), {}, "aspect ratios differ"),
        (_info(_DEPTH_HW, 1.0, _DEPTH), {}, "field of view"),
        (
            _info(_DEPTH_HW, 90.0, _DEPTH, k=[0.0] * 9, p=[90.0, 0, 79.5, 0, 0, 90.0, 49.5, 0, 0, 0, 1.0, 0]),
            {},
            "depth_rectified: true",
        ),
        (_info(_DEPTH_HW, 90.0, _DEPTH, distortion_model="fov", d=[0.9]), {}, "depth_rectified: true"),
    ],
)
def test_what_is_missing_is_named(
    clock: FakeClock, tf: Tf, info: CameraInfo | None, parameters: dict[str, Any], reason: str
) -> None:
    camera = _camera(clock, tf, **parameters)
    if info is not None:
        _store_info(camera, info)
    got = _frame(camera)
    assert got.frame.depth_m is None
    assert reason in got.no_depth_reason


def test_without_the_color_camera_s_matrix_nothing_is_registered(clock: FakeClock, tf: Tf) -> None:
    camera = _camera(clock, tf)
    _store_info(camera, _DEPTH_INFO)
    assert camera.buffer.info is not None
    camera.buffer.info.clear()
    got = _frame(camera)
    assert got.frame.depth_m is None
    assert "needs the camera matrix of the color image" in got.no_depth_reason
    assert "no camera info has arrived on /front/camera_info" in got.no_intrinsics_reason


def test_depth_that_the_driver_registered_is_not_registered_again(clock: FakeClock, tf: Tf) -> None:
    camera = _camera(clock, tf, depth_registered=True)
    camera.depth(1.5, hw=_COLOR_HW, ago_s=-0.001)
    _store_info(camera, _DEPTH_INFO)
    clock.advance(0.01)
    camera.buffer.image.store(camera.serialized(_color(), 0.009))
    got = _frame(camera)
    assert got.frame.depth_m is not None
    assert (got.frame.depth_m == 1.5).all()
    assert tf.asked == []


def test_frames_that_may_not_be_optical_are_noted(clock: FakeClock, tf: Tf) -> None:
    camera = _camera(clock, tf)
    depth = _depth()
    depth.header.frame_id = "depth_link"
    assert camera.buffer.depth is not None
    camera.buffer.depth.clear()
    camera.buffer.depth.store(camera.serialized(depth, 0.0))
    _store_info(camera, _info(_DEPTH_HW, 90.0, "depth_link"))
    got = _frame(camera)
    assert got.frame.depth_m is not None
    assert any("'depth_link'" in note and "optical" in note for note in got.notes)


def test_the_camera_info_of_another_camera_is_noted(clock: FakeClock, tf: Tf) -> None:
    """Of the same size it cannot be told from the right one, but its focal length may be another."""
    camera = _camera(clock, tf)
    _store_info(camera, _DEPTH_INFO)
    assert camera.buffer.info is not None
    camera.buffer.info.store(camera.serialized(_info(_COLOR_HW, 90.0, "infrared_optical"), 0.0))
    assert any("'infrared_optical'" in note and "front.info_topic" in note for note in _frame(camera).notes)


# --------------------------------------------------------------------------------- the real node


@pytest.fixture
def drive(ros: Any) -> Iterator[Callable[..., ImageDriver]]:
    with contextlib.ExitStack() as drivers:
        yield lambda *what: drivers.enter_context(ImageDriver(ros, *what))


def _location(ros: Any) -> tuple[messages.Location3D, list[str]] | None:
    request = Segment.Request(camera="front", queries=[messages.SegmentQuery(text="red")])
    response = ros.call(Segment, "/xsam/segment", request)
    if not response.results or not response.results[0].instances:
        return None
    (instance,) = response.results[0].instances
    return instance.location, list(response.results[0].notes)


def test_positions_from_depth_of_another_camera(
    ros: Any, spawn: Callable[..., Any], eventually: Callable[..., Any], drive: Any
) -> None:
    params = {
        "cameras": "[front]",
        "front.depth_topic": "/front/depth",
        "front.info_topic": "/front/camera_info",
        "front.depth_info_topic": "/front/depth/camera_info",
        "front.sync_tolerance_s": 0.5,
    }
    spawn("tests/ros/tf_node.py", params=params)
    drive(_color(), "/front/image_raw")
    drive(_COLOR_INFO, "/front/camera_info")
    depth = drive(_depth(), "/front/depth")

    def refused(reason: str) -> bool:
        found = _location(ros)
        return found is not None and not found[0].valid and reason in found[0].reason

    eventually(lambda: refused("no depth camera info has arrived"), "the missing camera info")
    drive(_DEPTH_INFO, "/front/depth/camera_info")
    eventually(lambda: refused(f"no transform from '{_DEPTH}' to '{_COLOR}'"), "the missing transform")
    publisher = ros.node.create_publisher(TransformStamped, "/test_transforms", 10)
    transform = TransformStamped(header=Header(frame_id=_COLOR), child_frame_id=_DEPTH)
    transform.transform.translation.x = _OFFSET_M

    def located() -> tuple[messages.Location3D, list[str]] | None:
        publisher.publish(transform)
        found = _location(ros)
        return found if found is not None and found[0].valid else None

    location, notes = eventually(located, "a position")
    position = location.position
    np.testing.assert_allclose((position.x, position.y, position.z), _BOX_M, atol=0.01)
    assert any("was registered to color" in note for note in notes)
    depth.message = _depth(box_m=0.0)  # as of a black box
    eventually(lambda: refused("may see past the object"), "no position of the wall behind the box")
