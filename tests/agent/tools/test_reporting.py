"""`report_not_found` and `perception_status`."""

from __future__ import annotations

import json
import threading
import time
from types import SimpleNamespace

import pytest
from langchain_core.runnables import RunnableLambda

from tests.agent.table import MASKS, as_call, new_frame
from xsam import FakeSegmenter, NoFrameError, SegmenterUnavailableError
from xsam_agent_tools import SceneStore

REPORT = {"query": "fork", "tried": ["silver fork", "fork"], "reason": "not in view"}


def test_a_report_is_checked_against_the_searches(tools, call) -> None:
    call(tools["segment_objects"], queries=["silver fork"])
    call(tools["segment_objects"], queries=["fork", "mug"])
    result = call(tools["report_not_found"], **{**REPORT, "tried": ["silver FORK", "fork", "cutlery"]})
    assert (result["status"], result["reported"], result["query"]) == ("no_match", True, "fork")
    assert result["tried"] == ["silver FORK", "fork"]
    assert result["never_asked"] == ["cutlery"]
    assert result["images"] == ["f1", "f2"]
    assert result["cameras_not_used"] == ["wrist"]
    assert "age_s" in result.json
    assert "found_earlier" not in result.json
    assert result.artifact["schema"] == "xsam_agent_tools/absence/1"
    assert result.artifact["reason"] == "not in view"
    assert result.artifact["result"] == result.json


def test_a_report_without_a_search_is_refused(tools, call) -> None:
    result = call(tools["report_not_found"], **REPORT)
    assert (result["status"], result["code"]) == ("error", "NOT_LOOKED")
    assert "segment_objects(['fork'])" in result["hint"]


def test_reporting_what_was_found_points_at_it(tools, call) -> None:
    call(tools["segment_objects"], queries=["mug"])
    result = call(tools["report_not_found"], query="mug", tried=["mug"], reason="I give up")
    assert result["found_earlier"] == ["f1/m1", "f1/m2"]


def test_a_failed_search_does_not_count(make_tools, call) -> None:
    class UnavailableSegmenter:
        def segment(self, source, queries, *, deadline_s):
            raise SegmenterUnavailableError("no node")

    tools = make_tools(segmenter=UnavailableSegmenter())
    call(tools["segment_objects"], queries=["fork"])
    assert call(tools["report_not_found"], **REPORT)["code"] == "NOT_LOOKED"


def test_conversations_do_not_mix(tools) -> None:
    """The searches of one conversation are no evidence in another."""

    def ask(thread: str, name: str, **arguments) -> dict:
        tool = tools[name]
        config = {"configurable": {"thread_id": thread}}
        inside = RunnableLambda(lambda _: tool.invoke(as_call(tool, arguments)))
        return json.loads(inside.invoke(None, config).content)

    ask("one", "segment_objects", queries=["fork"])
    assert ask("two", "report_not_found", **REPORT)["code"] == "NOT_LOOKED"
    assert ask("one", "report_not_found", **REPORT)["reported"] is True
    assert ask("two", "segment_objects", queries=["fork"])["status"] == "no_match"
    assert ask("one", "segment_objects", queries=["fork"])["code"] == "REPEATED_QUERY"


def test_images_that_made_room_do_not_break_a_report(make_tools, call) -> None:
    tools = make_tools(store=SceneStore(run="", max_images=1))
    call(tools["segment_objects"], queries=["fork"])
    call(tools["segment_everything"])
    call(tools["segment_objects"], queries=["silver fork"])
    result = call(tools["report_not_found"], **REPORT)
    assert result["reported"] is True
    assert result["images"] == ["f1", "f2", "f3"]


# -------------------------------------------------------------------------------- perception_status


