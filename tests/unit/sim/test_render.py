from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from xsam.sim.camera import look_from
from xsam.sim.raster import rasterize
from xsam.sim.render import FLOOR_ID, STUFF_NAMES, TABLE_ID, WALL_ID, RenderedView, render
from xsam.sim.scene import FLOOR_Z_M, TABLE_THICKNESS_M, orbit_camera, sample_scene


def world_points_m(view: RenderedView, mask: np.ndarray) -> np.ndarray:
    """Return (N, 3) points of the masked pixels without the tested code: invert K, then the pose."""
    y, x = np.nonzero(mask)
    pixels = np.stack([x, y, np.ones_like(x)], axis=1).astype(np.float64)
    rays = pixels @ np.linalg.inv(view.intrinsics).T
    points = np.concatenate([rays * view.depth_m[y, x, None], np.ones((len(x), 1))], axis=1)
    return (points @ view.world_from_camera.T)[:, :3]


def test_same_seed_gives_the_same_bytes() -> None:
    views = [render(sample_scene(11), image_hw=(60, 80)) for _ in range(2)]
    for name in ("rgb", "depth_m", "instance_ids", "stuff_ids", "intrinsics", "world_from_camera"):
        first, second = (getattr(view, name) for view in views)
        assert first.tobytes() == second.tobytes(), name


def test_shapes_and_dtypes() -> None:
    view = render(sample_scene(1), image_hw=(30, 50))
    assert (view.rgb.shape, view.rgb.dtype) == ((30, 50, 3), np.uint8)
    assert (view.depth_m.shape, view.depth_m.dtype) == ((30, 50), np.float32)
    assert (view.instance_ids.shape, view.instance_ids.dtype) == ((30, 50), np.uint16)
    assert (view.stuff_ids.shape, view.stuff_ids.dtype) == ((30, 50), np.uint8)
    assert (view.intrinsics.shape, view.world_from_camera.shape) == ((3, 3), (4, 4))
    assert view.rgb.flags.c_contiguous


def test_points_of_an_object_lie_in_its_bounding_box(samples: list[Any]) -> None:
    for sample in samples:
        for index, item in enumerate(sample.scene.objects):
            points = world_points_m(sample.view, sample.view.instance_ids == index + 1)
            pose = item.world_from_object()
            local = (points - pose[:3, 3]) @ pose[:3, :3]
            assert (local >= item.model.lower_m - 0.004).all(), (sample.scene.seed, index)
            assert (local <= item.model.upper_m + 0.004).all(), (sample.scene.seed, index)


def test_points_of_surfaces_lie_on_them(samples: list[Any]) -> None:
    for sample in samples:
        view, room = sample.view, sample.scene.room
        table = world_points_m(view, view.stuff_ids == TABLE_ID)
        assert (table[:, 2] > -TABLE_THICKNESS_M - 0.01).all()
        assert (table[:, 2] < 0.01).all()
        # Pixels at the edge of a surface see it off-center, so a few are allowed some error.
        for stuff_id, axis, level_m in ((WALL_ID, 1, room.wall_y_m), (FLOOR_ID, 2, FLOOR_Z_M)):
            error = np.abs(world_points_m(view, view.stuff_ids == stuff_id)[:, axis] - level_m)
            if len(error):
                assert np.median(error) < 1e-5
                assert (error < 1e-3).mean() > 0.9
                assert error.max() < 0.03


def test_every_pixel_is_an_object_or_a_surface_but_not_both(samples: list[Any]) -> None:
    for sample in samples:
        view = sample.view
        assert not ((view.instance_ids > 0) & (view.stuff_ids > 0)).any()
        assert view.stuff_ids.max() < len(STUFF_NAMES)
        assert view.instance_ids.max() <= len(sample.scene.objects)
        assert (view.depth_m[view.instance_ids > 0] > 0).all()


def test_projected_center_of_a_ball_is_the_middle_of_its_mask() -> None:
    """Pin the half pixel: the matrix K, the ids and the depth agree on pixel centers."""
    scene = sample_scene(2)
    ball = next(item for seed in range(60) for item in sample_scene(seed).objects if item.category == "ball")
    ball = replace(ball, position_m=(0.0, 0.0, 0.0))
    radius = float(ball.model.upper_m[2]) / 2.0
    camera = look_from(
        (0.0, 0.0, radius), azimuth_rad=0.1, elevation_rad=0.7, distance_m=0.6, fovy_rad=0.6, roll_rad=0.1
    )
    alone = replace(scene, objects=(ball,))
    for supersample in (1, 2, 3):
        view = render(alone, camera=camera, image_hw=(96, 128), supersample=supersample)
        y, x = np.nonzero(view.instance_ids == 1)
        expected = camera.project(np.array([[0.0, 0.0, radius]]), (96, 128))[0, :2]
        np.testing.assert_allclose((x.mean(), y.mean()), expected, atol=0.12)
        assert view.depth_m[48, 64] == pytest.approx(0.6 - radius, abs=0.001)
        assert view.visible_fraction[0] == pytest.approx(1.0)


