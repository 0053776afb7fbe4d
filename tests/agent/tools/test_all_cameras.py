"""`segment_objects` with camera "all": objects say which camera saw them, and no camera costs the others."""

from __future__ import annotations

import threading
import time

import pytest

from benchmarks.agent.tokens import estimate_tokens
from tests.agent.table import new_frame, rectangle
from xsam import FakeSegmenter, Query

DEADLINE_S = 1.0


def test_every_object_says_its_camera(tools, call) -> None:
    result = call(tools["segment_objects"], queries=["mug"], camera="all")
    assert result["status"] == "ok"
    assert [item["camera"] for item in result["objects"]] == ["front", "front", "wrist", "wrist"]
    images = {entry["camera"]: entry["image_id"] for entry in result["cameras"]}
    assert sorted(images) == ["front", "wrist"]
    for item in result["objects"]:
        assert item["id"].startswith(f"{images[item['camera']]}/")
        assert call(tools["inspect_object"], object_id=item["id"])["camera"] == item["camera"]
    assert len(result.artifact["masks"]) == 4
    assert [frame["camera"] for frame in result.artifact["frames"]] == ["front", "wrist"]
    assert estimate_tokens(result.message.content) <= 70 * 4 + 40 * 2 + 20


@pytest.mark.parametrize("fault", ["nothing", "crash", "hang", "old"])
@pytest.mark.parametrize("dead", ["front", "wrist"])
@pytest.mark.slow
def test_a_dead_camera_does_not_lose_the_results_of_the_other(
    make_tools, call, fault: str, dead: str
) -> None:
    released = threading.Event()

    def source(camera: str):
        if camera != dead:
            return new_frame(camera)
        if fault == "crash":
            raise RuntimeError("USB")
        if fault == "hang":
            released.wait(30)
        return new_frame(camera, age_s=60) if fault == "old" else None

    tools = make_tools(frame_source=source, deadline_s=DEADLINE_S)
    began_s = time.monotonic()
    try:
        result = call(tools["segment_objects"], queries=["mug", "unicorn"], camera="all")
        nothing = call(tools["segment_objects"], queries=["dragon"], camera="all")
    finally:
        released.set()
    assert time.monotonic() - began_s < 20 * DEADLINE_S
    assert result["status"] == "ok"
    assert {item["camera"] for item in result["objects"]} == {"front", "wrist"} - {dead}
    (failed,) = [entry for entry in result["cameras"] if entry["status"] == "error"]
    assert failed["camera"] == dead
    assert failed["code"]
    assert f"not searched: {dead}" in result["hint"]
    assert nothing["status"] in ("error", "stale")  # what one camera does not see is not absent
    assert dead in nothing["message"]


def test_what_no_camera_sees_is_no_match(tools, call) -> None:
    result = call(tools["segment_objects"], queries=["unicorn"], camera="all")
    assert (result["status"], result["objects"]) == ("no_match", [])
    assert result["next"].startswith("report_not_found('unicorn'")
    assert call(tools["segment_objects"], queries=["unicorn"], camera="all")["code"] == "REPEATED_QUERY"


def test_all_is_offered_where_there_are_several_cameras(make_tools, tools) -> None:
    (alone,) = [make_tools(cameras=["front"])["segment_objects"]]
    for tool, has_all in ((tools["segment_objects"], True), (alone, False)):
        names = tool.tool_call_schema.model_json_schema()["properties"]["camera"]["enum"]
        assert ("all" in names) == has_all


def test_every_tool_that_looks_through_a_camera_takes_all(make_tools, call) -> None:
    tools = make_tools(images="user")
    for name, arguments in {
        "segment_objects": {"queries": ["mug"]},
        "ask_scene": {"question": "What can I drink from?"},
        "segment_everything": {"classes": ["mug", "plate"]},
        "show_camera": {},
    }.items():
        field = tools[name].tool_call_schema.model_json_schema()["properties"]["camera"]
        assert "all" in field["enum"], name
        assert "every camera at once" in field["description"], name
        result = call(tools[name], camera="all", **arguments)
        assert result["status"] == "ok", name
        assert [entry["camera"] for entry in result["cameras"]] == ["front", "wrist"], name
        assert {entry["image_id"] for entry in result["cameras"]} == {
            frame["image_id"] for frame in result.artifact["frames"]
        }
        assert len(result.images) == 2, name
        if name != "show_camera":
            assert {item["camera"] for item in result["objects"]} == {"front", "wrist"}, name
    counts = [entry["counts"] for entry in call(tools["segment_everything"], camera="all")["cameras"]]
    assert counts == [{"mug": 2, "plate": 1}] * 2  # by camera: two may see the same thing


