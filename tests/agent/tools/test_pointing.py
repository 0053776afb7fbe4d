"""`segment_with_prompt`: positions in pixels, and marks that are ignored."""

from __future__ import annotations

import pytest

from tests.agent.table import MASKS, new_frame, rectangle
from tests.agent.tools.marking import THOUSANDTHS, MarkFollowingSegmenter
from xsam import FakeSegmenter, PromptKind, Task
from xsam_agent_tools.prompt_arguments import MarkArguments, PlacedMarks, PromptArguments, place_marks


def _mark(**values) -> PromptArguments:
    return PromptArguments.model_validate(values)


def _placed(*marks: PromptArguments, image_hw: tuple[int, int] = (480, 640)) -> PlacedMarks:
    return place_marks([(mark, mark.positive) for mark in marks], image_hw)


def test_coordinates_are_pixels_of_the_image() -> None:
    """x goes with the width and y with the height; swapped, a point near the right border is outside."""
    placed = _placed(
        _mark(type="point", x=600, y=100),
        _mark(type="box", x=64, y=240, x2=160, y2=480, label="negative"),
        _mark(type="scribble", x=0, y=479, path=[{"x": 639, "y": 0}]),
    )
    point, box, scribble = placed.prompts
    assert point.points_xy.tolist() == [[600.0, 100.0]]
    assert (box.box_xyxy, box.positive) == ((64.0, 240.0, 160.0, 480.0), False)
    assert scribble.kind is PromptKind.SCRIBBLE
    assert scribble.points_xy.tolist() == [[0.0, 479.0], [639.0, 0.0]]
    for prompt in (point, box, scribble):
        prompt.check_inside((480, 640))
    assert placed.payload() == {
        "marks_px": [
            {"point": [600, 100]},
            {"box": [64, 240, 160, 480], "label": "negative"},
            {"scribble": [[0, 479], [639, 0]]},
        ]
    }


def test_fractions_of_the_image_are_converted_and_said() -> None:
    """0.25 can be no pixel; 1 beside it is the right or lower border."""
    placed = _placed(
        _mark(type="point", x=0.25, y=1), _mark(type="box", x=0, y=0.5, x2=1, y2=1, label="negative")
    )
    payload = placed.payload()
    assert payload["marks_px"] == [{"point": [160, 479]}, {"box": [0, 240, 640, 480], "label": "negative"}]
    assert "fractions" in str(payload["read_as"])


def test_a_long_scribble_is_echoed_in_part() -> None:
    path = [{"x": x, "y": 7} for x in range(10, 30)]
    (echo,) = _placed(_mark(type="scribble", x=3, y=7, path=path)).payload()["marks_px"]
    assert echo["scribble"][:2] == [[3, 7], [10, 7]]
    assert echo["points"] == 21


@pytest.mark.parametrize(
    ("marks", "reason", "hint"),
    [
        ([{"type": "point", "x": 900, "y": 100}], "(900, 100) is outside", "that is (576, 48)"),
        ([{"type": "point", "x": 100, "y": 480}], "outside the image of 640×480", "thousandths"),
        ([{"type": "point", "x": -1, "y": 100}], "outside", "[640,480]"),
        ([{"type": "point", "x": 1500, "y": 100}], "outside", "[640,480]"),
        ([{"type": "box", "x": 100, "y": 100, "x2": 700, "y2": 200}], "(700, 200) is outside", "thousandths"),
        ([{"type": "point", "x": 0.5, "y": 300}], "two units", "[640,480]"),
        ([{"type": "point", "x": 0.5, "y": 0.4}, {"type": "point", "x": 30, "y": 40}], "two units", "pixels"),
        ([{"type": "point", "x": 0.5, "y": -0.4}], "two units", "pixels"),
        ([{"type": "box", "x": 0, "y": 0, "x2": 1, "y2": 1}], "one pixel or the whole image", "pixels"),
        ([{"type": "scribble", "x": 5, "y": 5, "path": [[5, 900]]}], "(5, 900) is outside", "[640,480]"),
    ],
)
def test_marks_outside_the_image_or_without_a_clear_unit_are_refused(
    tools, call, marks, reason: str, hint: str
) -> None:
    result = call(tools["segment_with_prompt"], prompts=marks)
    assert (result["status"], result["code"]) == ("error", "INVALID_ARGUMENTS")
    assert reason in result["message"]
    assert hint in result["hint"]


