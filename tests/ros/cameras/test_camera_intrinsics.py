"""Intrinsics and lens of the frames that a camera's buffer gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from std_msgs.msg import Header

from tests.ros.camera_driver import TOPICS, BufferedCamera, FakeClock
from xsam.spatial.localize import locate_mask
from xsam.types.lens import LensDistortion
from xsam_ros.cameras.camera import CameraFrame
from xsam_ros.messages.encode_images import image_from_depth, image_from_rgb


def test_intrinsics(camera: BufferedCamera) -> None:
    camera.info(focal_px=5.0)
    camera.color(hw=(8, 12))
    got = camera.frame()
    assert got.frame.intrinsics is not None
    np.testing.assert_allclose(got.frame.intrinsics, [[10, 0, 5.5], [0, 10, 3.5], [0, 0, 1]])
    assert got.no_intrinsics_reason == ""


def test_intrinsics_stay_when_the_camera_info_stops(camera: BufferedCamera, clock: FakeClock) -> None:
    """Some drivers publish it once."""
    camera.info()
    clock.advance(1000.0)
    camera.color()
    assert camera.frame().frame.intrinsics is not None


def test_no_camera_info_yet(camera: BufferedCamera) -> None:
    camera.color()
    got = camera.frame()
    assert got.frame.intrinsics is None
    assert "no camera info has arrived on /front/camera_info" in got.no_intrinsics_reason


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"k": [0.0] * 9}, "not calibrated"), ({"hw": (4, 4)}, "aspect ratios differ")],
)
def test_a_camera_info_that_cannot_be_used(
    camera: BufferedCamera, fields: dict[str, Any], reason: str
) -> None:
    camera.info(**fields)
    camera.color()
    got = camera.frame()
    assert got.frame.intrinsics is None
    assert reason in got.no_intrinsics_reason
    assert camera.buffer.statistics().decode_errors == 1


def test_rectified_images(clock: FakeClock) -> None:
    p = [7.0, 0.0, 2.0, 0.0, 0.0, 8.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    camera = BufferedCamera(clock, rectified=True)
    camera.info(p=p, d=[0.1, 0.0, 0.0, 0.0, 0.0])
    camera.color()
    got = camera.frame()
    assert got.frame.intrinsics is not None
    assert (got.frame.intrinsics[0, 0], got.frame.intrinsics[1, 1]) == (7.0, 8.0)
    assert got.notes == ()


_D = [-0.28, 0.07, 0.0002, 0.00002, 0.0]


def test_distortion_is_corrected_and_noted(camera: BufferedCamera) -> None:
    camera.info(d=_D, distortion_model="plumb_bob")
    camera.color()
    camera.depth()
    got = camera.frame()
    assert got.frame.lens == LensDistortion(model="plumb_bob", coefficients=tuple(_D))
    assert len(got.notes) == 1
    assert "distortion (plumb_bob) is corrected" in got.notes[0]


@pytest.mark.parametrize(
    ("model", "coefficients", "reason"),
    [
        ("equidistant", [0.0] * 4, "equidistant, but its coefficients are all 0"),
        ("equidistant", [], "equidistant, but its coefficients are all 0"),
        ("equidistant", [0.1] * 5, "equidistant has 4 coefficients, got 5"),
        ("kannala_brandt", [0.1] * 4, "unknown lens model 'kannala_brandt'"),
        ("omnidirectional", [0.0] * 4, "unknown lens model 'omnidirectional'"),
        ("", [0.1] * 5, "unknown lens model ''"),
    ],
)
def test_a_lens_that_cannot_be_corrected_gives_no_locations(
    camera: BufferedCamera, model: str, coefficients: list[float], reason: str
) -> None:
    """Equidistant with coefficients 0, read as a pinhole camera's, gave 1.40 m for 5.80 m."""
    camera.info(d=coefficients, distortion_model=model)
    camera.color()
    assert camera.frame().frame.intrinsics is not None, "without depth, nothing is located"
    camera.depth()
    got = camera.frame()
    assert got.frame.depth_m is not None
    assert got.frame.intrinsics is None
    assert reason in got.no_intrinsics_reason
    assert "rectified: true" in got.no_intrinsics_reason


def test_images_that_seem_rectified_are_noted(clock: FakeClock) -> None:
    camera = BufferedCamera(clock, replace(TOPICS, image="/front/image_rect_color"))
    camera.info(d=_D, distortion_model="plumb_bob")
    camera.color()
    camera.depth()
    assert "front.rectified" in camera.frame().notes[1]


