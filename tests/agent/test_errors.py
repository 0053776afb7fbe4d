"""Failures reach the model as typed JSON, never as an empty list and never as a crash."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import pytest

from tests.agent.table import MASKS, new_frame
from xsam import (
    DeadlineExceededError,
    FakeSegmenter,
    InvalidQueryError,
    ModelError,
    NoFrameError,
    OutOfMemoryError,
    QueueFullError,
    SegmentationResult,
    XSamError,
)


class FailingSegmenter:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def segment(self, source, queries, *, deadline_s):
        raise self.error


def _check(result: Any, code: str, *, retryable: bool) -> None:
    assert result.message.status == "error"
    assert sorted(result.json) == ["code", "hint", "message", "retryable", "status"]
    assert (result["status"], result["code"], result["retryable"]) == ("error", code, retryable)
    assert result["message"]
    assert result["hint"]


def test_unknown_camera(tool, call) -> None:
    result = call(tool, queries=["mug"], camera="/camera/image_raw")
    _check(result, "UNKNOWN_CAMERA", retryable=False)
    assert "front, wrist" in result["hint"]


def test_unknown_image(tool, call) -> None:
    _check(call(tool, queries=["mug"], image_id="f77"), "UNKNOWN_ID", retryable=False)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, "queries: Field required"),
        ({"queries": []}, "queries: it is empty: name what to find"),
        ({"queries": ["?"]}, "queries: '?': it is empty"),
        ({"queries": "null"}, "queries: 'null': it is empty"),
        ({"queries": ["x" * 300]}, "it has 300 characters, at most 200"),
        ({"queries": [1]}, "queries: a phrase is a text such as 'mug', got 1"),
        ({"queries": ["no mugs"]}, "name what to find, not what is absent"),
        ({"queries": ["red"]}, "it names no thing: say what is red"),
        ({"queries": '{"queries": ["mug"], "camera": "wrist"}'}, "send each argument by itself: camera"),
        ({"queries": {"first": "mug", "second": "plate"}}, "not an object with first, second"),
        (
            {"queries": ["mug"], "max_objects": 0},
            "max_objects: it must be a whole number from 1 to 50, got 0",
        ),
        ({"queries": ["mug"], "max_objects": 2.5}, "whole number from 1 to 50, got 2.5"),
        ({"queries": ["mug"], "max_objects": True}, "whole number from 1 to 50, got True"),
        ({"queries": ["mug"], "camera": [1, 2]}, "camera: "),
        ({"queries": ["mug"], "topic": "/rgb"}, "topic: Extra inputs are not permitted"),
        ({"queries": ["mug"], "image_id": "f" * 65}, "image_id: an id has 65 characters"),
    ],
)
def test_the_reason_of_a_validation_error_reaches_the_model(tool, call, arguments, reason: str) -> None:
    result = call(tool, **arguments)
    _check(result, "INVALID_ARGUMENTS", retryable=False)
    assert reason in result["message"]
    assert len(result.message.content) < 700


@pytest.mark.parametrize(
    "arguments",
    [
        {"queries": "mug"},
        {"queries": '["mug"]'},
        {"queries": [" mug ", "MUG"]},
        {"queries": "['mug']"},
        {"queries": '"[\\"mug\\"]"'},
        {"queries": {"queries": ["mug"]}},
        {"queries": '```json\n{"queries": ["mug"]}\n```'},
        {"queries": [{"query": "mug"}]},
        {"queries": "mugs", "camera": "Front", "image_id": "null", "max_objects": 99},
        {"queries": ["mug"], "camera": " ", "image_id": " ", "max_objects": "null"},
        {"queries": ["mug"], "camera": None, "image_id": None, "max_objects": None},
        {"queries": ["mug"], "max_objects": "10"},
    ],
)
def test_common_slips_are_understood(tool, call, arguments) -> None:
    result = call(tool, **arguments)
    assert result["status"] == "ok"
    assert len(result["objects"]) == 2


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        (OutOfMemoryError("the device is full"), "OUT_OF_MEMORY", True),
        (QueueFullError("8 requests wait"), "QUEUE_FULL", True),
        (ModelError("NaN in the decoder", hint="reload"), "MODEL_ERROR", False),
        (NoFrameError("no frame of 'front' yet"), "NO_FRAME", True),
    ],
)
def test_what_the_segmenter_raises(make_toolkit, call, error: XSamError, code: str, retryable: bool) -> None:
    tool = make_toolkit(segmenter=FailingSegmenter(error)).get_tools()[0]
    result = call(tool, queries=["mug"])
    _check(result, code, retryable=retryable)
    assert result["message"] == error.message


def test_a_camera_without_frames(make_toolkit, call) -> None:
    tool = make_toolkit(frame_source=lambda _: None).get_tools()[0]
    _check(call(tool, queries=["mug"]), "NO_FRAME", retryable=True)

    def source(_: str) -> None:
        raise NoFrameError("camera 'front' is silent")

    tool = make_toolkit(frame_source=source).get_tools()[0]
    result = call(tool, queries=["mug"])
    _check(result, "NO_FRAME", retryable=True)
    assert result["message"] == "camera 'front' is silent"


def test_failure_of_every_query_is_an_error_and_not_absence(make_toolkit, call) -> None:
    """When another project's detector crashed it returned an empty list; the planner said "nothing there"."""

    class RefusingSegmenter:
        def segment(self, source, queries, *, deadline_s):
            error = InvalidQueryError("too many categories", hint="use fewer")
            return [SegmentationResult.from_error(error, query, source) for query in queries]

    tool = make_toolkit(segmenter=RefusingSegmenter()).get_tools()[0]
    _check(call(tool, queries=["mug", "plate"]), "INVALID_QUERY", retryable=False)


