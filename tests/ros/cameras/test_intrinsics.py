from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensor_msgs.msg import CameraInfo, RegionOfInterest

from xsam import InvalidImageError
from xsam.media.messages.intrinsics import intrinsics_for, lens_for
from xsam.types.lens import LensDistortion

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
    assert lens_for(_info()) is None
    assert lens_for(_info(d=[0.0] * 5, distortion_model="plumb_bob")) is None
    lens = lens_for(_info(d=[0.1, -0.2, 0.0, 0.0, 0.0], distortion_model="plumb_bob"))
    assert lens == LensDistortion(model="plumb_bob", coefficients=(0.1, -0.2, 0.0, 0.0, 0.0))


@pytest.mark.parametrize(
    ("model", "d"),
    [
        ("plumb_bob", [1e6, 0.0, 0.0, 0.0, 0.0]),
        ("plumb_bob", [0.0, 0.0, 0.0, 0.0, 1e9]),
        ("rational_polynomial", [1e6, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
        ("equidistant", [1000.0, 0.0, 0.0, 0.0]),
    ],
)
def test_the_distortion_of_no_lens_is_refused(model: str, d: list[float]) -> None:
    """With k1 = 1e6 everything was on the axis, valid: 0.01 m for 0.43 m."""
    with pytest.raises(InvalidImageError, match="impossible: halfway to the edge") as caught:
        lens_for(_info(d=d, distortion_model=model))
    assert "rectified" in caught.value.hint


@pytest.mark.parametrize(
    ("model", "focal_px", "d"),
    [
        ("plumb_bob", 610.0, [0.17, -0.49, 0.0, 0.0, 0.44]),  # RealSense, color
        ("plumb_bob", 458.0, [-0.283, 0.074, 0.0002, 0.00002, 0.0]),  # EuRoC
        ("plumb_bob", 280.0, [-0.35, 0.12, 0.0, 0.0, -0.02]),  # a wide USB camera
        ("rational_polynomial", 600.0, [0.5, -2.6, 0.0, 0.0, 1.5, 0.4, -2.4, 1.4]),  # Azure Kinect
        ("equidistant", 190.0, [-0.006, 0.04, -0.038, 0.006]),  # 180° fisheye
    ],
)
def test_lenses_of_real_cameras_are_accepted(model: str, focal_px: float, d: list[float]) -> None:
    k = [focal_px, 0.0, 319.5, 0.0, focal_px, 239.5, 0.0, 0.0, 1.0]
    assert lens_for(_info(k=k, d=d, distortion_model=model)) is not None


# ------------------------------------------------------- matrices that cannot be those of the image

_SMALL_K = [300.0, 0.0, 160.0, 0.0, 300.0, 120.0, 0.0, 0.0, 1.0]
_SMALL_P = [300.0, 0.0, 160.0, 0.0, 0.0, 300.0, 120.0, 0.0, 0.0, 0.0, 1.0, 0.0]
_IDENTITY = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]


def _small(**fields: object) -> CameraInfo:
    """Return the camera info of a 320×240 camera; only K and the size are set."""
    return CameraInfo(**{"height": 240, "width": 320, "k": _SMALL_K, **fields})


def _scaled(k: list[float], x: float, y: float | None = None) -> list[float]:
    """Return K of an image that is `x` times as wide and `y` times as high."""
    y = x if y is None else y
    return [k[0] * x, 0.0, k[2] * x, 0.0, k[4] * y, k[5] * y, 0.0, 0.0, 1.0]


def test_the_right_matrix_gives_the_right_position() -> None:
    """Pixel (79.5, 71.5) at 1 m; each matrix below gave a valid position elsewhere, up to 100 m away."""
    position = np.linalg.inv(intrinsics_for(_small(), (240, 320))) @ [79.5, 71.5, 1.0]
    np.testing.assert_allclose(position, (-0.268, -0.162, 1.0), atol=1e-3)


@pytest.mark.parametrize(
    ("fields", "message", "hint"),
    [
        pytest.param(
            {"k": _IDENTITY, "p": _SMALL_P}, "field of view of 179", "rectified: true", id="identity"
        ),
        pytest.param({"k": _IDENTITY}, "field of view of 179", "calibrate", id="identity without P"),
        pytest.param({"k": [0.0] * 9, "p": _SMALL_P}, "not calibrated", "rectified: true", id="K not set"),
        pytest.param({"k": [*_SMALL_K[:4], 1.0, *_SMALL_K[5:]]}, "fy = 1 px", "", id="fy of 1"),
        pytest.param({"k": [*_SMALL_K[:4], 130.0, *_SMALL_K[5:]]}, "too different", "", id="fy of 130"),
        pytest.param(
            {"k": [300.0, 0, 0, 0, 300.0, 0, 160.0, 120.0, 1.0]},
            r"row \(160.0, 120.0, 1.0\)",
            "row-major",
            id="column-major",
        ),
        pytest.param({"k": [*_SMALL_K[:8], 2.0]}, r"row \(0.0, 0.0, 2.0\)", "", id="scaled as a whole"),
        pytest.param({"k": [*_SMALL_K[:1], 90.0, *_SMALL_K[2:]]}, "skew 90", "", id="skew"),
        pytest.param({"k": _scaled(_SMALL_K, 6)}, r"\(960, 720\) px .*outside", "", id="1920×1440"),
        pytest.param({"k": _scaled(_SMALL_K, 2)}, r"\(320, 240\) px .*outside", "", id="640×480"),
        pytest.param({"k": _scaled(_SMALL_K, 1.5)}, "about 480×360 px, not", "", id="480×360"),
        pytest.param({"k": _scaled(_SMALL_K, 0.5)}, "about 160×120 px, not", "", id="160×120"),
        pytest.param({"k": _scaled(_SMALL_K, 1, 2)}, "too different", "", id="height of another mode"),
        pytest.param(
            {"height": 960, "width": 1280, "binning_x": 4, "binning_y": 4},
            "about 320×240 px, not of the calibrated image of 1280×960",
            "before roi and binning",
            id="K of the binned image",
        ),
        pytest.param(
            {
                "height": 960,
                "width": 1280,
                "binning_x": 2,
                "binning_y": 2,
                "k": _scaled(_SMALL_K, 4),
            },
            "binning 2×2, so 640×480 px, but the image is 320×240",
            "info_topic",
            id="binning by 2 of an image that is 4 times smaller",
        ),
        pytest.param(
            {"roi": RegionOfInterest(x_offset=200, width=160, height=120)},
            r"160×120 px at \(200, 0\), is not inside the calibrated image of 320×240",
            "REP 104",
            id="region outside",
        ),
        pytest.param(
            {"roi": RegionOfInterest(x_offset=80, y_offset=60, width=160, height=120)},
            "a region of 160×120 px, but the image is 320×240",
            "reset roi",
            id="region of an earlier image",
        ),
        pytest.param(
            {
                "height": 720,
                "width": 1280,
                "roi": RegionOfInterest(x_offset=300, y_offset=200, width=320, height=240),
            },
            "the middle of the region of interest of 320×240 px",
            "either no roi",
            id="K of the region",
        ),
        pytest.param(
            {"k": [300.0, 0, 120.0, 0, 300.0, 160.0, 0, 0, 1.0]}, "turned image of 240×320", "", id="turned"
        ),
        pytest.param(
            {"k": [300.0, 0, 160.0, 0, 300.0, 90.0, 0, 0, 1.0]}, "of 320×180 px, not", "roi", id="320×180"
        ),
        pytest.param(
            {"k": [300.0, 0, 212.5, 0, 300.0, 119.0, 0, 0, 1.0]}, "of 424×240 px, not", "roi", id="424×240"
        ),
        pytest.param({"k": [1e-300, 0, 160.0, 0, 1e-300, 120.0, 0, 0, 1.0]}, "impossible", "", id="tiny"),
        pytest.param({"k": [1e300, 0, 160.0, 0, 1e300, 120.0, 0, 0, 1.0]}, "impossible", "", id="huge"),
        pytest.param({"k": [300.0, 0, 1e18, 0, 300.0, 120.0, 0, 0, 1.0]}, "outside", "", id="far center"),
    ],
)
def test_a_matrix_of_another_image_is_refused(fields: dict[str, object], message: str, hint: str) -> None:
    with pytest.raises(InvalidImageError, match=message) as caught:
        intrinsics_for(_small(**fields), (240, 320))
    assert hint in caught.value.hint
    assert caught.value.hint


@pytest.mark.parametrize("matrix", [[0.0] * 12, [*_SMALL_P[:8], 1.0, *_SMALL_P[9:]], [*_SMALL_P[:11], 5.0]])
def test_matrix_p_is_checked_too(matrix: list[float]) -> None:
    with pytest.raises(InvalidImageError, match="matrix P"):
        intrinsics_for(_small(p=matrix), (240, 320), rectified=True)


@pytest.mark.parametrize(
    ("image_hw", "fields"),
    [
        ((720, 1280), {"height": 720, "width": 1280, "k": [920.0, 0, 651.2, 0, 919.5, 357.8, 0, 0, 1.0]}),
        ((480, 752), {"height": 480, "width": 752, "k": [458.7, 0, 367.2, 0, 457.3, 248.4, 0, 0, 1.0]}),
        ((800, 848), {"height": 800, "width": 848, "k": [286.1, 0, 417.4, 0, 286.3, 394.9, 0, 0, 1.0]}),
        ((512, 640), {"height": 512, "width": 640, "k": [20_000.0, 0, 330, 0, 20_000, 250, 0, 0, 1.0]}),
        ((576, 720), {"height": 576, "width": 720, "k": [1000.0, 0, 360, 0, 1420.0, 288, 0, 0, 1.0]}),
        ((240, 160), {"binning_x": 2, "width": 160, "k": [150.0, 0, 80, 0, 300.0, 120, 0, 0, 1.0]}),
    ],
    ids=["RealSense D435", "EuRoC", "fisheye T265", "telephoto", "anamorphic PAL", "K of columns binned"],
)
def test_matrices_of_real_cameras_are_accepted(image_hw: tuple[int, int], fields: dict[str, object]) -> None:
    notes: list[str] = []
    intrinsics_for(_small(**fields), image_hw, notes=notes)
    assert notes == []


def test_rectification_may_move_the_principal_point() -> None:
    """To the middle of another usual size by chance, so this is a note and not an error."""
    notes: list[str] = []
    p = [300.0, 0.0, 160.0, 0.0, 0.0, 300.0, 90.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    assert intrinsics_for(_small(p=p), (240, 320), rectified=True, notes=notes)[1, 2] == 90.0
    assert "320×180" in notes[0]


def test_a_crop_without_a_region_is_noted() -> None:
    notes: list[str] = []
    crop = [300.0, 0.0, 160.0, 0.0, 300.0, 20.0, 0.0, 0.0, 1.0]  # the lower part of an image
    assert intrinsics_for(_small(k=crop), (240, 320), notes=notes)[1, 2] == 20.0
    assert "far from the middle" in notes[0]
