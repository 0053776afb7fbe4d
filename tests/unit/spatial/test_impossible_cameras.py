"""Numbers that no camera has are refused with a reason; they are never a position, and never a crash."""

from __future__ import annotations

import numpy as np
import pytest

from xsam import InvalidImageError, MaskRle
from xsam.spatial.localize import check_intrinsics, locate_mask, locate_masks, point_grid

_HW = (480, 640)


def _matrix(fx: float = 600.0, fy: float = 600.0, cx: float = 320.0, cy: float = 240.0) -> np.ndarray:
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def _mask() -> np.ndarray:
    mask = np.zeros(_HW, np.bool_)
    mask[200:260, 300:360] = True
    return mask


@pytest.mark.parametrize("calibrated_hw", [None, _HW])
@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (_matrix(fx=1e-300, fy=1e-300), "field of view of 180°"),
        (_matrix(fx=1e300, fy=1e300), "field of view of"),
        (_matrix(fx=1e300, fy=1e-300), "too different for one camera"),
        (_matrix(fx=1e-300), "too different for one camera"),
        (_matrix(fy=1.0), "too different for one camera"),
        (np.eye(3), "field of view of 180° over 640 px"),
        (_matrix(cx=1e18), "is nowhere near an image"),
        (_matrix(cy=-1e18), "is nowhere near an image"),
        (_matrix(cx=float("nan")), "have no focal length"),
        (_matrix(fx=float("inf")), "have no focal length"),
        (_matrix(fx=-600.0), "have no focal length"),
    ],
)
def test_camera_matrices(matrix: np.ndarray, message: str, calibrated_hw: tuple[int, int] | None) -> None:
    """fx = 1e-300 was a MODEL_ERROR of the whole request; 1e300 and cx = 1e18 gave valid positions."""
    depth = np.ones(_HW, np.float32)
    for locate in (
        lambda: locate_mask(_mask(), depth, matrix, calibrated_hw=calibrated_hw),
        lambda: locate_masks([MaskRle.encode(_mask())], depth, matrix, calibrated_hw=calibrated_hw),
    ):
        with pytest.raises(InvalidImageError) as caught:
            locate()
        assert message in caught.value.message
        assert caught.value.hint


@pytest.mark.parametrize("focal_px", [40.0, 100.0, 600.0, 5000.0, 30_000.0])
def test_wide_and_long_lenses_are_cameras(focal_px: float) -> None:
    check_intrinsics(_matrix(fx=focal_px, fy=focal_px * 1.1), _HW)


@pytest.mark.parametrize("depth_m", [1e38, 3e4, 1e-4, 1e-30, np.finfo(np.float32).tiny])
def test_depths(depth_m: float) -> None:
    """1e38 m gave a valid position."""
    depth = np.full(_HW, depth_m, np.float32)
    location = locate_mask(_mask(), depth, _matrix())
    assert not location.valid
    assert location.depth_valid_ratio == 0.0
    assert "check the unit of the depth image" in location.reason
    assert np.isnan(point_grid(depth, _matrix())).all()


def test_a_few_absurd_depths_do_not_move_the_object() -> None:
    depth = np.full(_HW, 2.0, np.float32)
    depth[210:215, 310:350] = 1e38
    location = locate_mask(_mask(), depth, _matrix())
    assert location.valid
    assert location.position_m[2] == pytest.approx(2.0)
    assert location.depth_valid_ratio == pytest.approx(1 - 200 / 3600)
