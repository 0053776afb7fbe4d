"""Depth of another camera, on scenes of flat rectangles: similar triangles say what each camera sees."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from xsam.errors import InvalidImageError
from xsam.spatial.localize import locate_mask
from xsam.spatial.registration import DepthView
from xsam.types.lens import LensDistortion
from xsam.types.location import Location3D
from xsam.types.masks import BoolMask

_HW = (240, 320)
_K = np.array([[300.0, 0.0, 159.5], [0.0, 300.0, 119.5], [0.0, 0.0, 1.0]])
_WALL_M = 2.0


@dataclass(frozen=True, kw_only=True)
class Rectangle:
    """A rectangle at one depth in the frame of the color camera, x and y in meters."""

    z: float
    x: tuple[float, float]
    y: tuple[float, float]
    measured: bool = True

    @property
    def middle(self) -> tuple[float, float, float]:
        return (sum(self.x) / 2, sum(self.y) / 2, self.z)

    def mask(self, k: NDArray[np.float64] = _K, hw: tuple[int, int] = _HW) -> BoolMask:
        """Return the pixels of the color camera whose rays hit it."""
        y, x = np.indices(hw)
        at_x, at_y = (x - k[0, 2]) / k[0, 0] * self.z, (y - k[1, 2]) / k[1, 1] * self.z
        mask: BoolMask = (at_x > self.x[0]) & (at_x < self.x[1]) & (at_y > self.y[0]) & (at_y < self.y[1])
        return mask


_BOX = Rectangle(z=1.0, x=(-0.2, 0.1), y=(-0.1, 0.15))


@dataclass(frozen=True, kw_only=True)
class DepthCamera:
    """A depth camera at `offset` (meters) from the color camera, turned about x, y and z."""

    offset: tuple[float, float, float] = (0.05, 0.0, 0.0)
    turned_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    hw: tuple[int, int] = _HW
    focal: float = 300.0
    lens: LensDistortion | None = None

    @property
    def k(self) -> NDArray[np.float64]:
        height, width = self.hw
        return np.array(
            [[self.focal, 0.0, (width - 1) / 2], [0.0, self.focal, (height - 1) / 2], [0.0, 0.0, 1.0]]
        )

    def view(self, *scene: Rectangle, wall: bool = True) -> DepthView:
        """Measure a scene in front of a wall: every ray ends at the first rectangle it hits."""
        turn = Rotation.from_euler("xyz", self.turned_deg, degrees=True).as_matrix()
        y, x = np.indices(self.hw).astype(np.float64)
        x, y = (x - self.k[0, 2]) / self.focal, (y - self.k[1, 2]) / self.focal
        if self.lens is not None:  # one term of radial distortion, inverted by fixed-point iteration
            (k1, *_), x_d, y_d = self.lens.coefficients, x, y
            for _ in range(200):
                factor = 1 + k1 * (x**2 + y**2)
                x, y = x_d / factor, y_d / factor
        directions = np.stack([x, y, np.ones_like(x)], axis=-1) @ turn.T
        depth = np.zeros(self.hw)
        rectangles = [*scene, Rectangle(z=_WALL_M, x=(-9, 9), y=(-9, 9), measured=wall)]
        for rectangle in sorted(rectangles, key=lambda each: -each.z):
            along = (rectangle.z - self.offset[2]) / directions[..., 2]  # is the depth, as rays end in 1
            at_x = self.offset[0] + along * directions[..., 0]
            at_y = self.offset[1] + along * directions[..., 1]
            hit = (at_x > rectangle.x[0]) & (at_x < rectangle.x[1]) & (along > 0)
            hit &= (at_y > rectangle.y[0]) & (at_y < rectangle.y[1])
            depth[hit] = along[hit] if rectangle.measured else 0.0
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = turn, self.offset
        return DepthView(
            depth_m=depth.astype(np.float32), intrinsics=self.k, lens=self.lens, color_from_depth=matrix
        )


def _locate(view: DepthView, mask: BoolMask, *, doubted: bool = True) -> Location3D:
    depth = view.registered(_HW, _K)
    return locate_mask(mask, depth, _K, doubt=view.doubt if doubted else None)


def test_how_near_an_object_may_be_decides_what_is_in_doubt() -> None:
    """Cameras 40 cm apart: what is 20 cm in front of one is outside the other's image."""
    view = _CAMERAS["converging"].view(_BOX)
    assert "if it were 0.2" in _locate(replace(view, nearest_m=0.1), _BOX.mask()).reason
    location = _locate(replace(view, nearest_m=0.3), _BOX.mask())
    np.testing.assert_allclose(location.position_m, _BOX.middle, atol=0.003)


