"""Sessions beside each other, the bytes they take, and videos that break off: time, size, failures."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from support.golden import GOLDEN_X2SAM
from xsam import (
    Frame,
    InvalidOptionError,
    InvalidQueryError,
    ModelError,
    Query,
    RequestCancelledError,
    SegmentationResult,
    Status,
    VisualPrompt,
    XSam,
)
from xsam.config.presets import full_x2sam_config
from xsam.engine import VideoSession
from xsam.inference.family import X2SamFamily
from xsam.model.x2sam import X2SamModel

pytestmark = pytest.mark.slow  # each takes a fraction of a second, together several
Rgb = NDArray[np.uint8]
QUERIES = (
    Query(text="the red cube"),
    Query(thing_classes=("cube", "mug"), stuff_classes=("water",), score_threshold=0.0),
    Query(prompts=(VisualPrompt.box(5, 10, 25, 30),)),
    Query(text="the leftmost cube"),
)


def _frame(rgb: Rgb, stamp_s: float = 0.0) -> Frame:
    return Frame(rgb=rgb, camera="wrist", frame_id="lens", stamp_ns=round(stamp_s * 1e9))


def _same(one: SegmentationResult, other: SegmentationResult) -> None:
    assert (one.status, one.segments.labels) == (other.status, other.segments.labels)
    assert one.segments.masks == other.segments.masks
    assert one.segments.doubts == other.segments.doubts
    np.testing.assert_array_equal(one.segments.scores, other.segments.scores)


def test_sessions_of_one_request_equal_sessions_alone(x2sam: XSam, clip: list[Rgb]) -> None:
    """The frame is encoded once for all of them, and nothing else is shared."""
    together = [x2sam.open_session(query, refresh_every=2) for query in QUERIES]
    alone = [x2sam.open_session(query, refresh_every=2) for query in QUERIES]
    for rgb in clip[:5]:
        results = x2sam.segment(rgb, together)
        for result, session in zip(results, alone, strict=True):
            _same(result, session.step(rgb))


def test_a_frame_is_encoded_once_for_all_sessions(
    x2sam: XSam, clip: list[Rgb], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("encode_frames", "visual_tokens"):
        original = getattr(X2SamModel, name)

        def counted(self: X2SamModel, *arguments: object, _do=original, _name=name, **options: object):
            calls.append(_name)
            return _do(self, *arguments, **options)

        monkeypatch.setattr(X2SamModel, name, counted)
    sessions = [x2sam.open_session(query) for query in QUERIES]
    for rgb in clip[:3]:
        x2sam.segment(rgb, sessions)
    assert calls == ["encode_frames", "visual_tokens", "encode_frames", "encode_frames"]


def test_sessions_and_queries_share_a_request(x2sam: XSam, clip: list[Rgb]) -> None:
    session, alone = x2sam.open_session("the mug"), x2sam.open_session("the mug")
    x2sam.segment(clip[0], [session])
    alone.step(clip[0])
    results = x2sam.segment(clip[1], [Query(text="sky"), session, Query(text=""), Query(text="water")])
    assert [result.code for result in results] == ["", "", "INVALID_QUERY", ""]
    assert [result.query.text for result in results] == ["sky", "the mug", "", "water"]
    _same(results[1], alone.step(clip[1]))
    _same(results[3], x2sam.segment(clip[1], "water"))
    assert {"encode", "language", "memory", "decode"} <= set(results[1].timing.stages_s)
    assert results[0].timing.stages_s == results[1].timing.stages_s


def test_phrases_about_places_are_checked_in_every_frame(x2sam: XSam, clip: list[Rgb]) -> None:
    """A session once believed "the leftmost cube" without a look at the other cubes."""
    query = Query(text="the leftmost cube", score_threshold=0.0)
    session = x2sam.open_session(query, refresh_every=0)
    _same(session.step(clip[0]), x2sam.segment(clip[0], query))
    for rgb in clip[1:4]:
        result = session.step(rgb)
        assert result.status is Status.UNSURE
        assert result.segments.doubts == ("its place could not be checked",)


@pytest.mark.parametrize("stage", ["preprocess", "encode", "language", "memory", "decode", "postprocess"])
def test_a_request_that_is_cancelled_changes_no_session(x2sam: XSam, clip: list[Rgb], stage: str) -> None:
    """It ends in the last session's turn, when all others are through already."""
    sessions = [x2sam.open_session(query) for query in QUERIES[:2]]
    expected = [x2sam.open_session(query) for query in QUERIES[:2]]
    for rgb in clip[:2]:
        x2sam.segment(rgb, sessions)
        x2sam.segment(rgb, expected)
    seen: list[str] = []
    last = 1 if stage in ("preprocess", "encode", "language") else len(sessions)

    def cancel(name: str) -> None:
        seen.append(name)
        if seen.count(stage) == last:
            raise RequestCancelledError("the caller gave up")

    before = [session.nbytes for session in sessions]
    with pytest.raises(RequestCancelledError):
        x2sam.segment(clip[7], sessions, on_stage=cancel)
    assert [session.frame_count for session in sessions] == [2, 2]
    assert [session.nbytes for session in sessions] == before
    for result, wanted in zip(
        x2sam.segment(clip[2], sessions), x2sam.segment(clip[2], expected), strict=True
    ):
        _same(result, wanted)


