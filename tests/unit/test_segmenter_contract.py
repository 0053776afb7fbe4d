"""The contract of every `Segmenter`, whatever its implementation.

The checks are plain functions of a `Subject`, so that tests of other segmenters can run them too::

    from tests.unit.test_segmenter_contract import CHECKS, Subject

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_contract(check, segmenter, frame):
        check(Subject(segmenter=segmenter, source=frame, image_hw=frame.image_hw))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from support.golden import GOLDEN
from xsam import (
    CameraRef,
    FakeSegmenter,
    Frame,
    InvalidQueryError,
    Query,
    RequestCancelledError,
    RequestRefusedError,
    SegmentationResult,
    Segmenter,
    Status,
    Task,
    UnknownCameraError,
    VisualPrompt,
)
from xsam.types.masks import box_of_mask

VARIANT = GOLDEN / "a"
DEADLINE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A segmenter and an image to query it with.

    Results must repeat the image's `camera`, `frame_id` and `stamp_ns`; None = not known here.
    """

    segmenter: Segmenter
    source: Frame | CameraRef
    image_hw: tuple[int, int]
    camera: str | None = None
    frame_id: str | None = None
    stamp_ns: int | None = None

    def ask(self, *queries: Query) -> list[SegmentationResult]:
        return self.segmenter.segment(self.source, queries, deadline_s=DEADLINE_S)


def is_a_segmenter(subject: Subject) -> None:
    """Check the protocol with `isinstance`."""
    assert isinstance(subject.segmenter, Segmenter)


def answers_every_query_in_order(subject: Subject) -> None:
    queries = [Query(text=word) for word in ("red", "what is it?", "red", "blue")]
    results = subject.ask(*queries)
    assert isinstance(results, list)
    assert len(results) == 4
    for query, result in zip(queries, results, strict=True):
        assert result.query is query


def answers_are_complete(subject: Subject) -> None:
    """Check that segments are consistent and inside the image, and that empty results have a message."""
    height, width = subject.image_hw
    queries = [Query(text="red"), Query(thing_classes=("red", "mug"), stuff_classes=("floor",))]
    for result in subject.ask(*queries, Query(prompts=(VisualPrompt.box(0, 0, width, height),))):
        assert result.answered
        assert (result.status is Status.NOT_FOUND) is (len(result) == 0)
        assert (result.status is Status.UNSURE) is any(result.segments.doubts)
        assert bool(result.message) is (result.status is Status.NOT_FOUND)
        assert result.code == ""
        assert result.model_id
        assert all(seconds >= 0 for seconds in result.timing.stages_s.values())
        segments = result.segments
        assert segments.image_hw == subject.image_hw
        assert result.masks.shape == (len(result), height, width)
        assert result.masks.dtype == np.bool_
        assert (np.diff(segments.scores) <= 0).all()
        assert ((segments.scores >= 0) & (segments.scores <= 1)).all()
        for mask, box in zip(result.masks, segments.boxes_xyxy, strict=True):
            assert mask.any()
            assert tuple(box.tolist()) == box_of_mask(mask)
        asked = result.query.thing_classes + result.query.stuff_classes
        if asked:
            assert list(segments.labels) == [asked[i] for i in segments.label_indices]


def answers_name_their_picture(subject: Subject) -> None:
    for result in subject.ask(Query(text="red"), Query(text="")):
        for name in ("camera", "frame_id", "stamp_ns"):
            expected = getattr(subject, name)
            assert expected is None or getattr(result, name) == expected


def answers_repeat(subject: Subject) -> None:
    """Check that a frame gives the same results twice; a moving camera may give different ones."""
    if isinstance(subject.source, CameraRef):
        return
    query = Query(thing_classes=("red", "mug"), score_threshold=0.0)
    (first,), (second,) = subject.ask(query), subject.ask(query)
    assert first.status is second.status
    assert first.segments.masks == second.segments.masks
    assert first.segments.labels == second.segments.labels
    assert first.segments.scores.tolist() == second.segments.scores.tolist()


def limits_are_kept(subject: Subject) -> None:
    query = Query(thing_classes=("red", "red", "red"), score_threshold=0.0, max_instances=1)
    (result,) = subject.ask(query)
    assert len(result) <= 1


def an_invalid_query_is_one_refused_result(subject: Subject) -> None:
    """Check that the other queries are processed as if it were not there."""
    height, width = subject.image_hw
    invalid = [
        Query(text=" "),
        Query(task=Task.GENERIC),
        Query(text="red", score_threshold=2.0),
        Query(prompts=(VisualPrompt.point(width, height - 1),)),
        Query(prompts=(VisualPrompt.from_mask(np.ones((width + 1, height), np.bool_)),)),
        Query(prompts=(VisualPrompt.point(0, 0, positive=False),)),
    ]
    good = Query(text="red")
    (alone,) = subject.ask(good)
    first, *refused, last = subject.ask(good, *invalid, good)
    for result, query in zip(refused, invalid, strict=True):
        assert result.status is Status.REFUSED
        assert result.query is query
        assert result.code == InvalidQueryError.code
        assert result.message
        assert len(result) == 0
        assert result.segments.image_hw == subject.image_hw
    for result in (first, last):
        assert result.status is alone.status