def test_the_room_for_objects_goes_to_the_cameras_that_have_some(make_tools, call) -> None:
    """Ten objects were shared evenly by the cameras, so one that saw nothing took half of the room."""
    masks = {f"mug {n}": [rectangle(50 * n, 10, 50 * n + 40, 60)] for n in range(12)}

    class OnlyFront(FakeSegmenter):
        def segment(self, source, queries, *, deadline_s):
            if source.camera != "front":
                queries = [Query(thing_classes=("nothing",)) for _ in queries]
            return super().segment(source, queries, deadline_s=deadline_s)

    tools = make_tools(segmenter=OnlyFront(masks), cameras=["left", "front", "right", "back"])
    names = [f"mug {n}" for n in range(8)]
    found = call(tools["segment_objects"], queries=names, camera="all", max_objects=8)
    assert [item["camera"] for item in found["objects"]] == ["front"] * 8
    assert found["truncated"] == 0
    few = call(tools["segment_objects"], queries=names, camera="all", max_objects=3)
    assert (len(few["objects"]), few["truncated"]) == (3, 5)
    (front,) = [entry for entry in few["cameras"] if "list_all" in entry]
    assert front["list_all"] == f"segment_objects({names!r},image_id={front['image_id']!r},max_objects=8)"


def test_a_dead_camera_costs_its_own_limit_and_not_the_deadline(make_tools, call) -> None:
    released = threading.Event()

    def source(camera: str):
        if camera == "wrist":
            released.wait(60)
        return new_frame(camera)

    tools = make_tools(frame_source=source, deadline_s=50.0, frame_wait_s=0.3, images="user")
    try:
        for name, arguments in {
            "segment_objects": {"queries": ["mug"]},
            "ask_scene": {"question": "What can I drink from?"},
            "segment_everything": {"classes": ["mug"]},
            "show_camera": {},
        }.items():
            result = call(tools[name], camera="all", **arguments)
            assert not released.is_set()
            assert result["status"] == "ok", name
            (failed,) = [entry for entry in result["cameras"] if entry["status"] == "error"]
            assert (failed["camera"], failed["code"]) == ("wrist", "DEADLINE")
            assert "not searched: wrist" in result["hint"], name
        began_s = time.monotonic()
        call(tools["segment_objects"], queries=["unicorn", "mug"], camera="all")
        report = call(tools["report_not_found"], query="unicorn", tried=["unicorn"], reason="no")
        assert report["cameras_not_used"] == ["wrist"]
        assert time.monotonic() - began_s < 40.0
    finally:
        released.set()


def test_all_of_one_camera_is_that_camera(make_tools, call) -> None:
    tools = make_tools(cameras=["front"])
    result = call(tools["segment_objects"], queries=["mug"], camera="all")
    assert (result["status"], result["camera"], result["read_as"]) == ("ok", "front", {"all": "front"})
    prompt = {"type": "point", "x": 150, "y": 170}
    assert call(tools["segment_with_prompt"], prompts=[prompt], camera="ALL")["camera"] == "front"


def test_a_camera_may_be_called_all(make_tools, call) -> None:
    tools = make_tools(cameras=["front", "all"])
    assert call(tools["segment_objects"], queries=["mug"], camera="all")["camera"] == "all"


def test_an_earlier_image_has_its_own_camera(tools, call) -> None:
    first = call(tools["segment_objects"], queries=["mug"], camera="wrist")
    again = call(tools["segment_objects"], queries=["plate"], camera="all", image_id=first["image_id"])
    assert (again["camera"], again["image_id"]) == ("wrist", first["image_id"])