@pytest.mark.parametrize(
    ("mark", "reason"),
    [
        ({"type": "point", "x": "left", "y": 5}, "valid number"),
        ({"type": "point", "x": True, "y": 5}, "number of pixels"),
        ({"type": "point", "x": float("nan"), "y": 5}, "finite number"),
        ({"type": "point", "x": 5, "y": 5, "x2": 9, "y2": 9}, "belong to a box"),
        ({"type": "box", "x": 1, "y": 1, "x2": 9, "y2": 9, "path": [{"x": 1, "y": 1}]}, "path belongs to"),
        ({"bbox": [10, 20, 30, 40]}, "bbox may mean"),
        ({"box_2d": [10, 20, 30, 40]}, "box_2d may mean"),
        ({"type": "point", "x": 5}, "y: Field required"),
        ({"type": "box", "x": 500, "y": 5, "x2": 400, "y2": 50}, "x2 > x"),
        ({"type": "scribble", "x": 5, "y": 5}, "further points in path"),
        ({"type": "circle", "x": 5, "y": 5}, "'point', 'box' or 'scribble'"),
        ({"type": "point", "x": 5, "y": 5, "label": "maybe"}, "'positive' or 'negative'"),
        ({"type": "point", "x": 5, "y": 5, "z": 1}, "z: Extra inputs"),
    ],
)
def test_marks_that_make_no_sense_are_refused_with_the_reason(tools, call, mark, reason: str) -> None:
    result = call(tools["segment_with_prompt"], prompts=[mark])
    assert result["code"] == "INVALID_ARGUMENTS"
    assert reason in result["message"]


@pytest.mark.parametrize(
    "sent",
    [
        [{"type": "box", "x1": 64, "y1": 96, "x2": 192, "y2": 192}],
        [{"type": "box", "x_min": 64, "y_min": 96, "x_max": 192, "y_max": 192, "path": None}],
        {"kind": "box", "x": 64, "y": 96, "x2": 192, "y2": 192},
        '[{"type": "box", "x": 64, "y": 96, "x2": 192, "y2": 192}]',
        '{"prompts": [{"type": "Box", "x": "64", "y": 96, "x2": 192.2, "y2": 192, "label": 1}]}',
        [{"box_xyxy": [64, 96, 192, 192]}],
        [{"x": 64, "y": 96, "x2": 192, "y2": 192}],
    ],
)
def test_common_ways_to_write_a_box_are_understood(make_tools, call, sent) -> None:
    segmenter = MarkFollowingSegmenter()
    result = call(make_tools(segmenter=segmenter)["segment_with_prompt"], prompts=sent)
    assert segmenter.queries[0].prompts[0].box_xyxy == (64.0, 96.0, 192.0, 192.0)
    assert result["marks_px"] == [{"box": [64, 96, 192, 192], "on": "unknown"}]


@pytest.mark.parametrize(
    "sent", [{"x": 90, "y": 70}, {"center_xy": [90, 70]}, {"type": "point", "xy": [90, 70]}]
)
def test_common_ways_to_write_a_point_are_understood(make_tools, call, sent) -> None:
    segmenter = MarkFollowingSegmenter()
    call(make_tools(segmenter=segmenter)["segment_with_prompt"], prompts=[sent])
    assert segmenter.queries[0].prompts[0].points_xy.tolist() == [[90.0, 70.0]]


def test_marks_copied_from_an_answer_hit_their_object(tools, call) -> None:
    """Answers give pixels; when this tool took thousandths, four copied marks of five hit something else."""
    found = call(tools["segment_objects"], queries=["mug", "plate"])
    for item in found["objects"]:
        x_px, y_px = item["center_xy"]
        x_min, y_min, x_max, y_max = item["box_xyxy"]
        for mark in (
            {"type": "point", "x": x_px, "y": y_px},
            {"type": "box", "x": x_min, "y": y_min, "x2": x_max, "y2": y_max},
        ):
            again = call(tools["segment_with_prompt"], prompts=[mark], image_id=found["image_id"])
            assert again["status"] == "ok"
            assert again["objects"][0]["box_xyxy"] == item["box_xyxy"]


