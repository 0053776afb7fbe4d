"""Hints speak to the model that reads them: what it can do, with the tools, arguments and cameras it has."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

import xsam.errors
from tests.agent.table import RecordingSegmenter, new_frame
from xsam import Frame, Status, XSamError
from xsam.errors import (
    CheckpointError,
    DeadlineExceededError,
    NoFrameError,
    OutOfMemoryError,
    StaleFrameError,
)
from xsam_agent_tools.planner_hints import PLANNER_HINTS, without_unavailable
from xsam_agent_tools.tools import BUILDERS

# What only the people who run the program can do.
OUT_OF_REACH = re.compile(
    r"longer deadline|\bQoS\b|driver|dtype|configure|activate|older frame|lifecycle|ROS domain|pip install"
    r"|\bparameter|command|network connection|topic",
    re.IGNORECASE,
)


def _subclasses(cls: type[XSamError]) -> set[type[XSamError]]:
    return {cls}.union(*map(_subclasses, cls.__subclasses__()))


def test_every_error_of_xsam_has_a_hint_for_planners() -> None:
    """A new error without one would tell a planner to set a parameter of the node."""
    of_xsam = {c.code for c in _subclasses(XSamError) if c.__module__ == xsam.errors.__name__}
    only_in_training = {"TRAINING_CONFIG", "DATASET", "DATASET_MISSING", "DATASET_RECORD"}
    assert of_xsam - set(PLANNER_HINTS) == only_in_training


@pytest.mark.parametrize("hint", PLANNER_HINTS.values())
def test_no_hint_asks_for_what_a_planner_cannot_do(hint: str) -> None:
    assert not OUT_OF_REACH.search(hint)


class _RaisingSegmenter:
    def __init__(self, error: XSamError) -> None:
        self._error = error

    def segment(self, source, queries, *, deadline_s):
        raise self._error


ERRORS = (
    DeadlineExceededError("the time is over"),
    NoFrameError("nothing yet"),
    StaleFrameError("9 s old"),
    OutOfMemoryError("the device is full"),
    CheckpointError("torchao is missing", hint="pip install 'torchao>=0.18'"),
    DeadlineExceededError("the queue was full", hint="raise the parameter max_waiting of the node"),
)


@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_errors_of_a_segmenter_get_a_hint_for_planners(make_tools, call, error: XSamError) -> None:
    result = call(make_tools(segmenter=_RaisingSegmenter(error))["segment_objects"], queries=["mug"])
    assert (result["code"], result["message"]) == (error.code, error.message)
    assert result["hint"]
    assert not OUT_OF_REACH.search(result["hint"])


@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_failed_results_of_a_segmenter_do_so_too(make_tools, call, error: XSamError) -> None:
    class FailedResultsSegmenter(RecordingSegmenter):
        def segment(self, source, queries, *, deadline_s):
            results = super().segment(source, queries, deadline_s=deadline_s)
            failure = {"code": error.code, "message": error.message, "hint": error.hint}
            return [replace(result, status=Status.FAILED, **failure) for result in results]

    result = call(make_tools(segmenter=FailedResultsSegmenter([]))["segment_objects"], queries=["mug"])
    assert result["code"] == error.code
    assert result["hint"]
    assert not OUT_OF_REACH.search(result["hint"])


@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_errors_of_a_frame_source_and_of_a_status_do_so_too(make_tools, call, error: XSamError) -> None:
    class BrokenStatusSegmenter(RecordingSegmenter):
        def status(self, *, deadline_s):
            raise error

    def broken_camera(camera: str) -> Frame:
        raise error

    tools = make_tools(segmenter=BrokenStatusSegmenter([]), frame_source=broken_camera)
    for result in (call(tools["segment_objects"], queries=["mug"]), call(tools["perception_status"])):
        assert result["code"] == error.code
        assert result["hint"]
        assert not OUT_OF_REACH.search(result["hint"])


def test_a_busy_model_is_no_reason_to_ask_for_a_longer_deadline(make_tools, call) -> None:
    """The planner read "allow a longer deadline", and no tool has such an argument."""
    from xsam.types.deadline import Deadline

    class LateSegmenter:
        def segment(self, source, queries, *, deadline_s):
            raise Deadline(0.001).error()

    result = call(make_tools(segmenter=LateSegmenter())["segment_objects"], queries=["mug"])
    assert result["code"] == "DEADLINE"
    assert "deadline" not in result["hint"]


@pytest.mark.parametrize(
    ("hint", "unavailable", "left"),
    [
        ("ask something else, use another camera, or tell the user", ["another camera"], None),
        (
            "other cameras are not affected: use one of them, or tell the user",
            ["other cameras"],
            "tell the user",
        ),
        (
            "this camera gives no depth: use positions in the image, or another camera",
            ["another camera"],
            None,
        ),
        ("look again; draw a box with segment_with_prompt", ["segment_with_prompt"], "look again"),
        ("use another camera", ["another camera"], "tell the user"),
        ("use image_id, or look again", ["image"], "use image_id, or look again"),  # whole words only
        ("a, b; c", [], "a, b; c"),
    ],
)
def test_what_a_planner_does_not_have_is_left_out(
    hint: str, unavailable: list[str], left: str | None
) -> None:
    possible = without_unavailable(hint, unavailable)
    if left is not None:
        assert possible == left
    assert all(word not in possible.split() for word in unavailable)
    assert "another camera" not in possible or not unavailable


FAILING_CALLS: list[tuple[str, dict[str, Any]]] = [
    ("segment_objects", {"queries": ["unicorn"]}),
    ("segment_objects", {"queries": ["unicorn"], "camera": "roof"}),
    ("segment_everything", {"classes": ["unicorn"]}),
    ("ask_scene", {"question": "Which of these is a unicorn?"}),
    ("inspect_object", {"object_id": "f9/m1"}),
    ("locate_objects_3d", {"object_ids": ["f1/m1"]}),
    ("track_object", {"object_id": "f1/m1"}),
    ("refine_object", {"object_id": "f1/m1", "add": [{"x": 5, "y": 5}]}),
    ("segment_with_prompt", {"prompts": [{"x": 5, "y": 5}]}),
    ("compare_objects", {"object_ids": ["f1/m1", "f1/m2"], "relation": "nearest"}),
]


@pytest.mark.parametrize("with_frames", [True, False])
def test_with_one_camera_no_hint_names_another(make_tools, call, segmenter, with_frames: bool) -> None:
    frames = new_frame if with_frames else None
    tools = make_tools(cameras=["front"], frame_source=frames, segmenter=segmenter)
    call(tools["segment_objects"], queries=["mug"])
    for name, arguments in FAILING_CALLS * 2:  # the second time as a repetition
        if name not in tools:  # it could not work without the pixels
            continue
        hint = str(call(tools[name], **arguments).json.get("hint", ""))
        assert "another camera" not in hint, name
        assert "other cameras" not in hint, name
        if not with_frames:
            assert "image_id" not in hint, name


def test_in_core_mode_no_hint_names_a_tool_that_is_missing(make_toolkit, call) -> None:
    tools = {tool.name: tool for tool in make_toolkit(mode="core").get_tools()}
    call(tools["segment_objects"], queries=["mug"])
    missing = set(BUILDERS) - set(tools)
    for name, arguments in FAILING_CALLS:
        if name in tools:
            hint = str(call(tools[name], **arguments).json.get("hint", ""))
            assert not missing & set(re.findall(r"\w+", hint)), name
