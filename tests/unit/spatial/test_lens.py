"""Rays through distorted pixels, against the projection of known points."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from xsam.spatial.lens import undistorted_rays
from xsam.spatial.localize import locate_mask, point_grid
from xsam.types.lens import LensDistortion

_HW = (480, 640)
_K = np.array([[300.0, 0.0, 320.0], [0.0, 305.0, 240.0], [0.0, 0.0, 1.0]])
_LENSES = [
    LensDistortion(model="plumb_bob", coefficients=(-0.28, 0.07, 0.0002, 0.00002, 0.0)),
    LensDistortion(model="plumb_bob", coefficients=(0.1, -0.2, 0.001, -0.001)),
    LensDistortion(
        model="rational_polynomial", coefficients=(0.63, -2.4, 0.0004, -0.0001, 1.46, 0.51, -2.25, 1.4)
    ),
    LensDistortion(model="equidistant", coefficients=(-0.007, 0.04, -0.037, 0.006)),
]


def _project(points: np.ndarray, lens: LensDistortion) -> np.ndarray:
    project = cv2.fisheye.projectPoints if lens.model == "equidistant" else cv2.projectPoints
    zero, coefficients = np.zeros(3), np.array(lens.coefficients)
    return project(points.reshape(-1, 1, 3), zero, zero, _K, coefficients)[0].reshape(-1, 2)


@pytest.mark.parametrize("lens", _LENSES, ids=lambda lens: f"{lens.model} {len(lens.coefficients)}")
def test_the_ray_of_a_projected_point_leads_back_to_it(lens: LensDistortion) -> None:
    x, y = (axis.ravel() for axis in np.meshgrid(np.linspace(-0.8, 0.8, 17), np.linspace(-0.6, 0.6, 13)))
    pixels = _project(np.stack([x, y, np.ones_like(x)], axis=1) * 2.5, lens)
    rays = undistorted_rays(pixels[:, 0], pixels[:, 1], _K, lens)
    np.testing.assert_allclose(np.stack(rays), [x, y], atol=1e-5)


@pytest.mark.parametrize("lens", [_LENSES[0], _LENSES[3]], ids=["plumb_bob", "equidistant"])
def test_a_mask_at_the_edge_of_a_wide_image_is_where_it_is(lens: LensDistortion) -> None:
    """As a pinhole camera's, the position was 58 cm off; see the bound below."""
    y, x = np.mgrid[-0.05:0.05:60j, 0.75:0.85:60j]
    pixels = np.rint(_project(np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3) * 3.0, lens)).astype(
        int
    )
    mask = np.zeros(_HW, np.bool_)
    mask[pixels[:, 1], pixels[:, 0]] = True
    depth_m = np.full(_HW, 3.0, np.float32)
    right = locate_mask(mask, depth_m, _K, lens=lens)
    np.testing.assert_allclose(right.position_m, (2.4, 0.0, 3.0), atol=0.03)
    wrong = locate_mask(mask, depth_m, _K)
    assert abs(wrong.position_m[0] - 2.4) > 0.25


@pytest.mark.slow
def test_a_cloud_uses_the_same_rays() -> None:
    lens = _LENSES[0]
    points = point_grid(np.full(_HW, 2.0, np.float32), _K, lens)
    other = point_grid(np.full(_HW, 2.0, np.float32), _K, _LENSES[3])
    assert not np.allclose(points, other), "each camera has its own rays"
    again = point_grid(np.full(_HW, 4.0, np.float32), _K.copy(), lens)
    np.testing.assert_allclose(again, points * 2.0, rtol=1e-6)
    x, y = undistorted_rays(np.array([600, 30]), np.array([40, 400]), _K, lens)
    np.testing.assert_allclose(points[[40, 400], [600, 30], 0], 2.0 * x, atol=1e-5)
    np.testing.assert_allclose(points[[40, 400], [600, 30], 1], 2.0 * y, atol=1e-5)


def test_pixels_beyond_the_fold_have_no_ray() -> None:
    """A polynomial fitted to the middle folds back outside; it must not invent positions there."""
    lens = LensDistortion(model="plumb_bob", coefficients=(-0.5, 0.0, 0.0, 0.0))
    x, _ = undistorted_rays(np.array([320, 400, 639]), np.array([240, 240, 240]), _K, lens)
    assert np.isfinite(x).tolist() == [True, True, False]
    mask = np.zeros(_HW, np.bool_)
    mask[200:280, 600:640] = True
    location = locate_mask(mask, np.ones(_HW, np.float32), _K, lens=lens)
    assert not location.valid
    assert "lens model" in location.reason


def test_no_pixels() -> None:
    assert undistorted_rays(np.empty(0), np.empty(0), _K, _LENSES[0])[0].size == 0


@pytest.mark.parametrize(
    ("model", "coefficients", "message"),
    [
        ("fisheye", (0.0,) * 4, "unknown lens model 'fisheye'"),
        ("", (0.1,) * 5, "unknown lens model ''"),
        ("equidistant", (0.1,) * 5, "has 4 coefficients, got 5"),
        ("plumb_bob", (0.1,), "has 4 or 5 coefficients, got 1"),
        ("plumb_bob", (float("nan"),) * 5, "finite"),
    ],
)
def test_models_that_are_not_known(model: str, coefficients: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LensDistortion(model=model, coefficients=coefficients)
