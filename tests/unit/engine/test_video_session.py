"""Video sessions: what is kept, what is read again, what a dropped frame costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from xsam import (
    DeadlineExceededError,
    Frame,
    InvalidImageError,
    InvalidOptionError,
    InvalidQueryError,
    ModelError,
    Query,
    SegmentationResult,
    Status,
    Task,
    VisualPrompt,
    XSam,
)
from xsam.engine import VideoSession
from xsam.eval.clips import evaluate_clips
from xsam.model.x2sam import X2SamModel
from xsam.video.propagation import PropagationOptions
from xsam.video.session import open_propagation

pytestmark = pytest.mark.slow  # each takes a fraction of a second, together several
Rgb = NDArray[np.uint8]


@pytest.fixture(scope="module")
def engine(x2sam: XSam) -> XSam:
    return x2sam


def _scores(result: SegmentationResult) -> NDArray[np.float32]:
    return result.segments.scores


def _run(session: VideoSession, frames: list[Rgb]) -> list[SegmentationResult]:
    return [session.step(frame) for frame in frames]


def test_the_first_frame_is_an_image(engine: XSam, clip: list[Rgb]) -> None:
    session = engine.open_session("the red cube")
    np.testing.assert_allclose(
        _scores(session.step(clip[0])), _scores(engine.segment(clip[0], "the red cube")), rtol=1e-4
    )


def test_later_frames_depend_on_the_earlier_ones(engine: XSam, clip: list[Rgb]) -> None:
    straight = _run(engine.open_session("the red cube", refresh_every=0), clip[:4])
    jumped = _run(engine.open_session("the red cube", refresh_every=0), [clip[0], clip[7], clip[2], clip[3]])
    assert not np.allclose(_scores(straight[3]), _scores(jumped[3]), rtol=1e-5)


def test_a_session_is_repeatable_and_a_reset_begins_again(engine: XSam, clip: list[Rgb]) -> None:
    session = engine.open_session(Query(thing_classes=("cube", "mug"), score_threshold=0.0))
    first = _run(session, clip[:4])
    session.reset()
    assert session.frame_count == 0
    again = _run(session, clip[:4])
    for before, after in zip(first, again, strict=True):
        np.testing.assert_array_equal(_scores(before), _scores(after))


def test_two_sessions_do_not_share_their_memory(engine: XSam, clip: list[Rgb]) -> None:
    alone = _run(engine.open_session("the mug"), clip[:4])
    one, other = engine.open_session("the mug"), engine.open_session("water")
    together = []
    for frame in clip[:4]:
        together.append(one.step(frame))
        other.step(frame[:, ::-1])
        engine.segment(frame, "sky")
    for before, after in zip(alone, together, strict=True):
        np.testing.assert_array_equal(_scores(before), _scores(after))


def test_memory_is_constant(engine: XSam, clip: list[Rgb]) -> None:
    session = engine.open_session("the mug")
    sizes = [session.step(frame) and session.nbytes for frame in clip]
    assert sizes[0] < sizes[2] == sizes[3] == sizes[-1]  # three frames fit
    assert session.frame_count == len(clip)


def test_the_query_is_read_with_the_first_frame_and_then_as_often_as_asked(
    engine: XSam, clip: list[Rgb], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    original = X2SamModel.visual_tokens

    def counted(self: X2SamModel, *arguments: object) -> object:
        reads.append(session.frame_count)
        return original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(X2SamModel, "visual_tokens", counted)
    session = engine.open_session("the mug", refresh_every=4)
    _run(session, clip)
    assert reads == [0, 4, 8]
    reads.clear()
    session = engine.open_session("the mug", refresh_every=0)
    _run(session, clip[:3])
    session.refresh()
    _run(session, clip[3:5])
    assert reads == [0, 3]


def test_the_memory_stays_when_the_query_is_read_again(engine: XSam, clip: list[Rgb]) -> None:
    session = engine.open_session("the mug", refresh_every=0)
    _run(session, clip[:3])
    kept = session.nbytes
    session.refresh()
    session.step(clip[3])
    assert session.nbytes == kept


def test_a_frame_without_time_is_dropped(engine: XSam, clip: list[Rgb]) -> None:
    session = engine.open_session("the mug")
    _run(session, clip[:2])
    expected = _run(engine.open_session("the mug"), clip[:3])[2]
    with pytest.raises(DeadlineExceededError):
        session.step(clip[7], deadline_s=1e-6)

    def cancel(stage: str) -> None:
        if stage == "postprocess":
            raise KeyError("canceled")

    with pytest.raises(KeyError, match="canceled"):
        session.step(clip[8], on_stage=cancel)
    assert session.frame_count == 2
    np.testing.assert_array_equal(_scores(session.step(clip[2])), _scores(expected))


def test_an_object_that_is_pointed_at_is_followed(engine: XSam, clip: list[Rgb]) -> None:
    query = Query(prompts=(VisualPrompt.box(5, 10, 25, 30),))
    results = _run(engine.open_session(query), clip[:5])
    first = "the mask misses the box or goes far beyond it"  # random weights
    doubts = [result.segments.doubts for result in results]
    assert doubts == [(first,)] + [(f"in the first frame: {first}",)] * 4
    assert {result.status for result in results} == {Status.UNSURE}
    assert {len(result.segments) for result in results} == {1}


def test_pointing_in_a_frame_of_another_size_is_refused(engine: XSam, clip: list[Rgb]) -> None:
    session = engine.open_session(Query(prompts=(VisualPrompt.point(12, 20),)))
    session.step(clip[0])
    with pytest.raises(InvalidImageError, match="72×40 pixels"):
        session.step(clip[1][:40])
    session.step(clip[1])


def test_text_follows_through_a_change_of_size(engine: XSam, clip: list[Rgb]) -> None:
    session = engine.open_session("the mug")
    session.step(clip[0])
    assert session.step(clip[1][:40]).masks.shape[1:] == (40, 72)


@pytest.mark.parametrize(
    "query",
    [
        Query(text="hello", task=Task.CHAT),
        Query(task=Task.GROUNDED_CONVERSATION),
        Query(text="why?", explain=True),
    ],
)
def test_queries_that_generate_text_have_no_session(engine: XSam, query: Query) -> None:
    with pytest.raises(InvalidQueryError, match="does not generate"):
        engine.open_session(query)


@pytest.mark.parametrize("refresh_every", [-1, 1.5, True, "3", 10**9])
def test_a_wrong_refresh_is_named(engine: XSam, refresh_every: object) -> None:
    with pytest.raises(InvalidOptionError, match="refresh_every"):
        engine.open_session("the mug", refresh_every=refresh_every)  # type: ignore[arg-type]


def test_a_model_without_memory_says_so() -> None:
    engine = XSam.load("tiny")
    assert not engine.has_memory
    with pytest.raises(ModelError, match="no memory of earlier frames"):
        engine.open_session("the mug")


# ------------------------------------------------------------------------------------ whole clips


def test_a_clip_is_read_whole(engine: XSam, clip: list[Rgb]) -> None:
    """The answer about the first frame depends on a later one, unlike in a session; the order matters."""
    results = engine.segment_clip(clip[:4], "the red cube")
    assert [result.masks.shape[1:] for result in results] == [(48, 72)] * 4
    other = engine.segment_clip([*clip[:3], clip[8][:, ::-1]], "the red cube")
    assert not np.allclose(_scores(results[0]), _scores(other[0]), rtol=1e-6)
    again = engine.segment_clip(np.stack(clip[:4]), "the red cube")
    for before, after in zip(results, again, strict=True):
        np.testing.assert_array_equal(_scores(before), _scores(after))


def test_stamps_do_not_change_the_order_of_a_clip(engine: XSam, clip: list[Rgb]) -> None:
    plain = engine.segment_clip(clip[:3], "the mug")
    stamped = [Frame(rgb=rgb, stamp_ns=stamp) for rgb, stamp in zip(clip, (9, 5, 7), strict=False)]
    for before, after in zip(plain, engine.segment_clip(stamped, "the mug"), strict=True):
        np.testing.assert_array_equal(_scores(before), _scores(after))


def test_an_object_is_followed_from_the_first_frame_of_a_clip(engine: XSam, clip: list[Rgb]) -> None:
    query = Query(prompts=(VisualPrompt.box(5, 10, 25, 30),))
    results = engine.segment_clip(clip[:3], query)
    assert [len(result.segments) for result in results] == [1, 1, 1]


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], "got none"),
        ([np.zeros((8, 8, 3), np.uint8)] * 65, "from 1 to 64 frames, got more"),
        (
            [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)],
            "frame 1 of the clip has 9×8 pixels",
        ),
        ("clip.mp4", "a sequence of images, got str"),
        (7, "a sequence of images, got int"),
    ],
)
def test_what_is_no_clip_is_refused(engine: XSam, frames: Any, message: str) -> None:
    with pytest.raises(InvalidImageError, match=message):
        engine.segment_clip(frames, "the mug")


def test_clips_need_a_memory_and_a_query_without_text(engine: XSam, clip: list[Rgb]) -> None:
    with pytest.raises(InvalidQueryError, match="does not generate"):
        engine.segment_clip(clip[:2], Query(text="hello", task=Task.CHAT))
    with pytest.raises(ModelError, match="no memory of earlier frames"):
        XSam.load("tiny").segment_clip(clip[:2], "the mug")
    with pytest.raises(DeadlineExceededError):
        engine.segment_clip(clip[:2], "the mug", deadline_s=1e-6)


def test_propagation_asks_the_model_with_its_memory(engine: XSam, clip: list[Rgb]) -> None:
    """The own session of the model sees the keyframes only, and remembers them."""
    query = Query(thing_classes=("cube", "mug"), score_threshold=0.0)
    own = engine.open_session(query)
    session = open_propagation(engine, query, PropagationOptions(every=3, eager=False))
    frames = [Frame(rgb=rgb, stamp_ns=(index + 1) * 10**8) for index, rgb in enumerate(clip[:7])]
    results = [session.step(frame) for frame in frames]
    for index in (0, 3, 6):
        assert results[index].carried is None
        np.testing.assert_array_equal(_scores(results[index]), _scores(own.step(frames[index])))
    assert session.nbytes > own.nbytes > 0
    assert results[1].carried is not None


def test_clips_are_scored_with_a_model_that_remembers(engine: XSam) -> None:
    scores = evaluate_clips(engine, range(7, 8), length=6, image_hw=(96, 128))
    assert (scores["n"], scores["frames"], scores["failed"]) == (1, 6, 0)
    assert scores["truth_jf_keyframe_5"] > 0.8
    for name in ("jf_every_frame", "jf_keyframe_5", "jf_keyframe_10", "id_switches_per_100"):
        assert 0.0 <= scores[name] <= 100.0
    assert scores["jf_loss_5"] == pytest.approx(scores["jf_every_frame"] - scores["jf_keyframe_5"], abs=2e-4)
    assert scores["ms_per_propagated_frame"] > 0
