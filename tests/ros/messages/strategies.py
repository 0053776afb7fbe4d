"""Hypothesis strategies for queries and results, and helpers to compare them."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rclpy.serialization import deserialize_message, serialize_message

from xsam import MaskRle, Query, SegmentationResult, Segments, Status, Task, Timing, VisualPrompt

IMAGE_HW = (6, 9)
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
_COORDINATE = st.floats(-1e6, 1e6, width=32)
_MASKS = hnp.arrays(np.bool_, IMAGE_HW).filter(lambda mask: mask.any())


def over_the_wire(message: Any) -> Any:
    """Serialize and deserialize: a wrong field type aborts the process here and not on the robot."""
    return deserialize_message(serialize_message(message), type(message))


@st.composite
def _boxes(draw: st.DrawFn) -> tuple[float, float, float, float]:
    x_min, y_min = draw(st.floats(-100, 100)), draw(st.floats(-100, 100))
    return (x_min, y_min, x_min + draw(st.floats(0.5, 100)), y_min + draw(st.floats(0.5, 100)))


PROMPTS = st.one_of(
    st.builds(VisualPrompt.point, _COORDINATE, _COORDINATE, positive=st.booleans()),
    st.builds(
        VisualPrompt.scribble,
        st.lists(st.tuples(_COORDINATE, _COORDINATE), min_size=2, max_size=5),
        positive=st.booleans(),
    ),
    st.builds(lambda box, positive: VisualPrompt.box(*box, positive=positive), _boxes(), st.booleans()),
    st.builds(VisualPrompt.from_mask, _MASKS, positive=st.booleans()),
)

QUERIES = st.builds(
    Query,
    text=TEXT,
    task=st.sampled_from(Task),
    thing_classes=st.lists(TEXT, max_size=3),
    stuff_classes=st.lists(TEXT, max_size=3),
    prompts=st.lists(PROMPTS, max_size=3),
    score_threshold=st.none() | st.floats(0, 1),
    max_instances=st.integers(1, 1000),
    explain=st.booleans(),
)


def assert_same_prompt(got: VisualPrompt, wanted: VisualPrompt) -> None:
    assert (got.kind, got.box_xyxy, got.positive) == (wanted.kind, wanted.box_xyxy, wanted.positive)
    np.testing.assert_array_equal(got.points_xy, wanted.points_xy)  # type: ignore[arg-type]
    np.testing.assert_array_equal(got.mask, wanted.mask)  # type: ignore[arg-type]


def assert_same_query(got: Query, wanted: Query) -> None:
    for name in (
        "text",
        "task",
        "thing_classes",
        "stuff_classes",
        "score_threshold",
        "max_instances",
        "explain",
    ):
        assert getattr(got, name) == getattr(wanted, name), name
    assert len(got.prompts) == len(wanted.prompts)
    for one, other in zip(got.prompts, wanted.prompts, strict=True):
        assert_same_prompt(one, other)


@st.composite
def results(draw: st.DrawFn) -> SegmentationResult:
    masks = draw(st.lists(hnp.arrays(np.bool_, IMAGE_HW), max_size=3))
    count = len(masks)
    return SegmentationResult(
        status=draw(st.sampled_from(Status)),
        query=draw(QUERIES),
        segments=Segments(
            image_hw=IMAGE_HW,
            masks=tuple(MaskRle.encode(mask) for mask in masks),
            labels=tuple(draw(TEXT) for _ in masks),
            label_indices=np.array([draw(st.integers(0, 255)) for _ in masks], np.int32),
            scores=draw(hnp.arrays(np.float32, count, elements=st.floats(0, 1, width=32))),
            boxes_xyxy=draw(hnp.arrays(np.float32, (count, 4), elements=st.floats(0, 9, width=32))),
        ),
        text=draw(TEXT),
        phrases=tuple(draw(st.lists(TEXT, max_size=2))),
        message=draw(TEXT),
        code=draw(st.sampled_from(["", "INVALID_QUERY"])),
        hint=draw(TEXT),
        notes=tuple(draw(st.lists(TEXT, max_size=2))),
        model_id=draw(TEXT),
        camera=draw(st.sampled_from(["", "front"])),
        frame_id=draw(TEXT),
        stamp_ns=draw(st.integers(0, 2**31 * 10**9 - 1)),
        timing=Timing(stages_s=draw(st.dictionaries(TEXT, st.floats(0, 100), max_size=3))),
    )
