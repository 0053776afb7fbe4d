"""The width to grip, compared with the objects' models; and the box's orientation in the text."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest

from tests.agent.sim_table import SwingingCameraTable, view_of, with_locations
from tests.agent.table import new_frame, rectangle
from xsam import FakeSegmenter, MaskRle, SegmentationResult
from xsam.spatial.localize import locate_mask
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


def test_the_width_of_what_is_cut_off_is_a_lower_bound(make_tools, table, call) -> None:
    class CutOff(SwingingCameraTable):
        def segment(self, source, queries, *, deadline_s):
            return [_grown_to_the_border(r) for r in super().segment(source, queries, deadline_s=deadline_s)]

    cut = CutOff()
    for segmenter, key in ((table, "grip_m"), (cut, "grip_at_least_m")):
        tools = make_tools(segmenter=segmenter, frame_source=segmenter.frame)
        found = call(tools["segment_objects"], queries=["mug"])
        located = call(tools["locate_objects_3d"], object_ids=[found["objects"][0]["id"]])
        (place,) = located.artifact["places"]
        assert {name for name in place if "grip" in name} == {key}
        width_cm = round(100 * place[key])
        assert located["objects"][0]["grip_cm"] == (width_cm if key == "grip_m" else f">={width_cm}")


@pytest.mark.slow
def test_a_width_that_is_too_small_says_that_it_is_a_lower_bound(make_tools, call) -> None:
    """Of partly hidden objects the visible part was told as the width: up to 60 % too small."""
    kinds: dict[str, list[float]] = {"grip_m": [], "grip_at_least_m": []}
    for seed in range(2_000_030, 2_000_046):
        table = SwingingCameraTable(seed)
        tools = make_tools(segmenter=table, frame_source=table.frame)
        categories = sorted({item.category for item in table.items})
        found = call(tools["segment_objects"], queries=categories[:8], max_objects=10)
        items = {tuple(item.box_xyxy): item for item in table.items}
        located = call(tools["locate_objects_3d"], object_ids=[item["id"] for item in found["objects"]])
        boxes = {item["id"]: tuple(item["box_xyxy"]) for item in found["objects"]}
        for place in located.artifact["places"]:
            item = items.get(boxes[place["id"]])
            for key, errors in kinds.items():
                if item is not None and key in place:
                    errors.append(place[key] / _model_width_m(table, item.instance_id)[0] - 1)
    assert min(map(len, kinds.values())) >= 10
    assert min(kinds["grip_at_least_m"]) < -0.2, "some are hidden"
    assert min(kinds["grip_m"]) > -0.12
    assert np.percentile(np.abs(kinds["grip_m"]), 90) < 0.08


def test_something_in_front_of_an_object_makes_its_width_a_lower_bound(make_tools, call) -> None:
    """A box in front hides a third of another one; the same box behind it, or beside it, hides nothing."""
    back = rectangle(200, 150, 400, 300)
    for depth_m, (x_min, x_max), at_least in (
        (0.6, (330, 450), True),
        (1.0, (400, 450), False),
        (1.5, (400, 450), False),
        (0.6, (460, 500), False),
    ):
        depth = np.full((480, 640), 2.0, np.float32)
        depth[back] = 1.0
        front = rectangle(x_min, 100, x_max, 350)
        depth[front] = depth_m
        mask = back & ~front
        frame = replace(
            new_frame(),
            depth_m=depth,
            intrinsics=np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]]),
        )
        tools = make_tools(
            segmenter=FakeSegmenter({"box": [mask]}), frame_source=lambda _, frame=frame: frame
        )
        found = call(tools["segment_objects"], queries=["box"])
        (item,) = call(tools["locate_objects_3d"], object_ids=[found["objects"][0]["id"]])["objects"]
        assert isinstance(item["grip_cm"], str) == at_least, (depth_m, x_min)


def test_the_width_is_there_when_the_node_gives_positions_in_another_frame(make_tools, table, call) -> None:
    class WithTargetFrame(SwingingCameraTable):
        def segment(self, source, queries, *, deadline_s):
            frame = table.frame()
            results = super().segment(source, queries, deadline_s=deadline_s)
            return [
                with_locations(
                    result,
                    [
                        replace(
                            locate_mask(mask.decode(), frame.depth_m, frame.intrinsics),
                            frame_id="front_optical",
                        ).transformed(TURN, "base_link")
                        for mask in result.segments.masks
                    ],
                )
                for result in results
            ]

    grips = []
    for segmenter in (table, WithTargetFrame()):
        tools = make_tools(segmenter=segmenter, frame_source=segmenter.frame)
        found = call(tools["segment_objects"], queries=["mug"])
        located = call(tools["locate_objects_3d"], object_ids=[found["objects"][0]["id"]])
        grips.append((located["frame"], located["objects"][0]["grip_cm"]))
    assert grips[1] == ("base_link", grips[0][1])


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