def only_invalid_queries_are_no_error(subject: Subject) -> None:
    assert [result.status for result in subject.ask(Query(), Query())] == [Status.REFUSED] * 2


def no_queries_are_refused(subject: Subject) -> None:
    with pytest.raises(InvalidQueryError):
        subject.ask()


def an_unknown_camera_is_refused(subject: Subject) -> None:
    with pytest.raises(UnknownCameraError, match="no_such_camera"):
        subject.segmenter.segment(
            CameraRef(name="no_such_camera"), [Query(text="red")], deadline_s=DEADLINE_S
        )


def no_time_is_refused(subject: Subject) -> None:
    """Check for a refusal of any kind: a client without a server has no time to find that out either."""
    for deadline_s in (0.0, -1.0):
        with pytest.raises(RequestRefusedError) as caught:
            subject.segmenter.segment(subject.source, [Query(text="red")], deadline_s=deadline_s)
        assert caught.value.retryable
    subject.ask(Query(text="red"))  # later queries still work


def much_time_is_fine(subject: Subject) -> None:
    """Check a very long deadline: infinity once made the lock raise `OverflowError`."""
    for deadline_s in (1e12, float("inf")):
        (result,) = subject.segmenter.segment(subject.source, [Query(text="red")], deadline_s=deadline_s)
        assert result.status in (Status.FOUND, Status.NOT_FOUND)


def stages_are_reported(subject: Subject) -> None:
    stages: list[str] = []
    query = Query(text="red")
    subject.segmenter.segment(subject.source, [query], deadline_s=DEADLINE_S, on_stage=stages.append)
    assert stages
    assert all(isinstance(stage, str) and stage for stage in stages)


def an_error_of_the_stage_hook_ends_the_request(subject: Subject) -> None:
    def cancel(stage: str) -> None:
        raise RequestCancelledError(f"cancelled in stage {stage}")

    with pytest.raises(RequestCancelledError, match="cancelled in stage"):
        subject.segmenter.segment(subject.source, [Query(text="red")], deadline_s=DEADLINE_S, on_stage=cancel)
    subject.ask(Query(text="red"))  # later queries still work


CHECKS: tuple[Callable[[Subject], None], ...] = (
    is_a_segmenter,
    answers_every_query_in_order,
    answers_are_complete,
    answers_name_their_picture,
    answers_repeat,
    limits_are_kept,
    an_invalid_query_is_one_refused_result,
    only_invalid_queries_are_no_error,
    no_queries_are_refused,
    an_unknown_camera_is_refused,
    no_time_is_refused,
    much_time_is_fine,
    stages_are_reported,
    an_error_of_the_stage_hook_ends_the_request,
)


def _frame() -> Frame:
    rgb = np.full((31, 47, 3), 90, np.uint8)
    rgb[5:15, 10:30] = (255, 0, 0)
    return Frame(rgb=rgb, camera="wrist", frame_id="lens", stamp_ns=123_456_789_012)


@pytest.fixture(scope="module", params=["fake", "fake with a camera", "golden model"])
def subject(request: pytest.FixtureRequest) -> Subject:
    frame = _frame()
    red = (frame.rgb == (255, 0, 0)).all(axis=2)
    fake = FakeSegmenter({"red": [red, red], "floor": [~red]}, frames={"front": frame})
    segmenter: Segmenter = fake
    if request.param == "golden model":
        import torch

        from xsam import XSam

        torch.set_num_threads(1)
        segmenter = XSam.load(VARIANT, device="cpu")
    return Subject(
        segmenter=segmenter,
        source=CameraRef(name="front") if request.param == "fake with a camera" else frame,
        image_hw=(31, 47),
        camera="wrist",
        frame_id="lens",
        stamp_ns=123_456_789_012,
    )


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Callable[[Subject], None], subject: Subject) -> None:
    check(subject)


def test_the_fake_finds_what_it_was_told() -> None:
    frame = _frame()
    red = (frame.rgb == (255, 0, 0)).all(axis=2)
    fake = FakeSegmenter({"Red": [red], "floor": [~red], "giant": [np.ones((99, 99), np.bool_)]})
    queries = [Query(text="the RED"), Query(text="blue"), Query(text="giant")]
    found, missing, elsewhere = fake.segment(frame, queries, deadline_s=1.0)
    np.testing.assert_array_equal(found.masks, red[None])
    assert (missing.status, elsewhere.status) == (Status.NOT_FOUND, Status.NOT_FOUND)
    assert "'blue'" in missing.message


def test_the_fake_does_not_find_what_is_to_be_left_out() -> None:
    """A negative point on an object once counted as a positive one."""
    frame = _frame()
    red = (frame.rgb == (255, 0, 0)).all(axis=2)
    fake = FakeSegmenter({"red": [red], "floor": [~red]})
    prompts = (VisualPrompt.point(20, 10), VisualPrompt.point(1, 1, positive=False))
    (result,) = fake.segment(frame, [Query(prompts=prompts)], deadline_s=1.0)
    assert result.segments.labels == ("red",)


def test_the_fake_takes_the_time_it_was_given() -> None:
    fake = FakeSegmenter({}, delay_s=0.05)
    with pytest.raises(RequestRefusedError):
        fake.segment(_frame(), [Query(text="red")], deadline_s=0.04)
