from __future__ import annotations

import array
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given

import xsam_ros.msg as messages
from tests.ros.messages.strategies import (
    IMAGE_HW,
    PROMPTS,
    QUERIES,
    assert_same_prompt,
    assert_same_query,
    over_the_wire,
)
from xsam import (
    InvalidQueryError,
    PromptKind,
    Query,
    SegmentationResult,
    Segments,
    Status,
    Task,
    Timing,
    VisualPrompt,
)
from xsam_ros.messages.queries import (
    MAX_ELEMENTS,
    MAX_POINTS,
    check_elements,
    prompt_from_message,
    prompt_to_message,
    query_from_message,
    query_to_message,
)
from xsam_ros.messages.results import result_from_message, result_to_message


@given(PROMPTS)
def test_prompts(prompt: VisualPrompt) -> None:
    assert_same_prompt(prompt_from_message(over_the_wire(prompt_to_message(prompt))), prompt)


@given(QUERIES)
def test_queries(query: Query) -> None:
    assert_same_query(query_from_message(over_the_wire(query_to_message(query)), image_hw=IMAGE_HW), query)


@pytest.mark.parametrize("unset", [-1.0, math.nan])
def test_no_threshold(unset: float) -> None:
    assert query_from_message(messages.SegmentQuery(score_threshold=unset)).score_threshold is None


def test_a_threshold_of_zero_is_a_threshold() -> None:
    assert query_from_message(messages.SegmentQuery(score_threshold=0.0)).score_threshold == 0.0


@pytest.mark.parametrize("threshold", [-0.5, 1.5, math.inf])
def test_a_threshold_out_of_range(threshold: float) -> None:
    query = query_from_message(messages.SegmentQuery(text="mug", score_threshold=threshold))
    with pytest.raises(InvalidQueryError, match="score_threshold"):
        query.validate()


def test_a_new_message_is_the_default_query() -> None:
    assert_same_query(query_from_message(over_the_wire(messages.SegmentQuery())), Query())


def _prompt(kind: int, **fields: Any) -> messages.VisualPrompt:
    return messages.VisualPrompt(kind=kind, **fields)


def _mask(height: int, width: int, counts: bytes) -> messages.MaskRle:
    return messages.MaskRle(height=height, width=width, counts=array.array("B", counts))


def _query_with(*prompts: messages.VisualPrompt) -> messages.SegmentQuery:
    return messages.SegmentQuery(prompts=list(prompts))


_POINT, _BOX, _SCRIBBLE, _MASK_KIND = 1, 2, 3, 4
_PIXEL = messages.PixelPoint(x=1.0, y=1.0)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (messages.SegmentQuery(task=99), "unknown task 99"),
        (messages.SegmentQuery(thing_classes=["a"] * 300), "more than 256 categories"),
        (_query_with(*[_prompt(_POINT, points=[_PIXEL])] * 33), "more than 32 prompts"),
        (_query_with(_prompt(0)), "unknown prompt kind 0"),
        (_query_with(_prompt(77)), "unknown prompt kind 77"),
        (_query_with(_prompt(_POINT)), "exactly one point"),
        (_query_with(_prompt(_POINT, points=[_PIXEL] * 2)), "exactly one point"),
        (_query_with(_prompt(_SCRIBBLE, points=[_PIXEL])), "scribble"),
        (_query_with(_prompt(_SCRIBBLE, points=[_PIXEL] * (MAX_POINTS + 1))), "points"),
        (_query_with(_prompt(_BOX)), "box prompt needs its own field"),
        (
            _query_with(_prompt(_BOX, box=messages.PixelBox(x_min=5.0, x_max=1.0))),
            "x_min",
        ),
        (_query_with(_prompt(_BOX, box=messages.PixelBox(x_max=math.nan))), "x_min"),
        (
            messages.SegmentQuery(
                prompts=[_prompt(_POINT, points=[_PIXEL], box=messages.PixelBox(x_max=1.0, y_max=1.0))]
            ),
            "no other",
        ),
        (
            _query_with(_prompt(_POINT, points=[messages.PixelPoint(x=math.inf)])),
            "finite",
        ),
        (_query_with(_prompt(_POINT, points=[messages.PixelPoint(x=1e300)])), "finite"),
        (_query_with(_prompt(_MASK_KIND)), "mask prompt needs its own field"),
        (
            _query_with(_prompt(_MASK_KIND, mask=_mask(2, 2, b"4"))),
            r"the image is \(6, 9\)",
        ),
        (
            _query_with(_prompt(_MASK_KIND, mask=_mask(2**32 - 1, 2**32 - 1, b"4"))),
            "image",
        ),
        (_query_with(_prompt(_MASK_KIND, mask=_mask(6, 9, b""))), "run lengths"),
        (_query_with(_prompt(_MASK_KIND, mask=_mask(6, 9, b"fff"))), "run-length"),
        (_query_with(_prompt(_MASK_KIND, mask=_mask(6, 9, b"f1"))), "at least one pixel"),
    ],
)
def test_wrong_queries(message: messages.SegmentQuery, reason: str) -> None:
    with pytest.raises(InvalidQueryError, match=reason):
        query_from_message(over_the_wire(message), image_hw=IMAGE_HW)


