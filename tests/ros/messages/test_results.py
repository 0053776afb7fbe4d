from __future__ import annotations

import array
import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask
from rclpy.serialization import deserialize_message, serialize_message
from std_msgs.msg import Header

import xsam_ros.msg as messages
from xsam import (
    Frame,
    InvalidImageError,
    InvalidQueryError,
    MaskRle,
    ModelError,
    PromptKind,
    QueueFullError,
    SegmentationResult,
    Segments,
    Status,
    Task,
    Timing,
    VisualPrompt,
    XSamError,
)
from xsam import Query as XQuery
from xsam.errors import _BY_CODE, SegmenterUnavailableError
from xsam.types.masks import centroid_of_mask
from xsam_ros.messages.convert import (
    MAX_POINTS,
    error_to_response,
    frame_from_image,
    image_from_frame,
    prompt_from_message,
    prompt_to_message,
    query_from_message,
    query_to_message,
    raise_for_response,
    result_from_message,
    result_to_message,
    stamp_from_ns,
    stamp_ns,
)
from xsam_ros.srv import Segment

_ROOT = Path(__file__).resolve().parents[3]
_HW = (6, 9)
_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
_COORDINATE = st.floats(-1e6, 1e6, width=32)
_MASK = hnp.arrays(np.bool_, _HW).filter(lambda mask: mask.any())


def _over_the_wire(message: Any) -> Any:
    return deserialize_message(serialize_message(message), type(message))


@st.composite
def _boxes(draw: st.DrawFn) -> tuple[float, float, float, float]:
    x_min, y_min = draw(st.floats(-100, 100)), draw(st.floats(-100, 100))
    return (x_min, y_min, x_min + draw(st.floats(0.5, 100)), y_min + draw(st.floats(0.5, 100)))


_PROMPTS = st.one_of(
    st.builds(VisualPrompt.point, _COORDINATE, _COORDINATE, positive=st.booleans()),
    st.builds(
        VisualPrompt.scribble,
        st.lists(st.tuples(_COORDINATE, _COORDINATE), min_size=2, max_size=5),
        positive=st.booleans(),
    ),
    st.builds(lambda box, positive: VisualPrompt.box(*box, positive=positive), _boxes(), st.booleans()),
    st.builds(VisualPrompt.from_mask, _MASK, positive=st.booleans()),
)

_QUERIES = st.builds(
    XQuery,
    text=_TEXT,
    task=st.sampled_from(Task),
    thing_classes=st.lists(_TEXT, max_size=3),
    stuff_classes=st.lists(_TEXT, max_size=3),
    prompts=st.lists(_PROMPTS, max_size=3),
    score_threshold=st.none() | st.floats(0, 1),
    max_instances=st.integers(1, 1000),
    explain=st.booleans(),
)


def _assert_same_prompt(got: VisualPrompt, wanted: VisualPrompt) -> None:
    assert (got.kind, got.box_xyxy, got.positive) == (wanted.kind, wanted.box_xyxy, wanted.positive)
    np.testing.assert_array_equal(got.points_xy, wanted.points_xy)  # type: ignore[arg-type]
    np.testing.assert_array_equal(got.mask, wanted.mask)  # type: ignore[arg-type]


def _assert_same_query(got: XQuery, wanted: XQuery) -> None:
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
        _assert_same_prompt(one, other)


@st.composite
def _results(draw: st.DrawFn) -> SegmentationResult:
    masks = draw(st.lists(hnp.arrays(np.bool_, _HW), max_size=3))
    count = len(masks)
    return SegmentationResult(
        status=draw(st.sampled_from(Status)),
        query=draw(_QUERIES),
        segments=Segments(
            image_hw=_HW,
            masks=tuple(MaskRle.encode(mask) for mask in masks),
            labels=tuple(draw(_TEXT) for _ in masks),
            label_indices=np.array([draw(st.integers(0, 255)) for _ in masks], np.int32),
            scores=draw(hnp.arrays(np.float32, count, elements=st.floats(0, 1, width=32))),
            boxes_xyxy=draw(hnp.arrays(np.float32, (count, 4), elements=st.floats(0, 9, width=32))),
        ),
        text=draw(_TEXT),
        phrases=tuple(draw(st.lists(_TEXT, max_size=2))),
        message=draw(_TEXT),
        code=draw(st.sampled_from(["", "INVALID_QUERY"])),
        hint=draw(_TEXT),
        model_id=draw(_TEXT),
        camera=draw(st.sampled_from(["", "front"])),
        frame_id=draw(_TEXT),
        stamp_ns=draw(st.integers(0, 2**31 * 10**9 - 1)),
        timing=Timing(stages_s=draw(st.dictionaries(_TEXT, st.floats(0, 100), max_size=3))),
    )