def test_memory_is_constant_over_a_long_video_and_known_before(x2sam: XSam, clip: list[Rgb]) -> None:
    query = Query(thing_classes=("cube", "mug"))
    most = x2sam.session_nbytes(query)
    session = x2sam.open_session(query, refresh_every=50)
    sizes = []
    for step in range(200):
        session.step(clip[step % len(clip)])
        sizes.append(session.nbytes)
    memory = x2sam.config.memory
    side = 64 // 16
    entry = memory.attention_layers * 3 * 2 * side * side * memory.channels * 4
    assert sizes[0] < sizes[1] < sizes[2] == sizes[3] == sizes[199]
    assert sizes[1] - sizes[0] == entry
    assert memory.capacity * entry < sizes[-1] <= most < (memory.capacity + 2) * entry
    assert session.frame_count == 200


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_no_session_takes_more_than_was_said(x2sam: XSam, clip: list[Rgb], query: Query) -> None:
    session = x2sam.open_session(query)
    for rgb in clip[:4]:
        session.step(rgb)
    assert session.nbytes <= x2sam.session_nbytes(query)


def test_the_size_at_full_size_is_the_documented_one() -> None:
    """Five frames and one in the making, for four layers and three scales of 64 × 64 cells."""
    network: Any = SimpleNamespace(config=full_x2sam_config(), dtype=torch.bfloat16)
    assert round(X2SamFamily(network).session_nbytes(0) / 1e6) == 302


def test_a_jump_back_in_time_begins_another_video(x2sam: XSam, clip: list[Rgb]) -> None:
    session, fresh = x2sam.open_session("the mug"), x2sam.open_session("the mug")
    for step in range(3):
        session.step(_frame(clip[step], 100.0 + step))
    _same(session.step(_frame(clip[5], 90.0)), fresh.step(clip[5]))
    assert session.frame_count == 1
    _same(session.step(_frame(clip[6], 90.1)), fresh.step(clip[6]))


def test_a_frame_that_arrives_late_is_not_remembered(x2sam: XSam, clip: list[Rgb]) -> None:
    session, expected = x2sam.open_session("the mug", late_s=0.5), x2sam.open_session("the mug")
    for step in range(3):
        session.step(_frame(clip[step], 100.0 + 0.1 * step))
        expected.step(clip[step])
    assert session.step(_frame(clip[7], 100.1)).answered
    assert session.frame_count == 3
    _same(session.step(_frame(clip[3], 100.2)), expected.step(clip[3]))  # with the same stamp: the next one


def test_another_size_begins_another_video(x2sam: XSam, clip: list[Rgb]) -> None:
    session, fresh = x2sam.open_session("the mug"), x2sam.open_session("the mug")
    session.step(clip[0])
    for rgb in clip[1:3]:
        _same(session.step(rgb[:40]), fresh.step(rgb[:40]))


def test_what_was_pointed_at_in_another_video_is_in_doubt(x2sam: XSam, clip: list[Rgb]) -> None:
    """The same place may show another object by now."""
    mask = np.zeros((48, 72), np.bool_)
    mask[10:30, 5:25] = True
    session = x2sam.open_session(Query(prompts=(VisualPrompt.from_mask(mask),)))
    assert session.step(_frame(clip[0], 100.0)).status is Status.FOUND
    for stamp_s in (50.0, 50.1):
        result = session.step(_frame(clip[1], stamp_s))
        assert result.status is Status.UNSURE
        assert result.segments.doubts == (
            "it was pointed at before the time of the camera jumped back by 50.0 s",
        )
    session.reset()  # the user points at it again
    assert session.step(_frame(clip[0], 50.2)).status is Status.FOUND