def test_numbers_of_other_types_are_converted() -> None:
    """A wrong type in a field passes unnoticed until the message is sent, and then aborts the process."""
    query = Query(
        text="mug",
        prompts=(
            VisualPrompt(
                kind=PromptKind.BOX,
                box_xyxy=(1, np.float32(2), np.int64(3), 4),
                positive=np.True_,  # type: ignore[arg-type]
            ),
        ),
        score_threshold=1,
        max_instances=np.int64(5),  # type: ignore[arg-type]
        explain=np.True_,  # type: ignore[arg-type]
    )
    got = query_from_message(over_the_wire(query_to_message(query)))
    assert (got.score_threshold, got.max_instances, got.explain) == (1.0, 5, True)
    assert got.prompts[0].box_xyxy == (1, 2, 3, 4)
    result = SegmentationResult(
        status=Status.NOT_FOUND,
        query=query,
        segments=Segments(image_hw=(np.int64(6), np.int64(9))),  # type: ignore[arg-type]
        stamp_ns=np.int64(7),  # type: ignore[arg-type]
        timing=Timing(stages_s={"inference": 1, "response": np.float32(2)}),  # type: ignore[dict-item]
    )
    assert result_from_message(over_the_wire(result_to_message(result))).timing.total_s == 3.0


def test_text_that_is_not_a_string() -> None:
    with pytest.raises(InvalidQueryError, match="must be text, got int"):
        query_to_message(Query(text=3))  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_text_that_ros_would_cut_or_cannot_encode(text: str) -> None:
    with pytest.raises(InvalidQueryError, match="cannot be sent"):
        query_to_message(Query(text=text))


def test_every_enum_has_its_constant() -> None:
    for enum, message, prefix in (
        (Task, messages.SegmentQuery, "TASK_"),
        (PromptKind, messages.VisualPrompt, "KIND_"),
        (Status, messages.SegmentationResult, "STATUS_"),
    ):
        constants = {name for name in vars(message) if name.startswith(prefix) and "__" not in name}
        assert constants - {f"{prefix}UNSET", f"{prefix}UNKNOWN"} == {f"{prefix}{item.name}" for item in enum}


_LONG = MAX_ELEMENTS // 2


@pytest.mark.parametrize(
    "queries",
    [
        [messages.SegmentQuery()] * (MAX_ELEMENTS + 1),
        [messages.SegmentQuery(prompts=[messages.VisualPrompt()] * MAX_ELEMENTS)],
        [messages.SegmentQuery(prompts=[_prompt(_SCRIBBLE, points=[_PIXEL] * _LONG)] * 2)],
        [messages.SegmentQuery(thing_classes=["mug"] * _LONG, stuff_classes=["wall"] * _LONG)],
        [messages.SegmentQuery(thing_classes=["mug"] * _LONG)] * 2,
    ],
)
def test_lists_that_are_too_long_together(queries: list[messages.SegmentQuery]) -> None:
    """A request may wait in the queue, and millions of points take gigabytes."""
    with pytest.raises(InvalidQueryError, match=r"more than 30,000 queries, names, prompts and points"):
        check_elements(queries)


def test_lists_that_are_as_long_as_allowed() -> None:
    points = [messages.PixelPoint(x=float(x), y=1.0) for x in range(MAX_POINTS)]
    query = messages.SegmentQuery(prompts=[messages.VisualPrompt(kind=3, points=points)])
    check_elements([query] * 2)
    check_elements([messages.SegmentQuery(thing_classes=["mug"] * (MAX_ELEMENTS - 1))])
    assert len(query_from_message(query).prompts[0].points_xy) == MAX_POINTS
