"""`track_object`: the same object on a fresh image, and honest results when it is absent or not unique."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from support.golden import GOLDEN_X2SAM
from tests.agent.sim_table import SwingingCameraTable
from tests.agent.table import new_frame, rectangle
from xsam import FakeSegmenter, Frame, MaskRle, Query, Task, VisualPrompt, XSam
from xsam_agent_tools.runtime.loading import LoadingSegmenter
from xsam_agent_tools.spatial.matching import Sighting, best_matches, similarity
from xsam_agent_tools.tools.tracking import POINTED_LABELS


def _instance(table: SwingingCameraTable, mask: MaskRle, t_s: float) -> int:
    """Return the labeled object of the simulator that a mask shows; 0 = none."""
    ids = [a.instance_id for a in table.items]
    return next((i for i in ids if mask.iou(MaskRle.encode(table.mask(i, t_s=t_s))) > 0.99), 0)


@pytest.mark.slow
@pytest.mark.parametrize("t_s", [1.0, 4.0])
def test_objects_are_found_again_while_the_camera_swings(make_toolkit, call, t_s: float) -> None:
    results: Counter[str] = Counter()
    for seed in range(2_000_012, 2_000_015):
        table = SwingingCameraTable(seed)
        toolkit = make_toolkit(segmenter=table, frame_source=table.frame, mode="full", repeat_within_s=0)
        tools = {tool.name: tool for tool in toolkit.get_tools()}
        categories = sorted({a.category for a in table.items})[:8]
        found = call(tools["segment_objects"], queries=categories, max_objects=20)
        for item in found["objects"]:
            table.t_s = 0.0
            instance = _instance(table, toolkit.store.object(item["id"])[1].mask, 0.0)
            table.t_s = t_s
            if instance not in [a.instance_id for a in table.items]:
                continue
            result = call(tools["track_object"], object_id=item["id"])
            assert result["parent"] == item["id"]
            if result["status"] == "ok":
                mask = toolkit.store.object(result["objects"][0]["id"])[1].mask
                results["right" if _instance(table, mask, t_s) == instance else "wrong"] += 1
            else:
                results[result["status"]] += 1
        table.t_s = 0.0
    assert results["wrong"] == 0
    assert results["right"] / results.total() >= 0.9
    assert results.total() >= 12


def test_a_fresh_image_a_new_id_and_how_far_it_moved(make_tools, call) -> None:
    """A red mug moves 40 px to the right and 30 px down."""
    mug = rectangle(100, 100, 200, 240)

    class MovingMugSegmenter:
        def segment(self, source, queries, *, deadline_s):
            return FakeSegmenter({"mug": [mug]}).segment(source, queries, deadline_s=deadline_s)

    def source(camera: str) -> Frame:
        rgb = np.full((480, 640, 3), 128, np.uint8)
        rgb[mug] = (200, 30, 30)
        return Frame(rgb=rgb, camera=camera, stamp_ns=new_frame().stamp_ns)

    tools = make_tools(segmenter=MovingMugSegmenter(), frame_source=source)
    call(tools["segment_objects"], queries=["mug"])
    mug = rectangle(140, 130, 240, 270)
    result = call(tools["track_object"], object_id="f1/m1")
    assert (result["status"], result["image_id"], result["parent"]) == ("ok", "f2", "f1/m1")
    assert [o["id"] for o in result["objects"]] == ["f2/m1"]
    assert result["moved_px"] == [40, 30]
    overlap = 60 * 110
    assert result["iou_with_parent"] == pytest.approx(overlap / (2 * 100 * 140 - overlap), abs=0.01)
    assert call(tools["inspect_object"], object_id="f2/m1")["parent"] == "f1/m1"
    assert call(tools["inspect_object"], object_id="f1/m1")["status"] == "ok"


def test_a_removed_object_is_no_match(sim_tools, table, call) -> None:
    call(sim_tools["segment_objects"], queries=["bottle"])
    bottle = next(a.instance_id for a in table.items if a.category == "bottle")
    table.hidden = {bottle}
    result = call(sim_tools["track_object"], object_id="f1/m1")
    assert (result["status"], result["objects"]) == ("no_match", [])
    assert "not in view" in result["hint"]
    assert result["next"] == "segment_objects(['bottle'])"


def test_twins_that_may_have_been_swapped_are_ambiguous(make_tools, call) -> None:
    """Two equal cans, and the camera has moved: the tool must not pick one."""
    left, right = rectangle(100, 200, 160, 300), rectangle(400, 200, 460, 300)
    rgb = np.full((480, 640, 3), 128, np.uint8)
    rgb[left | right] = (200, 30, 30)
    masks = {"front": [rectangle(250, 200, 310, 300)], "wrist": [left, right]}
    rgb_front = np.full((480, 640, 3), 128, np.uint8)
    rgb_front[masks["front"][0]] = (200, 30, 30)
    pixels = {"front": rgb_front, "wrist": rgb}

    class PerCameraSegmenter:
        def segment(self, source, queries, *, deadline_s):
            cans = FakeSegmenter({"can": masks[source.camera]})
            return cans.segment(source, queries, deadline_s=deadline_s)

    def source(camera: str) -> Frame:
        return Frame(rgb=pixels[camera], camera=camera, stamp_ns=new_frame().stamp_ns)

    tools = make_tools(segmenter=PerCameraSegmenter(), frame_source=source)
    call(tools["segment_objects"], queries=["can"])
    result = call(tools["track_object"], object_id="f1/m1", camera="wrist")
    assert result["status"] == "ambiguous"
    assert result["camera"] == "wrist"
    assert sorted(result["match"]) == [o["id"] for o in result["objects"]] == ["f2/m1", "f2/m2"]
    assert result["differ"] == {"f2/m1": "left", "f2/m2": "right"}
    assert "moved_px" not in result.json


def test_pointed_objects_are_found_by_their_position(make_tools, call) -> None:
    tools = make_tools()
    point = {"type": "point", "x": 150, "y": 170}
    call(tools["segment_with_prompt"], prompts=[point])
    result = call(tools["track_object"], object_id="f1/m1")
    assert (result["status"], result["objects"][0]["label"]) == ("ok", "marked")
    assert result["objects"][0]["label"] in POINTED_LABELS
    assert result["iou_with_parent"] == 1.0


def test_it_uses_the_camera_that_saw_the_object_by_default(tools, call) -> None:
    call(tools["segment_objects"], queries=["plate"], camera="wrist")
    assert call(tools["track_object"], object_id="f1/m1")["camera"] == "wrist"
    assert call(tools["track_object"], object_id="f1/m1", camera="same")["camera"] == "wrist"
    assert call(tools["track_object"], object_id="f1/m1", camera="front")["camera"] == "front"
    assert call(tools["track_object"], object_id="f1/m1", camera="rear")["code"] == "UNKNOWN_CAMERA"


def test_works_without_pixels(make_tools, call) -> None:
    frames = {"front": new_frame("front")}
    masks = {"mug": [rectangle(100, 100, 200, 240), rectangle(500, 20, 560, 110)]}
    tools = make_tools(segmenter=FakeSegmenter(masks, frames=frames), frame_source=None)
    call(tools["segment_objects"], queries=["mug"])
    result = call(tools["track_object"], object_id="f1/m2")
    assert (result["status"], result["objects"][0]["box_xyxy"]) == ("ok", [500, 20, 560, 110])


def _sighting(rgb: tuple[int, int, int], x_px: int, *, camera: str = "front", size: int = 60) -> Sighting:
    mask = rectangle(x_px, 200, x_px + size, 200 + size)
    image = np.full((480, 640, 3), 128, np.uint8)
    image[mask] = rgb
    return Sighting(
        mask=MaskRle.encode(mask),
        center_xy=(x_px + size // 2, 200 + size // 2),
        frame=Frame(rgb=image),
        camera=camera,
    )


def test_color_decides_where_position_does_not() -> None:
    red, blue = (200, 30, 30), (30, 30, 200)
    before = _sighting(red, 300)
    moved, other = _sighting(red, 360), _sighting(blue, 300)
    assert [index for index, _ in best_matches(before, [other, moved])] == [1]
    assert similarity(before, before) == pytest.approx(1.0)


def test_size_and_position_do_not_count_between_cameras() -> None:
    red = (200, 30, 30)
    before = _sighting(red, 20)
    far = _sighting(red, 500, camera="wrist", size=20)
    assert similarity(before, far) == pytest.approx(1.0, abs=0.05)
    assert similarity(before, _sighting(red, 500, size=20)) < 0.75


def test_an_object_in_the_same_position_may_be_another_one() -> None:
    """Same position, same size, another color: somebody swapped the red can for a blue one."""
    assert best_matches(_sighting((200, 30, 30), 300), [_sighting((30, 30, 200), 300)]) == []


def test_a_shrunken_stranger_of_another_color_is_no_match() -> None:
    assert best_matches(_sighting((200, 30, 30), 20), [_sighting((30, 200, 30), 500, size=15)]) == []


class _Session:
    """A session of `_Rememberer`: it has seen where its object was marked."""

    nbytes = 1000

    def __init__(self, query: Query) -> None:
        self.query, self.frame_count = query, 0

    def fork(self) -> _Session:
        raise NotImplementedError

    def refresh(self) -> None: ...

    def reset(self) -> None: ...


class _Rememberer:
    """A model that follows a moving mug: only a session that saw it before knows where it is."""

    has_memory = True
    moved = False

    def segment(self, source, queries, *, deadline_s, on_stage=None, on_text=None):
        mug = rectangle(400, 300, 500, 440) if self.moved else rectangle(100, 100, 200, 240)
        results = []
        for query in queries:
            fake = FakeSegmenter({"mug": [mug]})
            if isinstance(query, _Session):
                query.frame_count += 1
                query = Query(thing_classes=("mug",)) if query.frame_count > 1 else query.query
            results += fake.segment(source, [query], deadline_s=deadline_s)
        return results

    def open_session(self, query: Query, *, refresh_every: int, late_s: float) -> _Session:
        return _Session(query)


@pytest.mark.parametrize(("has_memory", "status"), [(True, "ok"), (False, "no_match")])
@pytest.mark.parametrize("loading", [False, True])
def test_a_model_with_a_memory_follows_what_was_pointed_at(
    make_tools, call, has_memory: bool, status: str, loading: bool
) -> None:
    """A pointed object has no name: without a memory it is lost once it has left its place."""
    model = _Rememberer()
    model.has_memory = has_memory

    def source(camera: str) -> Frame:
        rgb = np.full((480, 640, 3), 128, np.uint8)
        top, left = (300, 400) if model.moved else (100, 100)
        rgb[top : top + 140, left : left + 100] = (200, 30, 30)
        return Frame(rgb=rgb, camera=camera, stamp_ns=new_frame().stamp_ns)

    segmenter = LoadingSegmenter(lambda: model) if loading else model
    tools = make_tools(segmenter=segmenter, frame_source=source)
    call(tools["segment_with_prompt"], prompts=[{"type": "point", "x": 150, "y": 170}])
    model.moved = True
    result = call(tools["track_object"], object_id="f1/m1")
    assert result["status"] == status
    if status == "ok":
        assert result["moved_px"] == [300, 200]
        assert result["objects"][0]["label"] == "marked"


@pytest.mark.slow
def test_with_the_memory_of_a_real_model(make_toolkit, call) -> None:
    """What is found is what a session finds that has seen the object in its own image."""
    engine = XSam.load(GOLDEN_X2SAM / "x2a", threads=1)
    rgb = np.random.default_rng(3).integers(0, 80, (48, 72, 3), dtype=np.uint8)

    def source(camera: str) -> Frame:
        return Frame(rgb=rgb, camera=camera, stamp_ns=new_frame().stamp_ns)

    toolkit = make_toolkit(segmenter=engine, frame_source=source, mode="full")
    tools = {tool.name: tool for tool in toolkit.get_tools()}
    call(tools["segment_with_prompt"], prompts=[{"type": "point", "x": 30, "y": 20}])
    marked = VisualPrompt.from_mask(toolkit.store.object("f1/m1")[1].mask.decode())
    session = engine.open_session(Query(task=Task.INTERACTIVE, prompts=(marked,)))
    session.step(rgb)
    expected = session.step(rgb).segments.masks[0]
    result = call(tools["track_object"], object_id="f1/m1")
    assert [toolkit.store.object(found["id"])[1].mask for found in result["objects"]] == [expected]
    assert expected != engine.segment(rgb, session.query).segments.masks[0]
