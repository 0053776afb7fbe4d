"""`segment_objects` with camera "all": objects say which camera saw them, and no camera costs the others."""

from __future__ import annotations

import threading
import time

import pytest

from benchmarks.agent.tokens import estimate_tokens
from tests.agent.table import new_frame

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
