"""Intrinsics and lens of the frames that a camera's buffer gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.ros.camera_driver import TOPICS, BufferedCamera, FakeClock
from xsam.types.lens import LensDistortion


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