# ---------------------------------------------------------------------------------- round trips


@given(st.integers(-(2**31) * 10**9, 2**31 * 10**9 - 1))
def test_stamps(nanoseconds: int) -> None:
    assert stamp_ns(stamp_from_ns(nanoseconds)) == nanoseconds


@pytest.mark.parametrize("nanoseconds", [2**31 * 10**9, -(2**31) * 10**9 - 1, 2**63])
def test_stamps_beyond_ros(nanoseconds: int) -> None:
    with pytest.raises(InvalidImageError, match="stamp"):
        stamp_from_ns(nanoseconds)


@given(_PROMPTS)
def test_prompts(prompt: VisualPrompt) -> None:
    _assert_same_prompt(prompt_from_message(_over_the_wire(prompt_to_message(prompt))), prompt)


@given(_QUERIES)
def test_queries(query: XQuery) -> None:
    _assert_same_query(query_from_message(_over_the_wire(query_to_message(query)), image_hw=_HW), query)


@given(_results())
def test_results(result: SegmentationResult) -> None:
    got = result_from_message(_over_the_wire(result_to_message(result)))
    for field in dataclasses.fields(SegmentationResult):
        if field.name not in ("query", "segments"):
            assert getattr(got, field.name) == getattr(result, field.name), field.name
    assert (got.segments.image_hw, got.segments.labels) == (_HW, result.segments.labels)
    np.testing.assert_array_equal(got.masks, result.masks)
    for column in ("label_indices", "scores", "boxes_xyxy"):
        np.testing.assert_array_equal(getattr(got.segments, column), getattr(result.segments, column))
    _assert_same_query(got.query, result.query)


@given(rgb=hnp.arrays(np.uint8, (3, 4, 3)), frame_id=_TEXT, stamp=st.integers(0, 2**31 * 10**9 - 1))
def test_frames(rgb: np.ndarray, frame_id: str, stamp: int) -> None:
    frame = Frame(rgb=rgb, camera="front", frame_id=frame_id, stamp_ns=stamp)
    got = frame_from_image(_over_the_wire(image_from_frame(frame)), camera="front")
    np.testing.assert_array_equal(got.rgb, rgb)
    assert (got.camera, got.frame_id, got.stamp_ns) == ("front", frame_id, stamp)


# -------------------------------------------------------------------------------------- results


@given(_results())
def test_pycocotools_reads_the_mask_as_it_is(result: SegmentationResult) -> None:
    message = _over_the_wire(result_to_message(result))
    for index, instance in enumerate(message.instances):
        size = [instance.mask.height, instance.mask.width]
        decoded = coco_mask.decode({"size": size, "counts": bytes(instance.mask.counts)})
        mask = result.segments.masks[index].decode()
        np.testing.assert_array_equal(decoded.astype(bool), mask)
        assert instance.area == mask.sum()
        np.testing.assert_allclose((instance.centroid.x, instance.centroid.y), centroid_of_mask(mask))


def test_the_header_is_passed_on_untouched() -> None:
    """Copying the fields one by one loses what a structure cannot hold, for example odd nanoseconds."""
    header = Header(frame_id="camera/optical frame")
    header.stamp.sec, header.stamp.nanosec = -5, 2_000_000_000
    result = SegmentationResult(
        status=Status.NOT_FOUND, query=XQuery(text="mug"), segments=Segments(image_hw=_HW), frame_id="other"
    )
    assert _over_the_wire(result_to_message(result, header=header)).header == header