def test_one_object_under_a_point(tools, call) -> None:
    x_px, y_px = 530, 64  # on the mug on the right
    point = {"type": "point", "x": x_px, "y": y_px}
    result = call(tools["segment_with_prompt"], prompts=[point])
    assert result["status"] == "ok"
    assert [o["box_xyxy"] for o in result["objects"]] == [[500, 20, 560, 110]]
    assert "ignored" not in result.json
    beside = {"type": "point", "x": 64, "y": 400}
    assert call(tools["segment_with_prompt"], prompts=[beside])["status"] == "no_match"


def test_scope_decides_the_task(make_tools, call) -> None:
    segmenter = MarkFollowingSegmenter()
    tool = make_tools(segmenter=segmenter)["segment_with_prompt"]
    points = [{"type": "point", "x": 100, "y": 100}, {"type": "point", "x": 300, "y": 300}]
    call(tool, prompts=points)
    call(tool, prompts=points, scope="all_similar")
    assert [q.resolved_task() for q in segmenter.queries] == [Task.INTERACTIVE, Task.VISUAL_GROUNDED]
    assert call(tool, prompts=points, scope="some")["code"] == "INVALID_ARGUMENTS"


def test_all_similar_gives_every_one(sim_tools, table, call) -> None:
    first = call(sim_tools["segment_objects"], queries=["mug"])
    x_px, y_px = first["objects"][0]["center_xy"]
    point = {"type": "point", "x": x_px, "y": y_px}
    result = call(
        sim_tools["segment_with_prompt"], prompts=[point], scope="all_similar", image_id=first["image_id"]
    )
    assert [o["box_xyxy"] for o in result["objects"]] == [o["box_xyxy"] for o in first["objects"]]
    assert len(result["objects"]) == sum(a.category == "mug" for a in table.items) == 3


NEGATIVE = [
    {"type": "box", "x": 0, "y": 0, "x2": 320, "y2": 240},
    {"type": "point", "x": 160, "y": 120, "label": "negative"},
]


def test_a_negative_mark_that_the_model_ignores_is_visible(make_tools, call) -> None:
    """Another project's model ignored negative points, and its agent believed the outline was corrected."""
    deaf = MarkFollowingSegmenter(fixed=rectangle(0, 0, 320, 240))
    result = call(make_tools(segmenter=deaf)["segment_with_prompt"], prompts=NEGATIVE)
    assert result["status"] == "unsure"
    assert result["iou_without_negatives"] == 1.0
    assert result["ignored"] == ["prompt 2"]
    assert "hint" in result.json


def test_a_negative_mark_that_works_is_visible_too(make_tools, call) -> None:
    result = call(make_tools(segmenter=MarkFollowingSegmenter())["segment_with_prompt"], prompts=NEGATIVE)
    area, cut_out = 320 * 240, 21 * 21
    assert result["iou_without_negatives"] == pytest.approx((area - cut_out) / area, abs=1e-3)
    assert "ignored" not in result.json


def test_both_queries_are_about_one_frame(make_tools, call) -> None:
    segmenter = MarkFollowingSegmenter()
    call(make_tools(segmenter=segmenter)["segment_with_prompt"], prompts=NEGATIVE)
    with_negative, without = segmenter.queries
    assert [p.positive for p in with_negative.prompts] == [True, False]
    assert [p.positive for p in without.prompts] == [True]


def test_only_negative_marks_are_refused(tools, call) -> None:
    result = call(tools["segment_with_prompt"], prompts=[NEGATIVE[1]])
    assert result["code"] == "INVALID_ARGUMENTS"
    assert "positive" in result["message"]


def test_marks_are_refused_while_the_image_size_is_unknown(make_tools, call) -> None:
    frames = {"front": new_frame("front")}
    tools = make_tools(segmenter=FakeSegmenter(MASKS, frames=frames), frame_source=None)
    point = {"type": "point", "x": 150, "y": 170}  # on the left mug
    early = call(tools["segment_with_prompt"], prompts=[point])
    assert (early["code"], early["hint"]) == ("INVALID_ARGUMENTS", "look with segment_objects first")
    call(tools["segment_objects"], queries=["mug"])
    result = call(tools["segment_with_prompt"], prompts=[point])
    assert [o["box_xyxy"] for o in result["objects"]] == [[100, 100, 200, 240]]


