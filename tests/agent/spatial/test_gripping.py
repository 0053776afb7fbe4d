"""The width to grip, compared with the objects' models; and the box's orientation in the text."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest

from tests.agent.sim_table import SwingingCameraTable, view_of
from xsam import MaskRle, SegmentationResult
from xsam.types.location import matrix_of_quaternion
from xsam_agent_tools.spatial.gripping import roll_pitch_yaw_deg

TURN = np.array([[0, 0, 1, 0.5], [-1, 0, 0, 0], [0, -1, 0, 1.2], [0, 0, 0, 1.0]])  # optical → robot base


def _model_width_m(table: SwingingCameraTable, instance_id: int) -> tuple[float, float]:
    """Return the least width of an object's outline along 180 directions, and the pixels it would cover."""
    scene, view, _ = view_of(table.seed)
    thing = scene.objects[instance_id - 1]
    pose = np.linalg.inv(view.world_from_camera) @ thing.world_from_object()
    points = np.concatenate([part.vertices for part in thing.model.parts]) @ pose[:3, :3].T + pose[:3, 3]
    sight = points.mean(axis=0) / np.linalg.norm(points.mean(axis=0))
    right = np.cross(sight, (0, 1, 0)) / np.linalg.norm(np.cross(sight, (0, 1, 0)))
    flat = points @ np.stack([right, np.cross(sight, right)], axis=1)
    angles = np.radians(np.arange(180))
    heights = flat @ np.stack([np.cos(angles), np.sin(angles)])
    pixels = points @ view.intrinsics.T
    spread = np.ptp(pixels[:, :2] / pixels[:, 2:], axis=0)
    return float(np.ptp(heights, axis=0).min()), float(spread.prod())


@pytest.mark.slow
def test_the_width_to_grip_is_that_of_the_model(make_tools, call) -> None:
    """Width of the box, the only number before, was off by 7 % in the median and 32 % in a tenth of cases."""
    errors = []
    for seed in range(2_000_020, 2_000_028):
        table = SwingingCameraTable(seed)
        tools = make_tools(segmenter=table, frame_source=table.frame)
        for item in table.items:
            width_m, full_area = _model_width_m(table, item.instance_id)
            x_min, y_min, x_max, y_max = item.box_xyxy
            if (x_max - x_min) * (y_max - y_min) < 0.93 * full_area:
                continue  # partly hidden
            spot = {"type": "point", "x": 0, "y": 0}
            rows, columns = np.nonzero(table.mask(item.instance_id))
            spot.update(x=int(columns[len(columns) // 2]), y=int(rows[len(rows) // 2]))
            found = call(tools["segment_with_prompt"], prompts=[spot])
            located = call(tools["locate_objects_3d"], object_ids=[found["objects"][0]["id"]])
            (place,) = located.artifact["places"]
            if "grip_m" in place:
                errors.append(place["grip_m"] / width_m - 1)
                assert located["objects"][0]["grip_cm"] == round(100 * place["grip_m"])
    assert len(errors) >= 20
    assert np.median(np.abs(errors)) < 0.03
    assert np.percentile(np.abs(errors), 90) < 0.08


def _grown_to_the_border(result: SegmentationResult) -> SegmentationResult:
    masks = []
    for mask in result.segments.masks:
        pixels = mask.decode()
        row, column = np.argwhere(pixels)[0]
        pixels[row : row + 2, : column + 2] = True
        masks.append(MaskRle.encode(pixels))
    return replace(result, segments=replace(result.segments, masks=tuple(masks)))


def test_no_width_of_what_is_cut_off(make_tools, table, call) -> None:
    class CutOff(SwingingCameraTable):
        def segment(self, source, queries, *, deadline_s):
            return [_grown_to_the_border(r) for r in super().segment(source, queries, deadline_s=deadline_s)]

    cut = CutOff()
    for segmenter, has_grip in ((table, True), (cut, False)):
        tools = make_tools(segmenter=segmenter, frame_source=segmenter.frame)
        found = call(tools["segment_objects"], queries=["mug"])
        located = call(tools["locate_objects_3d"], object_ids=[found["objects"][0]["id"]])
        assert ("grip_cm" in located["objects"][0]) == has_grip


def test_the_orientation_in_the_text_is_that_of_the_artifact(make_tools, table, call) -> None:
    tools = make_tools(segmenter=table, frame_source=table.frame, transforms=lambda *_: TURN)
    ids = [item["id"] for item in call(tools["segment_objects"], queries=["mug", "plate", "book"])["objects"]]
    for frame in ("", "base_link"):
        located = call(tools["locate_objects_3d"], object_ids=ids, frame=frame)
        for item, place in zip(located["objects"], located.artifact["places"], strict=True):
            turns = [
                cv2.Rodrigues(axis * math.radians(d))[0]
                for axis, d in zip(np.eye(3), item["rpy_deg"], strict=True)
            ]
            told = turns[2] @ turns[1] @ turns[0]
            assert told == pytest.approx(matrix_of_quaternion(tuple(place["orientation_xyzw"])), abs=0.03)


def test_a_quarter_turn_about_each_axis() -> None:
    half = math.sqrt(0.5)
    assert roll_pitch_yaw_deg((half, 0.0, 0.0, half)) == (90, 0, 0)
    assert roll_pitch_yaw_deg((0.0, 0.0, half, half)) == (0, 0, 90)
    assert roll_pitch_yaw_deg((0.0, half, 0.0, half))[1] == 90