def test_ids_start_where_they_are_told_to() -> None:
    segments = Segments(
        image_hw=(1, 2),
        masks=(MaskRle.encode(np.array([[True, False]])), MaskRle.encode(np.array([[False, True]]))),
        labels=("a", "b"),
        label_indices=np.zeros(2, np.int32),
        scores=np.ones(2, np.float32),
        boxes_xyxy=np.zeros((2, 4), np.float32),
    )
    result = SegmentationResult(status=Status.FOUND, query=XQuery(text="x"), segments=segments)
    assert [item.id for item in result_to_message(result, first_id=4).instances] == [4, 5]


def test_words_that_cannot_be_sent_do_not_break_an_answer() -> None:
    result = SegmentationResult(
        status=Status.FAILED,
        query=XQuery(text="mug"),
        segments=Segments(image_hw=_HW),
        message="bad\0 byte \ud800",
    )
    assert "bad" in _over_the_wire(result_to_message(result)).message


@pytest.mark.parametrize(
    "change",
    [
        lambda message: setattr(message, "status", 99),
        lambda message: setattr(message, "status", 0),
        lambda message: setattr(message, "image_height", 7),
        lambda message: setattr(message.instances[0].mask, "counts", array.array("B", b"")),
        lambda message: setattr(message.instances[0].mask, "width", 2**32 - 1),
    ],
)
def test_an_answer_that_contradicts_itself(change: Any) -> None:
    segments = Segments(
        image_hw=_HW,
        masks=(MaskRle.encode(np.ones(_HW, np.bool_)),),
        labels=("a",),
        label_indices=np.zeros(1, np.int32),
        scores=np.ones(1, np.float32),
        boxes_xyxy=np.zeros((1, 4), np.float32),
    )
    message = result_to_message(
        SegmentationResult(status=Status.FOUND, query=XQuery(text="x"), segments=segments)
    )
    change(message)
    with pytest.raises(ModelError, match="the answer"):
        result_from_message(message)


# -------------------------------------------------------------------------------------- queries


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
    _assert_same_query(query_from_message(_over_the_wire(messages.SegmentQuery())), XQuery())


def _prompt(kind: int, **fields: Any) -> messages.VisualPrompt:
    return messages.VisualPrompt(kind=kind, **fields)


def _mask(height: int, width: int, counts: bytes) -> messages.MaskRle:
    return messages.MaskRle(height=height, width=width, counts=array.array("B", counts))


def _asking(*prompts: messages.VisualPrompt) -> messages.SegmentQuery:
    return messages.SegmentQuery(prompts=list(prompts))


_POINT, _BOX, _SCRIBBLE, _MASK_KIND = 1, 2, 3, 4
_PIXEL = messages.PixelPoint(x=1.0, y=1.0)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (messages.SegmentQuery(task=99), "unknown task 99"),
        (messages.SegmentQuery(thing_classes=["a"] * 300), "300 categories"),
        (_asking(*[_prompt(_POINT, points=[_PIXEL])] * 33), "33 prompts"),
        (_asking(_prompt(0)), "unknown prompt kind 0"),
        (_asking(_prompt(77)), "unknown prompt kind 77"),
        (_asking(_prompt(_POINT)), "exactly one point"),
        (_asking(_prompt(_POINT, points=[_PIXEL] * 2)), "exactly one point"),
        (_asking(_prompt(_SCRIBBLE, points=[_PIXEL])), "scribble"),
        (_asking(_prompt(_SCRIBBLE, points=[_PIXEL] * (MAX_POINTS + 1))), "points"),
        (_asking(_prompt(_BOX)), "box prompt needs its own field"),
        (
            _asking(_prompt(_BOX, box=messages.PixelBox(x_min=5.0, x_max=1.0))),
            "x_min",
        ),
        (_asking(_prompt(_BOX, box=messages.PixelBox(x_max=math.nan))), "x_min"),
        (
            messages.SegmentQuery(
                prompts=[_prompt(_POINT, points=[_PIXEL], box=messages.PixelBox(x_max=1.0, y_max=1.0))]
            ),
            "no other",
        ),
        (
            _asking(_prompt(_POINT, points=[messages.PixelPoint(x=math.inf)])),
            "finite",
        ),
        (_asking(_prompt(_POINT, points=[messages.PixelPoint(x=1e300)])), "finite"),
        (_asking(_prompt(_MASK_KIND)), "mask prompt needs its own field"),
        (
            _asking(_prompt(_MASK_KIND, mask=_mask(2, 2, b"4"))),
            r"the image is \(6, 9\)",
        ),
        (
            _asking(_prompt(_MASK_KIND, mask=_mask(2**32 - 1, 2**32 - 1, b"4"))),
            "image",
        ),
        (_asking(_prompt(_MASK_KIND, mask=_mask(6, 9, b""))), "run-length"),
        (_asking(_prompt(_MASK_KIND, mask=_mask(6, 9, b"fff"))), "run-length"),
        (_asking(_prompt(_MASK_KIND, mask=_mask(6, 9, b"f1"))), "at least one pixel"),
    ],
)
def test_wrong_queries(message: messages.SegmentQuery, words: str) -> None:
    with pytest.raises(InvalidQueryError, match=words):
        query_from_message(_over_the_wire(message), image_hw=_HW)


