from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensor_msgs.msg import CameraInfo, RegionOfInterest

from xsam import InvalidImageError
from xsam_ros.cameras.intrinsics import intrinsics_for, is_distorted

_K = [600.0, 0.0, 319.5, 0.0, 610.0, 239.5, 0.0, 0.0, 1.0]
_P = [500.0, 0.0, 310.0, -50.0, 0.0, 500.0, 230.0, 0.0, 0.0, 0.0, 1.0, 0.0]


def _info(**fields: object) -> CameraInfo:
    return CameraInfo(**{"height": 480, "width": 640, "k": _K, "p": _P, **fields})


def _project(matrix: np.ndarray, point: tuple[float, float, float]) -> np.ndarray:
    x, y, z = matrix @ np.array(point)
    return np.array([x / z, y / z])


def test_the_size_of_the_calibration() -> None:
    got = intrinsics_for(_info(), (480, 640))
    assert (got.shape, got.dtype) == ((3, 3), np.float64)
    assert got.ravel().tolist() == _K


def test_rectified_images_have_matrix_p() -> None:
    got = intrinsics_for(_info(), (480, 640), rectified=True)
    assert got.tolist() == [[500.0, 0.0, 310.0], [0.0, 500.0, 230.0], [0.0, 0.0, 1.0]]


def test_half_the_size() -> None:
    """The image center stays the center: 319.5 of 640 becomes 159.5 of 320, not 159.75."""
    got = intrinsics_for(_info(), (240, 320))
    np.testing.assert_allclose(got, [[300, 0, 159.5], [0, 305, 119.5], [0, 0, 1]])


@given(
    scale=st.sampled_from([0.25, 0.5, 2.0, 3.0]),
    point=st.tuples(st.floats(-1, 1), st.floats(-1, 1), st.floats(0.3, 5)),
)
def test_a_point_keeps_its_relative_position_in_a_resized_image(
    scale: float, point: tuple[float, float, float]
) -> None:
    """With integers at pixel centers, the image spans -0.5 to W - 0.5."""
    original = (_project(intrinsics_for(_info(), (480, 640)), point) + 0.5) / [640, 480]
    small_hw = (int(480 * scale), int(640 * scale))
    resized = (_project(intrinsics_for(_info(), small_hw), point) + 0.5) / small_hw[::-1]
    np.testing.assert_allclose(original, resized, atol=1e-9)


def test_a_region_of_interest_moves_the_principal_point() -> None:
    roi = RegionOfInterest(x_offset=100, y_offset=40, width=200, height=100)
    got = intrinsics_for(_info(roi=roi), (100, 200))
    np.testing.assert_allclose(got, [[600, 0, 219.5], [0, 610, 199.5], [0, 0, 1]])


def test_binning_by_two() -> None:
    got = intrinsics_for(_info(binning_x=2, binning_y=2), (240, 320))
    np.testing.assert_allclose(got, [[300, 0, 159.5], [0, 305, 119.5], [0, 0, 1]])


def test_binning_of_columns_only() -> None:
    got = intrinsics_for(_info(binning_x=2), (480, 320))
    np.testing.assert_allclose(got, [[300, 0, 159.5], [0, 610, 239.5], [0, 0, 1]])


def test_region_and_binning() -> None:
    """A quarter of the sensor, every second pixel: x' = (x - 100 + 0.5) / 2 - 0.5."""
    roi = RegionOfInterest(x_offset=100, y_offset=40, width=320, height=240)
    got = intrinsics_for(_info(roi=roi, binning_x=2, binning_y=2), (120, 160))
    np.testing.assert_allclose(got, [[300, 0, 109.5], [0, 305, 99.5], [0, 0, 1]])


def test_binning_that_the_driver_already_accounts_for() -> None:
    """Binning is set, but size and K already are those of the binned image."""
    got = intrinsics_for(_info(binning_x=2), (480, 640))
    assert got.ravel().tolist() == _K


def test_sizes_that_the_driver_rounded() -> None:
    info = _info(height=720, width=1280)
    got = intrinsics_for(info, (240, 424))  # 426.7 would be exact
    assert got[0, 0] == pytest.approx(600 * 424 / 1280)
    assert got[1, 1] == pytest.approx(610 / 3)


@pytest.mark.parametrize("image_hw", [(360, 640), (720, 1280), (480, 480), (640, 480)])
def test_another_aspect_ratio_is_refused(image_hw: tuple[int, int]) -> None:
    """Cropped, or from another camera: scaling would silently give wrong positions."""
    with pytest.raises(InvalidImageError, match=rf"640×480 px, the image is {image_hw[1]}×{image_hw[0]}"):
        intrinsics_for(_info(), image_hw)


@pytest.mark.parametrize(
    "k",
    [
        [0.0] * 9,
        [0.0, 0, 320, 0, 600, 240, 0, 0, 1],
        [600.0, 0, 320, 0, -1, 240, 0, 0, 1],
        [float("nan"), 0, 320, 0, 600, 240, 0, 0, 1],
        [600.0, 0, float("inf"), 0, 600, 240, 0, 0, 1],
    ],
)
def test_no_calibration(k: list[float]) -> None:
    with pytest.raises(InvalidImageError, match=r"matrix K .*not calibrated"):
        intrinsics_for(_info(k=[float(value) for value in k]), (480, 640))


def test_no_rectification() -> None:
    with pytest.raises(InvalidImageError, match=r"matrix P .*not calibrated"):
        intrinsics_for(_info(p=[0.0] * 12), (480, 640), rectified=True)


@pytest.mark.parametrize("size", [{"height": 0}, {"width": 0}])
def test_no_size(size: dict[str, int]) -> None:
    with pytest.raises(InvalidImageError, match="no image size"):
        intrinsics_for(_info(**size), (480, 640))


def test_distortion() -> None:
    assert not is_distorted(_info())
    assert not is_distorted(_info(d=[0.0] * 5))
    assert is_distorted(_info(d=[0.1, -0.2, 0.0, 0.0, 0.0]))
