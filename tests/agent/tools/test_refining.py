"""`refine_object`: marks added and removed, parents, and marks that are ignored."""

from __future__ import annotations

import numpy as np
import pytest

from tests.agent.table import MASKS
from tests.agent.tools.marking import THOUSANDTHS, MarkFollowingSegmenter
from xsam import FakeSegmenter, Task
from xsam_agent_tools import SceneStore


@pytest.fixture
def refined(make_tools, call):
    """Make tools that found the left mug by name, over a segmenter that follows marks; return both."""

    class MugOrMarksSegmenter(MarkFollowingSegmenter):
        def segment(self, source, queries, *, deadline_s):
            if queries[0].prompts:
                return super().segment(source, queries, deadline_s=deadline_s)
            return FakeSegmenter(MASKS).segment(source, queries, deadline_s=deadline_s)

    segmenter = MugOrMarksSegmenter()
    tools = make_tools(segmenter=segmenter)
    call(tools["segment_objects"], queries=["mug"])
    return tools, segmenter


def test_refining_adds_and_removes_and_keeps_the_parent(refined, call) -> None:
    tools, segmenter = refined
    add = {"type": "box", "x": 200, "y": 100, "x2": 230, "y2": 240}
    result = call(tools["refine_object"], object_id="f1/m1", add=[add])
    # The mug is 100 × 140 px; a strip of 30 × 140 px beside it was added.
    assert result["objects"][0]["id"] == "f1/m3"
    assert result["objects"][0]["label"] == "mug"
    assert result["objects"][0]["box_xyxy"] == [100, 100, 230, 240]
    assert result["parent"] == "f1/m1"
    assert result["iou_with_parent"] == pytest.approx(100 / 130, abs=1e-3)
    assert (result["added_pct"], result["removed_pct"]) == (30.0, 0.0)
    query = segmenter.queries[-1]
    assert query.resolved_task() is Task.INTERACTIVE
    assert query.prompts[0].mask is not None
    assert np.array_equal(query.prompts[0].mask, MASKS["mug"][0])
    again = call(tools["inspect_object"], object_id="f1/m1")
    assert again["objects"][0]["box_xyxy"] == [100, 100, 200, 240]
    assert call(tools["inspect_object"], object_id="f1/m3")["parent"] == "f1/m1"


def test_removing_leaves_out_what_is_marked(refined, call) -> None:
    tools, _ = refined
    lower = {"type": "box", "x": 0, "y": 170, "x2": 320, "y2": 480}
    result = call(tools["refine_object"], object_id="f1/m1", remove=[lower])
    assert result["objects"][0]["box_xyxy"] == [100, 100, 200, 170]
    assert (result["iou_with_parent"], result["removed_pct"]) == (0.5, 50.0)


def test_a_model_that_ignores_the_marks_is_found_out(refined, call) -> None:
    tools, segmenter = refined
    segmenter.fixed = MASKS["mug"][0]
    on_the_mug = {"type": "point", "x": 150, "y": 170}
    beside_it = {"type": "point", "x": 320, "y": 240}
    result = call(tools["refine_object"], object_id="f1/m1", add=[beside_it], remove=[on_the_mug])
    assert result["status"] == "unsure"
    assert result["iou_with_parent"] == 1.0
    assert result["ignored"] == ["add 1", "remove 1"]
    assert result["marks_px"] == [
        {"point": [320, 240], "on": "unknown"},
        {"point": [150, 170], "label": "negative", "on": "mug", "on_id": "f1/m1"},
    ]
    assert "ignored" in result["hint"]


def test_refining_to_nothing_is_no_match_and_the_parent_stays(refined, call) -> None:
    tools, segmenter = refined
    segmenter.fixed = np.zeros((480, 640), np.bool_)
    everything = {"type": "box", "x": 0, "y": 0, "x2": 640, "y2": 480}
    result = call(tools["refine_object"], object_id="f1/m1", remove=[everything])
    assert (result["status"], result["objects"], result["parent"]) == ("no_match", [], "f1/m1")
    assert call(tools["inspect_object"], object_id="f1/m1")["status"] == "ok"


def test_refining_needs_marks_and_pixels(refined, make_tools, call) -> None:
    tools, _ = refined
    assert call(tools["refine_object"], object_id="f1/m1")["code"] == "INVALID_ARGUMENTS"
    blind = make_tools(store=SceneStore(run="", max_bytes=100_000))  # too little for the pixels
    call(blind["segment_objects"], queries=["mug"])
    mark = {"type": "point", "x": 5, "y": 5}
    assert call(blind["refine_object"], object_id="f1/m1", add=[mark])["code"] == "IMAGE_NOT_KEPT"


def test_every_mark_of_a_correction_says_what_it_is_on(tools, call) -> None:
    call(tools["segment_objects"], queries=["mug", "plate"])
    on_the_plate = {
        "type": "scribble",
        "x": 250,
        "y": 400,
        "path": [{"x": 300, "y": 400}, {"x": 440, "y": 400}],
    }
    result = call(tools["refine_object"], object_id="f1/m1", add=[on_the_plate], remove=[THOUSANDTHS])
    scribble, point = result["marks_px"]
    assert (scribble["on"], scribble["on_id"]) == ("plate", "f1/m3")
    assert (point["label"], point["on"]) == ("negative", "plate")