_CAMERAS = {
    "same place": DepthCamera(offset=(0.0, 0.0, 0.0)),
    "beside": DepthCamera(),
    "above and behind": DepthCamera(offset=(0.02, -0.08, -0.1)),
    "a quarter of the pixels": DepthCamera(hw=(120, 160), focal=150.0),
    "very few pixels": DepthCamera(hw=(24, 32), focal=30.0, offset=(0.03, 0.0, 0.0)),
    "four times the pixels": DepthCamera(hw=(480, 640), focal=600.0),
    "another shape and view": DepthCamera(hw=(180, 400), focal=220.0, offset=(-0.06, 0.01, 0.0)),
    "turned": DepthCamera(turned_deg=(3.0, -6.0, 10.0), offset=(0.1, 0.02, 0.05)),
    "upright": DepthCamera(turned_deg=(0.0, 0.0, 90.0), hw=(320, 240)),
    "diagonal": DepthCamera(turned_deg=(0.0, 0.0, 45.0), hw=(400, 400)),
    "converging": DepthCamera(offset=(0.4, 0.0, 0.0), turned_deg=(0.0, -20.0, 0.0), focal=220.0),
    "distorted": DepthCamera(
        lens=LensDistortion(model="plumb_bob", coefficients=(-0.15, 0.0, 0.0, 0.0, 0.0))
    ),
}


@pytest.mark.parametrize("name", _CAMERAS)
def test_positions_are_those_of_the_scene(name: str) -> None:
    """The middle of the box and of the wall, whatever camera measured them."""
    camera = _CAMERAS[name]
    view = camera.view(_BOX)
    location = _locate(view, _BOX.mask())
    assert location.valid, location.reason
    coarse = 0.01 if camera.focal < 100 else 0.003
    np.testing.assert_allclose(location.position_m, _BOX.middle, atol=coarse)
    np.testing.assert_allclose(sorted(location.size_m), (0.0, 0.25, 0.3), atol=5 * coarse)
    depth = view.registered(_HW, _K)
    box, wall = _BOX.mask(), ~_BOX.mask() & (depth > 0)
    right = np.abs(depth - np.where(box, _BOX.z, _WALL_M)) < 0.02
    least = 0.85 if camera.focal < 100 else 0.97
    assert right[wall].mean() > least
    assert right[box & (depth > 0)].mean() > least
    assert (depth > 0)[box].mean() > 0.95


def test_what_the_depth_camera_cannot_see_has_no_depth() -> None:
    """The wall beside the box: 5 cm between the cameras hide 300 · 0.05 · (1/1 - 1/2) = 7.5 columns."""
    depth = DepthCamera().view(_BOX).registered(_HW, _K)
    row = depth[120]
    left = np.flatnonzero(_BOX.mask()[120])[0]
    assert not row[left - 7 : left].any()
    np.testing.assert_allclose(row[left - 30 : left - 8], _WALL_M, atol=1e-3)
    np.testing.assert_allclose(row[left + 1 : left + 80], _BOX.z, atol=1e-3)
    assert not row[:7].any(), "beyond the edge of the depth image"


def test_nothing_shows_through_a_nearer_surface() -> None:
    """Depth with few pixels leaves gaps between its points, in which the wall behind would appear."""
    slanted = DepthCamera(hw=(60, 80), focal=75.0, offset=(0.15, 0.0, 0.0), turned_deg=(0.0, -8.0, 0.0))
    depth = slanted.view(_BOX).registered(_HW, _K)
    rows, columns = np.nonzero(_BOX.mask())
    inside = np.zeros(_HW, np.bool_)
    inside[rows.min() + 5 : rows.max() - 5, columns.min() + 5 : columns.max() - 5] = True
    np.testing.assert_allclose(depth[inside], _BOX.z, atol=0.02)


def test_a_distorted_color_image() -> None:
    """A mask in distorted pixels, by the formula of the lens."""
    lens = LensDistortion(model="plumb_bob", coefficients=(-0.2, 0.0, 0.0, 0.0, 0.0))
    x = np.linspace(-0.19, 0.09, 400)
    y = np.linspace(-0.09, 0.14, 400)
    grid_x, grid_y = np.meshgrid(x, y)  # at a depth of 1 m
    factor = 1 - 0.2 * (grid_x**2 + grid_y**2)
    mask = np.zeros(_HW, np.bool_)
    columns = np.rint(grid_x * factor * 300 + 159.5).astype(int)
    rows = np.rint(grid_y * factor * 300 + 119.5).astype(int)
    mask[rows, columns] = True
    view = DepthCamera().view(_BOX)
    location = locate_mask(mask, view.registered(_HW, _K, lens), _K, lens=lens, doubt=view.doubt)
    assert location.valid, location.reason
    np.testing.assert_allclose(location.position_m, (-0.05, 0.025, 1.0), atol=0.004)


