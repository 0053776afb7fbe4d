from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from xsam.sim.camera import PinholeCamera, look_from, orbit
from xsam.sim.scene import (
    TEST_SEEDS,
    TRAIN_SEEDS,
    VALIDATION_SEEDS,
    SceneConfig,
    footprints_overlap,
    orbit_camera,
    sample_scene,
)

SQUARE = np.array([(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)])


def turned(corners: np.ndarray, angle_rad: float, shift: tuple[float, float]) -> np.ndarray:
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    return corners @ np.array([[cos, sin], [-sin, cos]]) + shift


def test_seed_ranges_are_disjoint() -> None:
    for a, b in combinations((TRAIN_SEEDS, VALIDATION_SEEDS, TEST_SEEDS), 2):
        assert a.stop <= b.start or b.stop <= a.start


def test_scene_depends_on_the_seed_only() -> None:
    a, b, other = sample_scene(7), sample_scene(7), sample_scene(8)
    assert a.camera == b.camera
    assert a.light == b.light
    assert [(o.category, o.color, o.position_m, o.yaw_rad) for o in a.objects] == [
        (o.category, o.color, o.position_m, o.yaw_rad) for o in b.objects
    ]
    np.testing.assert_array_equal(a.room.table, b.room.table)
    assert a.camera != other.camera


@pytest.mark.parametrize("first_seed", [0, 1_000_000, 2_000_000])
@pytest.mark.slow
def test_objects_stand_apart_on_the_table(first_seed: int) -> None:
    for seed in range(first_seed, first_seed + 20):
        scene = sample_scene(seed)
        assert 3 <= len(scene.objects) <= 8
        for item in scene.objects:
            assert (np.abs(item.footprint_m()) <= scene.room.table_half_size_m).all()
        for a, b in combinations(scene.objects, 2):
            assert not footprints_overlap(a.footprint_m(), b.footprint_m(), 0.007)


@pytest.mark.slow
def test_many_scenes_have_several_objects_of_one_category() -> None:
    scenes = [sample_scene(seed) for seed in range(40)]
    crowded = [s for s in scenes if len({o.category for o in s.objects}) < len(s.objects)]
    assert len(crowded) >= 20


def test_overlap_of_turned_rectangles() -> None:
    assert footprints_overlap(SQUARE, turned(SQUARE, 0.3, (0.5, 0.5)))
    assert not footprints_overlap(SQUARE, turned(SQUARE, 0.0, (1.01, 0.0)))
    assert footprints_overlap(SQUARE, turned(SQUARE, 0.0, (1.01, 0.0)), gap_m=0.02)
    # The bounding boxes overlap, the rectangles do not: a diamond beside a corner.
    assert not footprints_overlap(SQUARE, turned(SQUARE, np.pi / 4, (1.75, 0.75)))


def test_configuration_is_respected() -> None:
    config = SceneConfig(object_count=(2, 2), categories=("mug",), elevation_deg=(40.0, 40.0))
    scene = sample_scene(3, config)
    assert [o.category for o in scene.objects] == ["mug", "mug"]
    assert len({o.color for o in scene.objects}) == 2
    offset = np.subtract(scene.camera.eye_m, scene.camera.target_m)
    assert np.degrees(np.arcsin(offset[2] / np.linalg.norm(offset))) == pytest.approx(40.0)


@pytest.mark.slow
def test_impossible_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        sample_scene(-1)
    with pytest.raises(ValueError, match="do not fit"):
        sample_scene(0, SceneConfig(object_count=(3, 3), categories=("pan",), distance_m=(0.1, 0.1)))


def test_camera_pose_is_a_rotation_and_the_target_is_in_the_middle() -> None:
    camera = look_from(
        (0.1, -0.2, 0.03), azimuth_rad=0.4, elevation_rad=0.6, distance_m=0.8, fovy_rad=0.7, roll_rad=0.2
    )
    rotation = camera.world_from_camera()[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1.0)
    x, y, depth = camera.project(np.array([camera.target_m]), (480, 640))[0]
    assert (x, y, depth) == pytest.approx((319.5, 239.5, 0.8))


def test_axes_of_the_optical_frame() -> None:
    camera = look_from((0.0, 0.0, 0.0), azimuth_rad=0.0, elevation_rad=0.5, distance_m=1.0, fovy_rad=0.7)
    right, above, near = camera.project(np.array([(0.1, 0, 0), (0, 0, 0.1), (0, -0.1, 0)]), (480, 640))
    assert right[0] > 319.5
    assert above[1] < 239.5
    assert near[2] < 1.0


def test_objects_have_one_size_in_wide_and_square_pictures() -> None:
    camera = sample_scene(0).camera
    assert camera.intrinsics((144, 192))[0, 0] == camera.intrinsics((192, 192))[0, 0]
    assert camera.intrinsics((480, 640))[0, 0] == pytest.approx(
        camera.intrinsics((144, 192))[0, 0] * 640 / 192
    )


def test_looking_straight_down_is_refused() -> None:
    camera = PinholeCamera(eye_m=(0.0, 0.0, 1.0), target_m=(0.0, 0.0, 0.0), fovy_rad=0.7)
    with pytest.raises(ValueError, match="straight"):
        camera.world_from_camera()


def test_orbit_starts_at_rest_and_moves_smoothly() -> None:
    scene = sample_scene(5)
    np.testing.assert_allclose(orbit_camera(scene, 0.0).eye_m, scene.camera.eye_m, atol=1e-9)
    np.testing.assert_allclose(orbit(scene.camera, 20.0).eye_m, scene.camera.eye_m, atol=1e-9)
    eyes = np.array([orbit_camera(scene, t).eye_m for t in np.arange(0.0, 20.0, 0.1)])
    steps = np.linalg.norm(np.diff(eyes, axis=0), axis=1)
    assert np.ptp(eyes, axis=0).max() > 0.1
    assert steps.max() < 0.03