def test_status_of_an_in_process_model(tools, call) -> None:
    first = call(tools["perception_status"])
    assert (first["status"], first["model"], "latency" in first.json) == ("ok", "not asked yet", False)
    call(tools["segment_objects"], queries=["mug"], camera="wrist")
    result = call(tools["perception_status"])
    assert result["model"] == "fake"
    assert result["latency"]["calls"] == 1
    assert [c["name"] for c in result["cameras"]] == ["front", "wrist"]
    assert all(0.1 <= c["age_s"] < 5 and c["fresh"] for c in result["cameras"])
    assert [c.get("last_image") for c in result["cameras"]] == [None, "f1"]
    assert (result["max_age_s"], result["images_kept"]) == (5.0, 1)
    only = call(tools["perception_status"], camera="wrist")
    assert [c["name"] for c in only["cameras"]] == ["wrist"]
    assert call(tools["perception_status"], camera="rear")["code"] == "UNKNOWN_CAMERA"


def test_status_of_cameras_that_froze_or_are_silent(make_tools, call) -> None:
    def source(camera: str):
        if camera == "wrist":
            raise NoFrameError("camera 'wrist' is silent")
        return new_frame(camera, age_s=60)

    result = call(make_tools(frame_source=source)["perception_status"])
    front, wrist = result["cameras"]
    assert front["fresh"] is False
    assert front["age_s"] == pytest.approx(60, abs=5)
    assert "silent" in wrist["problem"]
    assert "age_s" not in wrist


class NodeLikeSegmenter(FakeSegmenter):
    """A segmenter with a status of its own, like the client of the ROS node."""

    error: Exception | None = None

    def status(self, *, deadline_s: float):
        assert 0 < deadline_s <= 5
        if self.error is not None:
            raise self.error
        cameras = [
            SimpleNamespace(name="front", age_s=0.25, rate_hz=29.97, frames=9),
            SimpleNamespace(
                name="wrist",
                age_s=float("nan"),
                rate_hz=float("nan"),
                last_error="",
                incompatible_qos=["/wrist/image: RELIABILITY"],
            ),
        ]
        return SimpleNamespace(
            state="active", model_id="tiny", last_error="", waiting=2, busy=True, cameras=cameras
        )


def test_status_of_a_node(make_tools, call) -> None:
    result = call(make_tools(segmenter=NodeLikeSegmenter(MASKS), frame_source=None)["perception_status"])
    assert (result["state"], result["model"], result["waiting"], result["busy"]) == (
        "active",
        "tiny",
        2,
        True,
    )
    assert "last_error" not in result.json
    front, wrist = result["cameras"]
    assert front == {"name": "front", "age_s": 0.25, "fresh": True, "rate_hz": 29.97}
    assert wrist == {"name": "wrist", "problem": "/wrist/image: RELIABILITY"}  # no age is invented


def test_a_node_that_is_not_there_is_an_error_with_the_rest_of_the_report(make_tools, call) -> None:
    node = NodeLikeSegmenter(MASKS)
    node.error = SegmenterUnavailableError("no node '/xsam'")
    result = call(make_tools(segmenter=node)["perception_status"])
    assert (result["status"], result["code"], result["retryable"]) == ("error", "UNAVAILABLE", True)
    assert len(result["cameras"]) == 2


def test_status_works_while_the_model_runs(make_tools, call) -> None:
    release, started = threading.Event(), threading.Event()

    class SlowSegmenter(FakeSegmenter):
        def segment(self, source, queries, *, deadline_s):
            started.set()
            release.wait(30)
            return super().segment(source, queries, deadline_s=deadline_s)

    tools = make_tools(segmenter=SlowSegmenter(MASKS))
    thread = threading.Thread(target=call, args=(tools["segment_objects"],), kwargs={"queries": ["mug"]})
    thread.start()
    try:
        assert started.wait(10)
        began = time.monotonic()
        result = call(tools["perception_status"])
        assert all("age_s" in camera and "problem" not in camera for camera in result["cameras"])
        assert not release.is_set()
        assert time.monotonic() - began < 20
    finally:
        release.set()
        thread.join(10)


def test_a_camera_that_hangs_does_not_hang_the_status(make_tools, call) -> None:
    release = threading.Event()

    def source(camera: str):
        release.wait(30)
        return new_frame(camera)

    tools = make_tools(frame_source=source, deadline_s=0.3)
    try:
        result = call(tools["perception_status"])
        assert all(f"camera '{camera['name']}'" in camera["problem"] for camera in result["cameras"])
    finally:
        release.set()