# ------------------------------------------------------------------- the second camera of a stereo pair

_HW = (40, 64)
_STEREO = {"hw": _HW, "k": [50.0, 0.0, 31.5, 0.0, 50.0, 19.5, 0.0, 0.0, 1.0]}


def _stereo_p(tx: float, ty: float = 0.0) -> list[float]:
    return [50.0, 0.0, 31.5, tx, 0.0, 50.0, 19.5, ty, 0.0, 0.0, 1.0, 0.0]


def _stereo(clock: FakeClock, frame_id: str, *, tx: float, ty: float = 0.0, **parameters: Any) -> CameraFrame:
    """Return a frame of a camera that sees a wall in a distance of 2 m."""
    camera = BufferedCamera(clock, **parameters)
    camera.info(**_STEREO, p=_stereo_p(tx, ty), header=Header(frame_id=frame_id))
    for buffer, message in (
        (camera.buffer.image, image_from_rgb(np.zeros((*_HW, 3), np.uint8), "rgb8")),
        (camera.buffer.depth, image_from_depth(np.full(_HW, 2.0, np.float32), "32FC1")),
    ):
        message.header.frame_id = frame_id
        assert buffer is not None
        buffer.store(camera.serialized(message, 0.0))
    return camera.frame()


@pytest.mark.parametrize("rectified", [False, True])
def test_locations_of_a_right_camera_are_in_its_own_frame(clock: FakeClock, rectified: bool) -> None:
    """With Tx = -5 and fx = 50 it is 0.1 m to the right of the left one.

    Pixels around u = 41.5 in 2 m are at X = (41.5 - 31.5) / 50 * 2 = 0.4 m in its own frame, and in the left
    camera's, where P projects from, at (2 * (41.5 - 31.5) + 5) / 50 = 0.5 m.
    """
    got = _stereo(clock, "stereo_right_optical", tx=-5.0, rectified=rectified)
    assert got.frame.depth_m is not None
    assert got.frame.intrinsics is not None
    mask = np.zeros(_HW, np.bool_)
    mask[15:25, 37:47] = True  # the middle is (41.5, 19.5)
    location = locate_mask(mask, got.frame.depth_m, got.frame.intrinsics)
    np.testing.assert_allclose(location.position_m, [0.4, 0.0, 2.0], atol=0.021)
    left_from_right = np.eye(4)
    left_from_right[0, 3] = 0.1
    in_left = location.transformed(left_from_right, "stereo_left_optical")
    projected = np.reshape(_stereo_p(-5.0), (3, 4)) @ [*in_left.position_m, 1.0]
    np.testing.assert_allclose(projected[:2] / projected[2], [41.5, 19.5], atol=0.6)
    (note,) = got.notes
    assert "Tx = -5" in note
    assert "0.1 m to the right of the first" in note
    assert "if 'stereo_right_optical' is the frame of the first" in note
    assert "front.frame_override" in note


@pytest.mark.parametrize(
    ("frame_id", "tx", "ty", "note"),
    [
        ("stereo_optical", 10.0, 0.0, "0.2 m to the left of the first"),
        ("stereo_optical", 0.0, -2.5, "0.05 m below the first"),
        ("stereo_optical", -5.0, 5.0, "0.1 m to the right of and 0.1 m above the first"),
        ("stereo_optical", 0.0, 0.0, ""),
        ("stereo_optical", -1e-9, 0.0, ""),
        ("stereo_optical", float("nan"), 0.0, ""),
    ],
)
def test_where_the_second_camera_is(clock: FakeClock, frame_id: str, tx: float, ty: float, note: str) -> None:
    notes = _stereo(clock, frame_id, tx=tx, ty=ty).notes
    assert len(notes) == bool(note)
    assert note in "".join(notes)


@pytest.mark.parametrize(("frame_id", "tx"), [("stereo_left_optical", -5.0), ("RightCamera_optical", 5.0)])
def test_the_frame_of_the_other_camera_is_refused(clock: FakeClock, frame_id: str, tx: float) -> None:
    """Locations would be off by the baseline."""
    got = _stereo(clock, frame_id, tx=tx)
    assert got.frame.intrinsics is None
    assert "is that of the first" in got.no_intrinsics_reason
    assert "front.frame_override" in got.no_intrinsics_reason
    named = _stereo(clock, frame_id, tx=tx, frame_override="own_optical")
    assert (named.frame.frame_id, named.notes) == ("own_optical", ())
    assert named.frame.intrinsics is not None
