from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from xsam.sim.annotate import MIN_AREA_SHARE, annotate, back_project, mirror, unlabeled_ids
from xsam.sim.render import render
from xsam.sim.scene import sample_scene


def test_boxes_areas_and_centroids_are_those_of_the_masks(samples: list[Any]) -> None:
    for sample in samples:
        ids = sample.view.instance_ids
        assert [item.instance_id for item in sample.annotations] == sorted(set(np.unique(ids).tolist()) - {0})
        for item in sample.annotations:
            mask = ids == item.instance_id
            x0, y0, x1, y1 = item.box_xyxy
            assert mask[y0:y1, x0:x1].sum() == mask.sum() == item.area_px
            for edge in (mask[y0, :], mask[y1 - 1, :], mask[:, x0], mask[:, x1 - 1]):
                assert edge.any()
            rows, columns = np.nonzero(mask)
            assert item.centroid_xy == pytest.approx((columns.mean(), rows.mean()))
            assert item.depth_m == pytest.approx(sample.view.depth_m[mask].mean(), rel=1e-5)
            model = sample.scene.objects[item.instance_id - 1]
            assert (item.category, item.color) == (model.category, model.color)


def test_position_is_near_the_object(samples: list[Any]) -> None:
    for sample in samples:
        pose = sample.view.world_from_camera
        for item in sample.annotations:
            if not item.labeled:
                continue
            model = sample.scene.objects[item.instance_id - 1]
            world = pose[:3, :3] @ item.position_camera_m + pose[:3, 3]
            reach = float(np.linalg.norm(np.maximum(-model.model.lower_m, model.model.upper_m)))
            assert np.linalg.norm(world - model.position_m) <= reach + 0.005


def test_slivers_are_not_labeled(samples: list[Any]) -> None:
    for sample in samples:
        limit = MIN_AREA_SHARE * sample.view.instance_ids.size
        for item in sample.annotations:
            expected = (
                item.area_px >= limit and item.in_frame_fraction >= 0.5 and item.visible_fraction >= 0.25
            )
            assert item.labeled == expected
            assert 0.0 <= item.visible_fraction <= item.in_frame_fraction <= 1.0
        assert unlabeled_ids(sample.annotations) == tuple(
            item.instance_id for item in sample.annotations if not item.labeled
        )


def test_objects_out_of_depth_range_still_have_a_box() -> None:
    scene = sample_scene(0)
    annotations = annotate(scene, render(scene, image_hw=(60, 80), max_depth_m=0.2))
    assert annotations
    assert all(item.depth_m == 0.0 and item.area_px > 0 for item in annotations)


def test_mirrored_annotations_are_those_of_the_flipped_picture(samples: list[Any]) -> None:
    for sample in samples[:4]:
        ids = sample.view.instance_ids[:, ::-1]
        for item in mirror(sample.annotations, ids.shape[1]):
            rows, columns = np.nonzero(ids == item.instance_id)
            assert item.box_xyxy == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert item.centroid_xy == pytest.approx((columns.mean(), rows.mean()))
        twice = mirror(mirror(sample.annotations, ids.shape[1]), ids.shape[1])
        assert [a.box_xyxy for a in twice] == [a.box_xyxy for a in sample.annotations]
        assert [a.position_camera_m for a in twice] == [a.position_camera_m for a in sample.annotations]


def test_back_projection_inverts_the_camera() -> None:
    camera = sample_scene(0).camera
    x, y, depth = np.array([0, 63, 20]), np.array([0, 47, 10]), np.array([0.5, 1.0, 2.0], np.float32)
    local = back_project(x, y, depth, camera.intrinsics((48, 64)))
    pose = camera.world_from_camera()
    projected = camera.project(local @ pose[:3, :3].T + pose[:3, 3], (48, 64))
    np.testing.assert_allclose(projected, np.stack([x, y, depth], axis=1), atol=1e-6)