def test_the_background_of_an_object_without_depth_is_not_its_position() -> None:
    """A black box in front of a wall: the camera beside it measures the wall behind its edge."""
    black = replace(_BOX, measured=False)
    camera = DepthCamera(offset=(0.12, 0.0, 0.0))
    view = camera.view(black)
    undoubted = _locate(view, black.mask(), doubted=False)
    assert undoubted.valid
    assert undoubted.position_m[2] == pytest.approx(_WALL_M), "this is what must not be answered"
    location = _locate(view, black.mask())
    assert not location.valid
    assert "may see past the object" in location.reason
    assert 0.0 < location.depth_valid_ratio < 0.5


def test_an_object_that_is_hidden_from_the_depth_camera() -> None:
    """A pole hides a small box from the depth camera, which sees the wall behind the box past the pole."""
    pole = Rectangle(z=0.6, x=(0.10, 0.16), y=(-1.0, 1.0))
    hidden = Rectangle(z=1.0, x=(-0.04, 0.02), y=(-0.03, 0.03))
    camera = DepthCamera(offset=(0.25, 0.0, 0.0))
    assert not (pole.mask() & hidden.mask()).any(), "the color camera sees the box"
    location = _locate(camera.view(pole, hidden), hidden.mask())
    assert not location.valid, location


def test_objects_beside_one_another_are_located_all_the_same() -> None:
    """A black box beside another one, and speckles without depth, say nothing about the other one."""
    black = Rectangle(z=0.8, x=(0.12, 0.3), y=(-0.1, 0.1), measured=False)
    view = DepthCamera().view(_BOX, black)
    depth = view.depth_m.copy()
    depth[np.random.default_rng(0).random(depth.shape) < 0.2] = 0.0
    location = _locate(replace(view, depth_m=depth), _BOX.mask())
    assert location.valid, location.reason
    np.testing.assert_allclose(location.position_m, _BOX.middle, atol=0.004)


@pytest.mark.parametrize("x", [-0.9, -0.5, 0.0, 0.5, 0.85])
@pytest.mark.parametrize("z", [0.35, 0.6, 1.0, 1.8])
def test_measured_objects_are_not_doubted(x: float, z: float) -> None:
    """Anywhere in the image of both cameras, 2.5 cm apart as in many RGB-D cameras."""
    middle = 0.5 * x * z
    box = Rectangle(z=z, x=(middle - 0.06 * z, middle + 0.06 * z), y=(-0.05, 0.05))
    location = _locate(DepthCamera(offset=(-0.025, 0.0, 0.0), focal=260.0).view(box), box.mask())
    assert location.valid, location.reason
    np.testing.assert_allclose(location.position_m, box.middle, atol=0.01)


# ------------------------------------------------------------------------------------- refusals


def _transform(turned_deg: tuple[float, float, float], offset: tuple[float, float, float]) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", turned_deg, degrees=True).as_matrix()
    matrix[:3, 3] = offset
    return matrix


_BODY_FROM_OPTICAL = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (_BODY_FROM_OPTICAL, "90° apart"),
        (np.linalg.inv(_BODY_FROM_OPTICAL), "90° apart"),
        (_transform((180.0, 0.0, 0.0), (0.0, 0.0, 0.0)), "180° apart"),
        (_transform((0.0, 0.0, 0.0), (50.0, 0.0, 0.0)), "50 m away"),
        (_transform((0.0, 0.0, 0.0), (math.nan, 0.0, 0.0)), "nan m away"),
        (np.diag((1.0, 1.0, 1.1, 1.0)), "not a rigid one"),
        (np.diag((-1.0, 1.0, 1.0, 1.0)), "not a rigid one"),
    ],
)
def test_transforms_that_cannot_be_right(matrix: np.ndarray, words: str) -> None:
    with pytest.raises(InvalidImageError, match=words):
        DepthView(depth_m=np.ones(_HW, np.float32), intrinsics=_K, color_from_depth=matrix)


def test_cameras_that_do_not_see_the_same() -> None:
    view = DepthCamera(turned_deg=(0.0, 70.0, 0.0)).view()
    with pytest.raises(InvalidImageError, match="falls into the color image"):
        view.registered(_HW, _K)
    nothing = replace(view, depth_m=np.full(_HW, np.nan, np.float32), color_from_depth=np.eye(4))
    with pytest.raises(InvalidImageError, match="falls into the color image"):
        nothing.registered(_HW, _K)