def test_failure_of_one_query_leaves_the_others(make_toolkit, call) -> None:
    class HalfFailingSegmenter:
        def segment(self, source, queries, *, deadline_s):
            first = SegmentationResult.from_error(ModelError("out of luck"), queries[0], source)
            return [first, *FakeSegmenter(MASKS).segment(source, queries[1:], deadline_s=deadline_s)]

    tool = make_toolkit(segmenter=HalfFailingSegmenter()).get_tools()[0]
    result = call(tool, queries=["mug", "plate", "fork"])
    assert result["status"] == "ok"
    assert [o["label"] for o in result["objects"]] == ["plate"]
    assert result["failed"] == [{"query": "mug", "code": "MODEL_ERROR", "message": "out of luck"}]
    assert result["not_found"] == ["fork"]


def test_a_wrong_number_of_results_is_noticed(make_toolkit, call) -> None:
    class IncompleteSegmenter(FakeSegmenter):
        def segment(self, source, queries, *, deadline_s):
            return super().segment(source, queries, deadline_s=deadline_s)[:1]

    tool = make_toolkit(segmenter=IncompleteSegmenter(MASKS)).get_tools()[0]
    assert call(tool, queries=["mug", "plate"])["code"] == "MODEL_ERROR"


def test_bugs_are_logged_and_do_not_end_the_agent(make_toolkit, call, caplog) -> None:
    tool = make_toolkit(segmenter=FailingSegmenter(ZeroDivisionError("secret detail"))).get_tools()[0]
    with caplog.at_level(logging.ERROR, logger="xsam_agent_tools"):
        result = call(tool, queries=["mug"])
    _check(result, "INTERNAL", retryable=False)
    assert "ZeroDivisionError" in result["message"]
    assert "secret detail" not in result.message.content
    assert "secret detail" in caplog.text


def test_deadline_of_the_segmenter(make_toolkit, call) -> None:
    tool = make_toolkit(segmenter=FakeSegmenter(MASKS, delay_s=5), deadline_s=0.3).get_tools()[0]
    _check(call(tool, queries=["mug"]), "DEADLINE", retryable=True)


@pytest.mark.parametrize("hangs", ["camera", "segmenter"])
@pytest.mark.slow
def test_deadline_holds_when_nobody_keeps_it(make_toolkit, call, hangs: str) -> None:
    """In other projects timeouts covered the discovery of a service, but not the call itself."""
    release = threading.Event()

    class HangingSegmenter(FakeSegmenter):
        def segment(self, source, queries, *, deadline_s):
            release.wait(30)
            return super().segment(source, queries, deadline_s=30)

    def source(camera: str):
        release.wait(30)
        return new_frame(camera)

    settings = {"frame_source": source} if hangs == "camera" else {"segmenter": HangingSegmenter(MASKS)}
    tool = make_toolkit(**settings, deadline_s=0.2).get_tools()[0]
    started = time.monotonic()
    try:
        _check(call(tool, queries=["mug"]), "DEADLINE", retryable=True)
        assert time.monotonic() - started < 5
    finally:
        release.set()


@pytest.mark.slow
def test_camera_and_model_share_one_deadline(make_toolkit, call) -> None:
    lefts: list[float] = []

    class DeadlineRecordingSegmenter(FakeSegmenter):
        def segment(self, source, queries, *, deadline_s):
            lefts.append(deadline_s)
            return super().segment(source, queries, deadline_s=deadline_s)

    def slow(camera: str):
        time.sleep(0.3)
        return new_frame(camera)

    tool = make_toolkit(
        segmenter=DeadlineRecordingSegmenter(MASKS), frame_source=slow, deadline_s=5
    ).get_tools()[0]
    call(tool, queries=["mug"])
    assert lefts[0] <= 4.7
    tool = make_toolkit(
        segmenter=DeadlineRecordingSegmenter(MASKS), frame_source=slow, deadline_s=0.2
    ).get_tools()[0]
    assert call(tool, queries=["mug"])["code"] == "DEADLINE"
    assert len(lefts) == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("error", [DeadlineExceededError("too slow"), RuntimeError("bug")])
async def test_errors_on_the_async_side(make_toolkit, acall, error: Exception) -> None:
    tool = make_toolkit(segmenter=FailingSegmenter(error)).get_tools()[0]
    result = await acall(tool, queries=["mug"])
    assert result["code"] == ("DEADLINE" if isinstance(error, XSamError) else "INTERNAL")
    assert (await acall(tool, queries=[]))["code"] == "INVALID_ARGUMENTS"


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"segmenter": object()}, TypeError, "segment"),
        ({"cameras": []}, ValueError, "camera"),
        ({"cameras": "front"}, ValueError, "list of names"),
        ({"cameras": ["a", "a"]}, ValueError, "repeat"),
        ({"cameras": [" "]}, ValueError, "characters"),
        ({"mode": "all"}, ValueError, "mode"),
        ({"images": "always"}, ValueError, "images"),
        ({"images": "user", "frame_source": None}, ValueError, "frame_source"),
        ({"deadline_s": 0}, ValueError, "deadline_s"),
        ({"deadline_s": float("inf")}, ValueError, "deadline_s"),
        ({"max_position_age_s": 0}, ValueError, "max_position_age_s"),
        ({"thing_classes": "mug"}, ValueError, "thing_classes"),
        ({"thing_classes": [], "stuff_classes": []}, ValueError, "thing_classes"),
        ({"max_age_s": -1}, ValueError, "max_age_s"),
        ({"max_image_age_s": float("nan")}, ValueError, "max_image_age_s"),
    ],
)
def test_wrong_settings_are_refused_at_once(make_toolkit, settings, error, match: str) -> None:
    with pytest.raises(error, match=match):
        make_toolkit(**settings)