def test_hidden_and_cut_off_objects_report_it() -> None:
    scene = sample_scene(2)
    box = next(item for seed in range(60) for item in sample_scene(seed).objects if item.category == "box")
    front = replace(box, position_m=(0.0, -0.15, 0.0), yaw_rad=0.0)
    behind = replace(box, position_m=(0.0, 0.15, 0.0), yaw_rad=0.0)
    low = look_from((0.0, 0.0, 0.08), azimuth_rad=0.0, elevation_rad=0.15, distance_m=0.8, fovy_rad=0.8)
    view = render(replace(scene, objects=(front, behind)), camera=low, image_hw=(96, 128))
    assert view.visible_fraction[0] > 0.99
    assert view.visible_fraction[1] < 0.4
    assert view.in_frame_fraction[1] > 0.99
    aside = look_from((0.4, 0.0, 0.08), azimuth_rad=0.0, elevation_rad=0.4, distance_m=0.5, fovy_rad=0.8)
    view = render(replace(scene, objects=(front,)), camera=aside, image_hw=(96, 128))
    assert view.in_frame_fraction[0] < 0.6
    assert view.visible_fraction[0] <= view.in_frame_fraction[0]


def test_sizes_agree_about_the_scene() -> None:
    """A small and a large image of one scene show the same objects in the same positions."""
    scene = sample_scene(4)
    small, large = (render(scene, image_hw=hw).instance_ids for hw in ((60, 80), (240, 320)))
    agreement = (
        large.reshape(60, 4, 80, 4).transpose(0, 2, 1, 3).reshape(60, 80, 16) == small[..., None]
    ).mean()
    assert agreement > 0.97


def test_square_picture_contains_the_wide_one() -> None:
    scene = sample_scene(6)
    wide, square = (render(scene, image_hw=hw, supersample=1) for hw in ((72, 96), (96, 96)))
    np.testing.assert_array_equal(square.instance_ids[12:84], wide.instance_ids)


def test_moving_camera_changes_the_picture_but_not_the_scene() -> None:
    scene = sample_scene(9)
    rest = render(scene, image_hw=(60, 80))
    moved = render(scene, camera=orbit_camera(scene, 3.0), image_hw=(60, 80))
    assert (rest.rgb != moved.rgb).any()
    ids = set(np.unique(rest.instance_ids)) & set(np.unique(moved.instance_ids))
    assert len(ids) >= 3


def test_depth_beyond_the_range_is_zero() -> None:
    scene = sample_scene(4)
    full, short = render(scene, image_hw=(60, 80)), render(scene, image_hw=(60, 80), max_depth_m=0.8)
    assert (short.depth_m == np.where(full.depth_m <= np.float32(0.8), full.depth_m, 0)).all()
    assert (short.depth_m == 0).any()
    np.testing.assert_array_equal(short.instance_ids, full.instance_ids)


@pytest.mark.parametrize(("image_hw", "supersample"), [((0, 10), 2), ((10, -1), 2), ((10, 10), 0)])
def test_sizes_must_be_positive(image_hw: tuple[int, int], supersample: int) -> None:
    with pytest.raises(ValueError, match="positive"):
        render(sample_scene(0), image_hw=image_hw, supersample=supersample)


def test_rasterizer_agrees_with_a_loop_over_pixels() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-5, 25, (12, 3, 2)).astype(np.float32)
    key = rng.uniform(0.1, 1.0, (12, 3)).astype(np.float32)
    width, height = 20, 16
    expected = np.full((height, width), -1)
    for y in range(height):
        for x in range(width):
            best = 0.0
            for t, ((ax, ay), (bx, by), (cx, cy)) in enumerate(points.astype(np.float64)):
                basis = np.array([[bx - ax, cx - ax], [by - ay, cy - ay]])
                u, v = np.linalg.solve(basis, (x + 0.5 - ax, y + 0.5 - ay))
                value = key[t] @ (1 - u - v, u, v)
                if min(u, v, 1 - u - v) >= 0 and value > best:
                    best, expected[y, x] = value, t
    hits = rasterize(points, key, (width, height), np.arange(12), 12)
    found = np.full(height * width, -1)
    found[hits.pixel] = hits.triangle
    assert (found.reshape(height, width) == expected).mean() > 0.995
    alone = [len(rasterize(points[t : t + 1], key[t : t + 1], (width, height)).pixel) for t in range(12)]
    assert hits.group_px.tolist() == alone
