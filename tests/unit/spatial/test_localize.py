from __future__ import annotations

import functools
import math
import re

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from xsam.errors import InvalidImageError
from xsam.sim import annotate, render, sample_scene
from xsam.sim.annotate import ObjectAnnotation
from xsam.sim.render import RenderedView
from xsam.spatial.localize import (
    back_project,
    check_intrinsics,
    locate_mask,
    locate_masks,
    point_grid,
    valid_depth,
)
from xsam.types.masks import BoolMask, MaskRle

_HW = (120, 160)
_FOCAL = 200.0
_K = np.array([[_FOCAL, 0.0, 79.5], [0.0, _FOCAL, 59.5], [0.0, 0.0, 1.0]])


def _rectangle(x_min: int, y_min: int, x_max: int, y_max: int, hw: tuple[int, int] = _HW) -> BoolMask:
    mask = np.zeros(hw, np.bool_)
    mask[y_min:y_max, x_min:x_max] = True
    return mask


def _grown(mask: BoolMask, by_px: int) -> BoolMask:
    """The mask grown on all sides or, with a negative number, shrunk."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * abs(by_px) + 1, 2 * abs(by_px) + 1))
    change = cv2.dilate if by_px > 0 else cv2.erode
    grown: BoolMask = change(mask.astype(np.uint8), kernel).astype(np.bool_)
    return grown


def _turned_rectangle(long_px: float, wide_px: float, turn_rad: float) -> BoolMask:
    y, x = np.mgrid[: _HW[0], : _HW[1]]
    x, y = x - 79.5, y - 59.5
    along = x * math.cos(turn_rad) + y * math.sin(turn_rad)
    across = -x * math.sin(turn_rad) + y * math.cos(turn_rad)
    mask: BoolMask = (np.abs(along) < long_px / 2) & (np.abs(across) < wide_px / 2)
    return mask


def _naive(mask: BoolMask, depth_m: NDArray[np.float32]) -> NDArray[np.float64]:
    """Median position of all pixels of the mask."""
    y, x = np.nonzero(mask & (depth_m > 0))
    z = depth_m[y, x].astype(np.float64)
    points = np.stack([(x - 79.5) / _FOCAL * z, (y - 59.5) / _FOCAL * z, z])
    return np.median(points, axis=1)


# ------------------------------------------------------------------------------------ projection


def test_back_projection_by_hand() -> None:
    matrix = np.array([[100.0, 0.0, 10.0], [0.0, 200.0, 20.0], [0.0, 0.0, 1.0]])
    points = back_project(np.array([60, 10]), np.array([120, 20]), np.array([2.0, 3.0]), matrix)
    np.testing.assert_allclose(points, [(1.0, 1.0, 2.0), (0.0, 0.0, 3.0)])


def test_depth_is_indexed_by_row_first() -> None:
    """Reading depth[x, y] by mistake would go unnoticed in a constant depth image."""
    y, x = np.mgrid[:40, :60]
    depth_m = (1.0 + 0.05 * x + 0.11 * y).astype(np.float32)
    depth_m[8:13, 48:53] = 2.0
    matrix = np.array([[100.0, 0.0, 29.5], [0.0, 100.0, 19.5], [0.0, 0.0, 1.0]])
    location = locate_mask(_rectangle(48, 8, 53, 13, (40, 60)), depth_m, matrix)
    np.testing.assert_allclose(location.position_m, (0.41, -0.19, 2.0), atol=1e-6)
    assert location.distance_m == pytest.approx(math.sqrt(0.41**2 + 0.19**2 + 4.0))


def test_points_of_all_pixels() -> None:
    depth_m = np.array([[1.0, 0.0, np.nan], [np.inf, 2.0, -1.0]], np.float32)
    matrix = np.array([[2.0, 0.0, 1.0], [0.0, 4.0, 0.5], [0.0, 0.0, 1.0]])
    points = point_grid(depth_m, matrix)
    assert points.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(points).all(axis=2), [[False, True, True], [True, False, True]])
    np.testing.assert_allclose(points[0, 0], (-0.5, -0.125, 1.0))
    np.testing.assert_allclose(points[1, 1], (0.0, 0.25, 2.0))


def test_valid_depth() -> None:
    """REP 118: zero and values that are not finite are no measurement; nothing is behind a camera."""
    depth_m = np.array([0.0, -1.0, np.nan, np.inf, -np.inf, 0.3], np.float32)
    np.testing.assert_array_equal(valid_depth(depth_m), [False] * 5 + [True])


# -------------------------------------------------------------------------------------- location


def test_size_and_orientation_of_a_rectangle() -> None:
    """80 × 30 px at 1 m with f = 200 px are 0.4 × 0.15 m; 98 % of the points are between the ends."""
    location = locate_mask(_turned_rectangle(80, 30, math.radians(30)), np.full(_HW, 1.0, np.float32), _K)
    np.testing.assert_allclose(location.position_m, (0, 0, 1), atol=0.004)
    np.testing.assert_allclose(location.center_m, (0, 0, 1), atol=0.004)
    np.testing.assert_allclose(location.size_m, (0.4, 0.15, 0.0), atol=0.012)
    axes = Rotation.from_quat(location.orientation_xyzw).as_matrix()
    np.testing.assert_allclose(axes[:, 0], (math.cos(math.radians(30)), 0.5, 0.0), atol=0.01)
    np.testing.assert_allclose(np.abs(axes[:, 2]), (0, 0, 1), atol=1e-6)


def test_size_of_a_slanted_surface() -> None:
    """A plane z = 1 + x: it is √2 longer than wide where it covers the same range of x and y."""
    y, x = np.mgrid[: _HW[0], : _HW[1]]
    slope = (x - 79.5) / _FOCAL
    depth_m = (1.0 / (1.0 - slope)).astype(np.float32)  # x = slope · z and z = 1 + x
    x_m = slope * depth_m
    y_m = (y - 59.5) / _FOCAL * depth_m
    mask: BoolMask = (np.abs(x_m) < 0.15) & (np.abs(y_m) < 0.05)
    location = locate_mask(mask, depth_m, _K)
    np.testing.assert_allclose(location.size_m, (0.3 * math.sqrt(2), 0.1, 0.0), atol=0.02)
    axes = Rotation.from_quat(location.orientation_xyzw).as_matrix()
    np.testing.assert_allclose(axes[:, 0], (math.sqrt(0.5), 0.0, math.sqrt(0.5)), atol=0.01)


@pytest.mark.parametrize("slope", [-0.8, 0.0, 0.5])
@pytest.mark.parametrize("turn_deg", [-70, -20, 10, 45, 95])
def test_the_points_are_in_the_box(turn_deg: float, slope: float) -> None:
    """Orientation, center and size are consistent in every direction."""
    _, x = np.mgrid[: _HW[0], : _HW[1]]
    depth_m = (1.0 / (1.0 - slope * (x - 79.5) / _FOCAL)).astype(np.float32)
    mask = _turned_rectangle(80, 30, math.radians(turn_deg))
    location = locate_mask(mask, depth_m, _K)
    rows, columns = np.nonzero(mask)
    z = depth_m[rows, columns]
    points = np.stack([(columns - 79.5) / _FOCAL * z, (rows - 59.5) / _FOCAL * z, z], axis=1)
    turn = Rotation.from_quat(location.orientation_xyzw)
    in_box = np.abs(turn.inv().apply(points - location.center_m)) <= np.array(location.size_m) / 2 + 1e-6
    assert in_box.mean(axis=0).min() >= 0.97
    assert location.size_m[0] >= location.size_m[1] >= location.size_m[2]
    assert location.size_m[2] < 0.001


@pytest.mark.parametrize("by_px", [-3, 0, 2, 3])
def test_a_mask_that_extends_beyond_the_edge(by_px: int) -> None:
    depth_m = np.full(_HW, 3.0, np.float32)
    depth_m[40:80, 40:90] = 1.0
    location = locate_mask(_grown(_rectangle(40, 40, 90, 80), by_px), depth_m, _K)
    np.testing.assert_allclose(location.position_m, ((64.5 - 79.5) / 200, 0.0, 1.0), atol=0.004)
    narrower = min(0, by_px) * 2 / _FOCAL
    np.testing.assert_allclose(location.size_m, (0.25 + narrower, 0.2 + narrower, 0.0), atol=0.01)


def test_the_table_around_an_object_is_left_out() -> None:
    """The table reaches the object in front and passes behind it, so its depths leave no gap."""
    y, _ = np.mgrid[: _HW[0], : _HW[1]]
    table_m = (1.0 + (80 - y) * 0.02).astype(np.float32)  # touches the object's foot in row 80
    depth_m = table_m.copy()
    depth_m[40:80, 60:100] = 1.0
    location = locate_mask(_grown(_rectangle(60, 40, 100, 80), 3), depth_m, _K)
    assert location.size_m[0] == pytest.approx(0.2, abs=0.025)
    assert location.position_m[2] == pytest.approx(1.0, abs=0.002)


def test_a_mask_that_also_covers_something_else() -> None:
    depth_m = np.full(_HW, 3.0, np.float32)
    depth_m[40:80, 40:90] = 1.0
    location = locate_mask(_rectangle(40, 40, 110, 80), depth_m, _K)
    np.testing.assert_allclose(location.position_m, (-0.075, 0.0, 1.0), atol=0.004)
    np.testing.assert_allclose(location.size_m, (0.25, 0.2, 0.0), atol=0.01)


def test_a_thin_object_in_a_wide_mask() -> None:
    """More than half of the pixels show the wall, but those deep inside the mask show the object."""
    depth_m = np.full(_HW, 2.5, np.float32)
    depth_m[20:100, 78:82] = 0.8
    mask = _grown(_rectangle(78, 20, 82, 100), 3)
    assert _naive(mask, depth_m)[2] == pytest.approx(2.5)
    location = locate_mask(mask, depth_m, _K)
    assert location.position_m[2] == pytest.approx(0.8)
    assert location.size_m[0] == pytest.approx(80 / _FOCAL * 0.8, abs=0.02)


@pytest.mark.parametrize("width_px", [1, 2, 3])
def test_a_thin_object_in_a_thin_mask(width_px: int) -> None:
    """Erosion must not remove a thin object."""
    depth_m = np.full(_HW, 2.0, np.float32)
    depth_m[20:100, 80 : 80 + width_px] = 0.8
    location = locate_mask(_rectangle(80, 20, 80 + width_px, 100), depth_m, _K)
    np.testing.assert_allclose(location.position_m[1:], (0.0, 0.8), atol=1e-6)
    assert location.depth_valid_ratio == 1.0


def test_pixels_between_object_and_background() -> None:
    """Depth cameras report surfaces between an edge and the background that do not exist."""
    rng = np.random.default_rng(3)
    depth_m = np.full(_HW, 1.6, np.float32)
    depth_m[40:80, 40:90] = 1.0
    edge = _grown(_rectangle(40, 40, 90, 80), 2) & ~_grown(_rectangle(40, 40, 90, 80), -2)
    depth_m[edge] = rng.uniform(1.0, 1.6, int(edge.sum()))
    depth_m[rng.random(_HW) < 0.2] = 0.0
    location = locate_mask(_grown(_rectangle(40, 40, 90, 80), 3), depth_m, _K)
    np.testing.assert_allclose(location.position_m, (-0.075, 0.0, 1.0), atol=0.005)
    assert location.size_m[2] < 0.08
    assert location.depth_valid_ratio == pytest.approx(0.8, abs=0.03)


def test_an_object_at_the_image_border_keeps_its_size() -> None:
    """The image border is not an edge of the object; the visible part is 0.8 m wide."""
    depth_m = np.full(_HW, 1.0, np.float32)
    location = locate_mask(np.ones(_HW, np.bool_), depth_m, _K)
    np.testing.assert_allclose(location.size_m, (0.8, 0.6, 0.0), atol=0.02)


def test_holes_do_not_shift_the_position() -> None:
    depth_m = np.full(_HW, 1.0, np.float32)
    holes = np.random.default_rng(0).random(_HW)
    depth_m[holes < 0.3] = 0.0
    depth_m[(holes >= 0.3) & (holes < 0.5)] = np.nan
    depth_m[(holes >= 0.5) & (holes < 0.6)] = np.inf
    location = locate_mask(_rectangle(40, 40, 80, 80), depth_m, _K)
    np.testing.assert_allclose(location.position_m, (-0.1, 0.0, 1.0), atol=0.01)
    assert location.depth_valid_ratio == pytest.approx(0.4, abs=0.04)


# -------------------------------------------------------------------------------------- unknown


@pytest.mark.parametrize(
    ("mask", "depth", "reason"),
    [
        (np.zeros(_HW, np.bool_), 1.0, "empty"),
        (_rectangle(10, 10, 20, 20), 0.0, "only 0 of the mask's 100 pixels"),
        (_rectangle(10, 10, 20, 20), math.nan, "only 0 of"),
        (_rectangle(10, 10, 13, 13), 1.0, "only 9 of the mask's 9 pixels .* 10 are needed"),
    ],
)
def test_unknown_locations_have_a_reason(mask: BoolMask, depth: float, reason: str) -> None:
    location = locate_mask(mask, np.full(_HW, depth, np.float32), _K)
    assert not location.valid
    numbers = (*location.position_m, *location.size_m, location.distance_m)
    assert all(map(math.isnan, numbers))  # zeros would be a location
    assert re.search(reason, location.reason)


def test_unknown_locations_keep_the_share_of_measured_pixels() -> None:
    depth_m = np.zeros(_HW, np.float32)
    depth_m[10, 10:15] = 1.0
    assert locate_mask(_rectangle(10, 10, 20, 20), depth_m, _K).depth_valid_ratio == 0.05


@pytest.mark.parametrize(
    ("mask", "depth_m", "message"),
    [
        (np.ones((60, 80), np.bool_), np.ones(_HW, np.float32), "registered"),
        (np.ones(_HW, np.uint8), np.ones(_HW, np.float32), "mask must be bool"),
        (np.ones(_HW, np.bool_), np.ones(_HW, np.uint16), "meters, got uint16"),
        (np.ones(_HW, np.bool_), np.ones((*_HW, 1), np.float32), "depth must be"),
    ],
)
def test_mismatched_arrays_are_refused(mask: BoolMask, depth_m: NDArray[np.float32], message: str) -> None:
    with pytest.raises(InvalidImageError, match=message):
        locate_mask(mask, depth_m, _K)


def test_all_segments_of_a_result() -> None:
    depth_m = np.full(_HW, 2.0, np.float32)
    depth_m[:, 80:] = 1.0
    masks = (_rectangle(10, 10, 40, 40), np.zeros(_HW, np.bool_), _rectangle(100, 10, 140, 40))
    first, nothing, last = locate_masks([MaskRle.encode(mask) for mask in masks], depth_m, _K)
    assert (first.position_m[2], nothing.valid, last.position_m[2]) == (2.0, False, 1.0)
    with pytest.raises(InvalidImageError, match="registered"):
        locate_masks([MaskRle.encode(np.ones((2, 2), np.bool_))], depth_m, _K)
    assert locate_masks([], depth_m, _K) == ()


# ------------------------------------------------------------------------------------ intrinsics


def _matrix(fx: float, fy: float, cx: float, cy: float) -> NDArray[np.float64]:
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.zeros((3, 3)), "no focal length"),
        (_matrix(-500, 500, 319.5, 239.5), "no focal length"),
        (_matrix(math.nan, 500, 319.5, 239.5), "no focal length"),
        (np.eye(4), r"must be \(3, 3\)"),
        (_matrix(250, 250, 159.5, 119.5), "another resolution"),  # of 320×240
        (_matrix(1000, 1000, 639.5, 479.5), "another resolution"),  # of 1280×960
        (_matrix(500, 500, 239.5, 319.5), r"principal point \(239.5, 319.5\)"),  # of the turned image
        (_matrix(500, 500, 319.5, 239.5).T, "pinhole"),
    ],
)
def test_intrinsics_of_another_image_are_refused(matrix: NDArray[np.float64], message: str) -> None:
    with pytest.raises(InvalidImageError, match=message):
        check_intrinsics(matrix, (480, 640))


def test_intrinsics_with_the_calibrated_size() -> None:
    whole, corner = _matrix(500, 500, 319.5, 239.5), _matrix(500, 500, 20.0, 30.0)
    check_intrinsics(whole, (480, 640))
    check_intrinsics(whole, (480, 640), calibrated_hw=(480, 640))
    with pytest.raises(InvalidImageError, match="for a 1280×720 image, this one is 640×480"):
        check_intrinsics(whole, (480, 640), calibrated_hw=(720, 1280))
    with pytest.raises(InvalidImageError, match="another resolution"):
        check_intrinsics(corner, (480, 640))
    check_intrinsics(corner, (480, 640), calibrated_hw=(480, 640))  # a part cut out of a larger image


def test_locating_checks_the_intrinsics() -> None:
    depth_m = np.ones(_HW, np.float32)
    with pytest.raises(InvalidImageError, match="another resolution"):
        locate_mask(np.ones(_HW, np.bool_), depth_m, _matrix(100, 100, 39.5, 29.5))


# ------------------------------------------------------------------------------ simulated scenes


@functools.lru_cache(maxsize=50)
def _scene(seed: int) -> tuple[RenderedView, list[ObjectAnnotation]]:
    """A simulated view and its labeled objects, kept for the next test: rendering takes most of the time."""
    scene = sample_scene(seed)
    view = render(scene)
    return view, [item for item in annotate(scene, view) if item.labeled]


def _errors_m(seeds: range, by_px: int) -> NDArray[np.float64]:
    """Distance to the simulator's position of every labeled object, with masks grown by some pixels."""
    errors = []
    for view, items in map(_scene, seeds):
        for item in items:
            mask = view.instance_ids == item.instance_id
            mask = _grown(mask, by_px) if by_px else mask
            location = locate_mask(mask, view.depth_m, view.intrinsics)
            errors.append(math.dist(location.position_m, item.position_camera_m))
    return np.array(errors)


@pytest.mark.parametrize("by_px", [0, 3])
@pytest.mark.slow
def test_positions_in_simulated_scenes(by_px: int) -> None:
    errors_m = _errors_m(range(1_000_000, 1_000_002), by_px)
    assert len(errors_m) >= 6
    assert np.median(errors_m) <= 0.005
    assert errors_m.max() <= 0.03


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("by_px", [-3, -2, 0, 2, 3])
def test_positions_in_many_simulated_scenes(by_px: int) -> None:
    errors_m = _errors_m(range(1_000_100, 1_000_150), by_px)
    assert len(errors_m) > 200
    assert np.median(errors_m) <= 0.005
    assert np.percentile(errors_m, 95) <= 0.02
