"""Queries, results and errors survive the way through JSON; what is malformed is refused by field."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xsam import (
    FrameNotKeptError,
    InvalidQueryError,
    ModelError,
    Query,
    RequestTooLargeError,
    SegmentationResult,
    Segments,
    Status,
    Task,
    Timing,
    VisualPrompt,
)
from xsam.errors import XSamError
from xsam.types.masks import MaskRle
from xsam.types.requests import Frame
from xsam.wire.conversion import (
    error_from_body,
    error_to_body,
    query_to_body,
    request_from_json,
    result_to_body,
    results_from_response,
)
from xsam.wire.models import EVENTS, ErrorBody, RequestBody, ResponseBody, ResponseEvent

FRAME = Frame(
    rgb=np.zeros((5, 8, 3), np.uint8), camera="wrist", frame_id="lens", stamp_ns=1_700_000_000_123_456_789
)
MASK = np.zeros((5, 8), np.bool_)
MASK[1:3, 2:7] = True
FRAME_ID = "0" * 64

names = st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable())
numbers = st.floats(-1e6, 1e6, allow_nan=False, width=32)
prompts = st.one_of(
    st.builds(VisualPrompt.point, numbers, numbers, positive=st.booleans()),
    st.builds(VisualPrompt.box, st.just(-1.5), st.just(0.0), st.floats(0.1, 9.0), st.just(4.0)),
    st.builds(VisualPrompt.scribble, st.lists(st.tuples(numbers, numbers), min_size=2, max_size=5)),
    st.builds(VisualPrompt.from_mask, st.just(MASK), positive=st.booleans()),
)
queries = st.builds(
    Query,
    text=st.text(max_size=30).filter(lambda text: text.isprintable()),
    task=st.sampled_from(Task),
    thing_classes=st.lists(names, max_size=3),
    stuff_classes=st.lists(names, max_size=3),
    prompts=st.lists(prompts, max_size=3),
    score_threshold=st.none() | st.floats(-2.0, 2.0),
    max_instances=st.integers(-1, 10**9),
    explain=st.booleans(),
)


def _fields(query: Query) -> list[Any]:
    return [
        query.text,
        query.task,
        query.thing_classes,
        query.stuff_classes,
        query.score_threshold,
        query.max_instances,
        query.explain,
        [
            (
                prompt.kind,
                prompt.positive,
                prompt.box_xyxy,
                None if prompt.points_xy is None else prompt.points_xy.tolist(),
                None if prompt.mask is None else prompt.mask.tolist(),
            )
            for prompt in query.prompts
        ],
    ]


@given(st.lists(queries, min_size=1, max_size=3))
def test_queries_survive(asked: list[Query]) -> None:
    body = RequestBody(queries=[query_to_body(query) for query in asked])
    _, received = request_from_json(body.model_dump_json().encode())
    assert [_fields(query) for query in received] == [_fields(query) for query in asked]


@given(st.lists(st.floats(0.0, 1.0, width=32), min_size=2, max_size=2))
def test_results_survive_to_the_last_bit(scores: list[float]) -> None:
    asked = Query(thing_classes=("mug", "cup"))
    result = SegmentationResult(
        status=Status.UNSURE,
        query=asked,
        segments=Segments(
            image_hw=(5, 8),
            masks=(MaskRle.encode(MASK), MaskRle.encode(~MASK)),
            labels=("cup", "mug"),
            label_indices=np.array([1, 0], np.int32),
            scores=np.array(scores, np.float32),
            boxes_xyxy=np.array([[2, 1, 7, 3], [0, 0, 8, 5]], np.float32),
            doubts=("", 'the model does not know "cup"'),
            chances=np.array([np.nan, scores[0]], np.float32),
        ),
        text="a text",
        phrases=("a cup",),
        message="",
        notes=("brightened",),
        model_id="tiny",
        camera="wrist",
        frame_id="lens",
        stamp_ns=FRAME.stamp_ns,
        timing=Timing(stages_s={"encode": 0.25, "decode": 0.125}),
    )
    sent = ResponseBody(frame=FRAME_ID, results=[result_to_body(result)]).model_dump_json()
    (got,) = results_from_response(ResponseBody.model_validate_json(sent), queries=[asked], frame=FRAME)
    assert got.query is asked
    for name in (
        "status",
        "text",
        "phrases",
        "notes",
        "model_id",
        "camera",
        "frame_id",
        "stamp_ns",
        "timing",
    ):
        assert getattr(got, name) == getattr(result, name), name
    for name in ("masks", "labels", "doubts", "image_hw"):
        assert getattr(got.segments, name) == getattr(result.segments, name), name
    for name in ("label_indices", "scores", "chances", "boxes_xyxy"):
        np.testing.assert_array_equal(getattr(got.segments, name), getattr(result.segments, name))


def _request(**query: Any) -> bytes:
    return json.dumps({"queries": [query]}).encode()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "request"),
        (b"[]", "request"),
        (b'{"queries": "mug"}', "queries"),
        (_request(txt="mug"), "queries.0.txt"),
        (_request(text=7), "queries.0.text"),
        (_request(text="\ud800"), "hex escape"),
        (_request(text="mug", task="find"), "queries.0.task"),
        (_request(text="mug", score_threshold="0.5"), "queries.0.score_threshold"),
        (b'{"queries": [{"text": "mug", "score_threshold": NaN}]}', "queries.0.score_threshold"),
        (_request(text="mug", max_instances=1.5), "queries.0.max_instances"),
        (_request(text="mug", explain="yes"), "queries.0.explain"),
        (_request(prompts=[{"kind": "box", "box_xyxy": [5, 5, 1, 1]}]), "queries.0"),
        (_request(prompts=[{"kind": "point"}]), "queries.0"),
        (_request(prompts=[{"kind": "point", "points_xy": []}]), "queries.0"),
        (_request(prompts=[{"kind": "mask", "mask": {"size": [5, 8], "counts": "é"}}]), "queries.0"),
        (_request(prompts=[{"kind": "mask", "mask": {"size": [5, 8], "counts": "0"}}]), "queries.0"),
        (b'{"queries": [], "frame": "../../etc/passwd"}', "frame"),
        (b'{"queries": [], "image": {"width": 0, "height": 4}}', "image.width"),
        (b'{"queries": [], "deadline_s": Infinity}', "deadline_s"),
    ],
)
def test_malformed_requests_are_refused_by_field(content: bytes, named: str) -> None:
    with pytest.raises(InvalidQueryError, match=named):
        request_from_json(content)


def test_the_first_of_several_queries_that_is_malformed_is_named() -> None:
    content = {"queries": [{"text": "mug"}, {"prompts": [{"kind": "box", "box_xyxy": [5, 5, 1, 1]}]}]}
    with pytest.raises(InvalidQueryError, match=r"queries\.1: a box prompt needs x_min < x_max"):
        request_from_json(json.dumps(content).encode())


@pytest.mark.parametrize("size", [[16384, 16384], [-16384, 16384]])
def test_a_mask_of_a_few_bytes_does_not_take_gigabytes(size: list[int]) -> None:
    prompt = {"kind": "mask", "mask": {"size": size, "counts": "PPPP8"}}
    with pytest.raises(RequestTooLargeError, match="px together"):
        request_from_json(_request(prompts=[prompt]))


def test_too_many_queries_are_refused() -> None:
    with pytest.raises(RequestTooLargeError, match="33 queries"):
        request_from_json(json.dumps({"queries": [{"text": "mug"}] * 33}).encode())


def test_a_number_that_is_no_json_is_refused_before_it_is_sent() -> None:
    with pytest.raises(InvalidQueryError, match="score_threshold"):
        query_to_body(Query(text="mug", score_threshold=float("nan")))


@pytest.mark.parametrize(
    "error", [FrameNotKeptError("gone"), ModelError("broken", hint="restart"), InvalidQueryError("no")]
)
def test_errors_survive(error: XSamError) -> None:
    got = error_from_body(ErrorBody.model_validate_json(error_to_body(error).model_dump_json()))
    assert (type(got), got.message, got.hint) == (type(error), error.message, error.hint)


def test_a_result_that_does_not_fit_is_an_error() -> None:
    result = SegmentationResult(
        status=Status.NOT_FOUND,
        query=Query(text="mug"),
        segments=Segments(image_hw=(8, 5)),
        message="nothing",
    )
    response = ResponseBody(frame=FRAME_ID, results=[result_to_body(result)])
    with pytest.raises(ModelError, match="5×8"):
        results_from_response(response, queries=[result.query], frame=FRAME)
    with pytest.raises(ModelError, match="1 results for 2 queries"):
        results_from_response(response, queries=[result.query] * 2, frame=FRAME)


def test_events_are_told_apart_and_newer_fields_are_left_out() -> None:
    sent = json.dumps({"event": "response", "frame": FRAME_ID, "results": [], "newer": 1})
    event = EVENTS.validate_json(sent)
    assert isinstance(event, ResponseEvent)
    assert event.frame == FRAME_ID