def test_marks_are_looked_for_in_the_first_frame_only(x2sam: XSam, clip: list[Rgb]) -> None:
    """What was marked moves on: a later mask elsewhere says nothing against it, but the first doubt stays."""
    marks = (VisualPrompt.point(2, 2), VisualPrompt.point(70, 46))
    for query in (Query(prompts=marks, score_threshold=0.0), Query(prompts=marks[:1])):
        session = x2sam.open_session(query)
        first = session.step(clip[0])
        assert first.segments.doubts == x2sam.segment(clip[0], query).segments.doubts
        assert any(first.segments.doubts)
        doubts = set(filter(None, first.segments.doubts))
        later = set(filter(None, session.step(clip[1]).segments.doubts))
        assert later == {f"in the first frame: {doubt}" for doubt in doubts}


def test_after_a_failure_the_session_begins_again(
    x2sam: XSam, clip: list[Rgb], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in the memory may be the cause: it would be the cause for every later frame as well."""
    one, other = x2sam.open_session("the mug"), x2sam.open_session("water")
    for rgb in clip[:2]:
        x2sam.segment(rgb, [one, other])
    original = X2SamModel.remember

    def spoiled(self: X2SamModel, *arguments: object):
        entry = original(self, *arguments)  # type: ignore[arg-type]
        entry.keys[0][0].fill_(float("nan"))
        return entry

    with monkeypatch.context() as patch:
        patch.setattr(X2SamModel, "remember", spoiled)
        one.step(clip[2])
    results = x2sam.segment(clip[3], [one, other])
    assert [result.code for result in results] == ["MODEL_ERROR", ""]
    assert [session.frame_count for session in (one, other)] == [0, 3]
    _same(one.step(clip[4]), x2sam.open_session("the mug").step(clip[4]))
    assert one.step(clip[5]).answered


def test_memory_that_ran_out_is_given_back(
    x2sam: XSam, clip: list[Rgb], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = x2sam.open_session("the mug")
    session.step(clip[0])
    assert session.nbytes > 0

    def exhausted(*_: object, **__: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(X2SamModel, "recall", exhausted)
        with pytest.raises(ModelError, match="out of memory"):
            session.step(clip[1])
    assert (session.nbytes, session.frame_count) == (0, 0)
    assert session.step(clip[1]).answered


def test_segments_carry_what_the_tracker_tells_objects_apart_by(x2sam: XSam, clip: list[Rgb]) -> None:
    """A segment of one query has that query's state; a region of many has none."""
    queries = [
        Query(thing_classes=("cube", "mug"), stuff_classes=("water",), score_threshold=0.0),
        Query(text="the mug"),
        Query(stuff_classes=("water", "sky"), score_threshold=0.0),
    ]
    for results in (x2sam.segment(clip[0], queries), x2sam.segment(clip[0], _sessions(x2sam, queries))):
        for result, lengths in zip(results, ({1.0}, {1.0}, {0.0}), strict=True):
            embeddings = result.segments.embeddings
            assert embeddings.shape == (len(result), x2sam.config.memory.channels if len(result) else 0)
            assert set(np.linalg.norm(embeddings, axis=1).round(4).tolist()) <= lengths | {0.0}
        assert results[1].segments.embeddings.any()


def _sessions(engine: XSam, queries: list[Query]) -> list[VideoSession]:
    return [engine.open_session(query) for query in queries]


def test_a_fork_goes_on_by_itself(x2sam: XSam, clip: list[Rgb]) -> None:
    session, expected = x2sam.open_session("the mug"), x2sam.open_session("the mug")
    for rgb in clip[:2]:
        session.step(rgb)
        expected.step(rgb)
    fork = session.fork()
    ahead = fork.step(clip[2])
    fork.step(clip[7])
    fork.reset()
    assert session.frame_count == 2
    result = session.step(clip[2])
    _same(result, ahead)
    _same(result, expected.step(clip[2]))


def test_a_session_is_given_once_and_to_its_own_engine(x2sam: XSam, clip: list[Rgb]) -> None:
    session = x2sam.open_session("the mug")
    with pytest.raises(InvalidQueryError, match="twice"):
        x2sam.segment(clip[0], [session, session])
    with pytest.raises(InvalidQueryError, match="another engine"):
        XSam.load(GOLDEN_X2SAM / "x2a", threads=1).segment(clip[0], session)


@pytest.mark.parametrize("late_s", [-0.1, float("nan"), float("inf"), "1", True])
def test_a_wrong_lateness_is_named(x2sam: XSam, late_s: object) -> None:
    with pytest.raises(InvalidOptionError, match="late_s"):
        x2sam.open_session("the mug", late_s=late_s)  # type: ignore[arg-type]


def test_without_memory_no_size_is_told() -> None:
    with pytest.raises(ModelError, match="no memory of earlier frames"):
        XSam.load("tiny").session_nbytes("the mug")