def test_marks_without_a_label_count_as_their_list_says() -> None:
    mark = MarkArguments(type="point", x=5, y=5)
    placed = place_marks([(mark, True), (mark, False)], (480, 640))
    assert [prompt.positive for prompt in placed.prompts] == [True, False]


def test_an_object_that_goes_far_beyond_the_box_around_it_is_unsure(make_tools, call) -> None:
    """A box around one mug that gives the whole table was not followed, although the table covers it."""
    whole_table = MarkFollowingSegmenter(fixed=rectangle(0, 0, 640, 480))
    box = {"type": "box", "x": 100, "y": 100, "x2": 200, "y2": 240}
    result = call(make_tools(segmenter=whole_table)["segment_with_prompt"], prompts=[box])
    assert (result["status"], result["ignored"]) == ("unsure", ["prompt 1"])
    assert result["objects"][0]["id"] == "f1/m1"


def test_an_object_beside_the_point_is_unsure(make_tools, call) -> None:
    elsewhere = MarkFollowingSegmenter(fixed=rectangle(0, 0, 60, 60))
    result = call(
        make_tools(segmenter=elsewhere)["segment_with_prompt"],
        prompts=[{"type": "point", "x": 300, "y": 300}],
    )
    assert (result["status"], result["ignored"]) == ("unsure", ["prompt 1"])


def test_a_mark_on_a_known_object_that_gives_another_outline_is_unsure(make_tools, call) -> None:
    """Pointing at a mug's center gave a part of the table in 5 of 132 cases, and looked like the mug."""

    class MugOrTable(MarkFollowingSegmenter):
        def segment(self, source, queries, *, deadline_s):
            if queries[0].prompts:
                return super().segment(source, queries, deadline_s=deadline_s)
            return FakeSegmenter(MASKS).segment(source, queries, deadline_s=deadline_s)

    tools = make_tools(segmenter=MugOrTable(fixed=rectangle(0, 100, 640, 480)))
    found = call(tools["segment_objects"], queries=["mug"])
    x_px, y_px = found["objects"][0]["center_xy"]
    point = {"type": "point", "x": x_px, "y": y_px}
    result = call(tools["segment_with_prompt"], prompts=[point], image_id="f1")
    assert (result["status"], result["differs_from"]) == ("unsure", ["f1/m1"])
    assert "f1/m1" in result["hint"]
    again = call(tools["segment_with_prompt"], prompts=[point], image_id="f1")
    assert again["status"] == "unsure"  # saying the same twice is no evidence
    elsewhere = {"type": "point", "x": 600, "y": 450}  # on no known object
    assert call(tools["segment_with_prompt"], prompts=[elsewhere], image_id="f1")["status"] == "ok"


def test_a_known_object_that_is_pointed_at_is_the_same_object(tools, call) -> None:
    call(tools["segment_objects"], queries=["plate"])
    result = call(tools["segment_with_prompt"], prompts=[{"x": 350, "y": 400}], image_id="f1")
    assert (result["status"], result["objects"][0]["same_as"]) == ("ok", "f1/m1")


@pytest.mark.parametrize("searched", [True, False])
def test_a_mark_says_what_it_is_on(make_tools, call, searched: bool) -> None:
    """Coordinates from 0 to 1000 that fit into the image hit something else, and nothing told so."""
    tools = make_tools(thing_classes=["mug", "plate"])
    if searched:
        call(tools["segment_objects"], queries=["mug", "plate"])
    image = {"image_id": "f1"} if searched else {}
    meant = call(tools["segment_with_prompt"], prompts=[{"type": "point", "x": 150, "y": 170}], **image)
    missed = call(tools["segment_with_prompt"], prompts=[THOUSANDTHS], **image)
    ids = ({"on_id": "f1/m1"}, {"on_id": "f1/m3"}) if searched else ({}, {})
    assert meant["marks_px"] == [{"point": [150, 170], "on": "mug", **ids[0]}]
    assert missed["marks_px"] == [{"point": [297, 463], "on": "plate", **ids[1]}]
    around = {"type": "box", "x": 230, "y": 320, "x2": 470, "y2": 479}
    assert call(tools["segment_with_prompt"], prompts=[around], **image)["marks_px"][0]["on"] == "plate"
    nothing = call(tools["segment_with_prompt"], prompts=[{"type": "point", "x": 10, "y": 470}], **image)
    assert nothing["marks_px"] == [{"point": [10, 470], "on": "unknown"}]