def test_numbers_of_other_types_are_converted() -> None:
    """A wrong type in a field passes unnoticed until the message is sent, and then aborts the process."""
    query = XQuery(
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
        explain=1,  # type: ignore[arg-type]
    )
    got = query_from_message(_over_the_wire(query_to_message(query)))
    assert (got.score_threshold, got.max_instances, got.explain) == (1.0, 5, True)
    assert got.prompts[0].box_xyxy == (1, 2, 3, 4)
    result = SegmentationResult(
        status=Status.NOT_FOUND,
        query=query,
        segments=Segments(image_hw=(np.int64(6), np.int64(9))),  # type: ignore[arg-type]
        stamp_ns=np.int64(7),  # type: ignore[arg-type]
        timing=Timing(stages_s={"inference": 1, "response": np.float32(2)}),  # type: ignore[dict-item]
    )
    assert result_from_message(_over_the_wire(result_to_message(result))).timing.total_s == 3.0


def test_what_is_no_text() -> None:
    with pytest.raises(InvalidQueryError, match="must be text, got int"):
        query_to_message(XQuery(text=3))  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_text_that_ros_would_cut_or_cannot_encode(text: str) -> None:
    with pytest.raises(InvalidQueryError, match="cannot be sent"):
        query_to_message(XQuery(text=text))


def test_every_enum_has_its_constant() -> None:
    for enum, message, prefix in (
        (Task, messages.SegmentQuery, "TASK_"),
        (PromptKind, messages.VisualPrompt, "KIND_"),
        (Status, messages.SegmentationResult, "STATUS_"),
    ):
        source = (_ROOT / "msg" / f"{message.__name__}.msg").read_text()
        constants = set(re.findall(rf"^uint8 ({prefix}\w+)=", source, re.MULTILINE))
        assert constants - {f"{prefix}UNSET", f"{prefix}UNKNOWN"} == {f"{prefix}{item.name}" for item in enum}


# --------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("code", sorted(_BY_CODE))
def test_errors_survive_the_service(code: str) -> None:
    error = _BY_CODE[code]("what happened", hint="what to do")
    with pytest.raises(XSamError) as caught:
        raise_for_response(_over_the_wire(error_to_response(error, Segment.Response())))
    assert type(caught.value) is type(error)
    assert (caught.value.message, caught.value.hint) == ("what happened", "what to do")


def test_refusals_are_no_failures() -> None:
    response = Segment.Response()
    assert error_to_response(QueueFullError("full"), response).status == Segment.Response.STATUS_REFUSED
    assert error_to_response(ModelError("broken"), response).status == Segment.Response.STATUS_FAILED
    assert error_to_response(SegmenterUnavailableError("gone"), response).code == "UNAVAILABLE"


def test_a_response_that_nobody_filled_in_is_an_error() -> None:
    """An empty response must never read as "nothing found"."""
    with pytest.raises(XSamError, match="status 0"):
        raise_for_response(Segment.Response())
