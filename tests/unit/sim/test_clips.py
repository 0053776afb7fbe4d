"""Simulated clips: the same from the same seed, objects that move and keep their ids, in and out of view."""

from __future__ import annotations

import numpy as np
import pytest

from xsam.sim.clips import FRAME_RATE_HZ, ClipConfig, sample_clip

SMALL = (48, 64)
SEEDS = (2_000_001, 2_000_002, 2_000_003)


def test_a_seed_gives_the_same_pixels() -> None:
    first, second = (sample_clip(SEEDS[0]).render(7, image_hw=SMALL) for _ in range(2))
    assert np.array_equal(first.rgb, second.rgb)
    assert np.array_equal(first.instance_ids, second.instance_ids)
    other = sample_clip(SEEDS[1]).render(7, image_hw=SMALL)
    assert not np.array_equal(first.rgb, other.rgb)


@pytest.mark.parametrize("seed", SEEDS)
def test_carried_objects_move_and_the_others_stay(seed: int) -> None:
    clip = sample_clip(seed)
    before, after = clip.scene_at(0), clip.scene_at(30)
    carried = {way.index for way in clip.carried}
    assert 1 <= len(carried) <= 2
    for index, (old, new) in enumerate(zip(before.objects, after.objects, strict=True)):
        moved_m = float(np.linalg.norm(np.subtract(new.position_m, old.position_m)))
        if index in carried:
            assert 0.08 * 30 / FRAME_RATE_HZ - 1e-9 <= moved_m <= 0.25 * 30 / FRAME_RATE_HZ + 1e-9
        else:
            assert moved_m == 0.0
        assert old.model is new.model
    assert clip.camera(0) != clip.camera(30)


def test_ids_are_those_of_the_scene_in_every_frame() -> None:
    """A carried object has its id wherever it is: its pixels are where its model is projected."""
    clip = sample_clip(SEEDS[1])
    for frame in (0, 20, 40):
        view = clip.render(frame, image_hw=SMALL)
        for way in clip.carried:
            item = clip.scene_at(frame).objects[way.index]
            middle = (item.model.lower_m + item.model.upper_m) / 2
            world = item.world_from_object() @ np.append(middle, 1.0)
            x, y, _ = clip.camera(frame).project(world[None, :3], SMALL)[0]
            rows, columns = np.nonzero(view.instance_ids == way.index + 1)
            if len(rows) > 20 and view.visible_fraction[way.index] > 0.95:
                assert abs(columns.mean() - x) < 3
                assert abs(rows.mean() - y) < 3


def test_objects_hide_each_other_and_leave_the_view() -> None:
    hidden = left = 0
    for seed in SEEDS:
        clip = sample_clip(seed)
        views = [clip.render(frame, image_hw=SMALL, supersample=1) for frame in range(0, 60, 10)]
        visible = np.stack([view.visible_fraction for view in views])
        inside = np.stack([view.in_frame_fraction for view in views])
        hidden += int(((inside > 0.9) & (visible < 0.7)).any())
        left += int(((inside.max(axis=0) > 0.9) & (inside.min(axis=0) < 0.5)).any())
    assert hidden >= 2
    assert left >= 2


def test_the_length_and_the_number_of_carried_objects_are_options() -> None:
    clip = sample_clip(SEEDS[0], ClipConfig(length=5, carried=(0, 0)))
    assert len(list(clip.views(image_hw=(12, 16), supersample=1))) == 5
    assert clip.carried == ()
