"""A session that asks the model about keyframes only fulfils the same protocol as one with memory."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.video.moving import Box, TrueMasks, frame, masks
from xsam.errors import InvalidQueryError, ModelError
from xsam.segmenter import Session
from xsam.types.masks import mask_iou
from xsam.types.requests import Query, Status, Task, VisualPrompt
from xsam.video.motion import CameraMotion
from xsam.video.propagation import PropagationOptions
from xsam.video.session import open_propagation

STILL: Box = (200, 40, 60, 50)
EVERY_4 = PropagationOptions(every=4, eager=False)


def _boxes(index: int) -> list[Box]:
    return [(60 + 3 * index, 120, 60, 50), STILL]


def _engine(count: int = 12) -> TrueMasks:
    return TrueMasks({frame(_boxes(i), i).stamp_ns: _boxes(i) for i in range(count)})


def test_the_model_sees_keyframes_only() -> None:
    engine = _engine()
    session: Session = open_propagation(engine, Query(text="the boxes"), EVERY_4)
    results = [session.step(frame(_boxes(i), i)) for i in range(12)]
    assert [source.stamp_ns // 100_000_000 - 1 for source, _ in engine.asked] == [0, 4, 8]
    assert [result.carried is None for result in results] == [i % 4 == 0 for i in range(12)]
    assert session.frame_count == 12
    for index, result in enumerate(results):
        for number, truth in masks(_boxes(index)).items():
            assert mask_iou(result.segments.masks[number].decode(), truth) > 0.9


def test_what_was_pointed_at_is_followed() -> None:
    """Asked at the same pixel of a later keyframe, the model would give whatever is there by then."""
    engine = _engine()
    here = VisualPrompt.from_mask(masks(_boxes(0))[0])
    session = open_propagation(engine, Query(prompts=(here,)), EVERY_4)
    results = [session.step(frame(_boxes(i), i)) for i in range(9)]
    asked = [query.prompts[0].mask for _, query in engine.asked]
    for index, mask in zip((0, 4, 8), asked, strict=True):
        assert mask is not None
        assert mask_iou(mask, masks(_boxes(index))[0]) > 0.9
    assert {result.query for result in results} == {session.query}


def test_what_was_pointed_at_and_left_is_not_looked_for_elsewhere() -> None:
    def boxes(index: int) -> list[Box]:
        return [(270 + 10 * index, 120, 40, 40), STILL]

    engine = TrueMasks({frame(boxes(i), i).stamp_ns: boxes(i) for i in range(12)})
    here = VisualPrompt.from_mask(masks(boxes(0))[0])
    session = open_propagation(engine, Query(prompts=(here,)), EVERY_4)
    results = [session.step(frame(boxes(i), i)) for i in range(12)]
    assert results[-1].status is Status.NOT_FOUND
    assert len(engine.asked) < 3


def test_a_fork_goes_on_by_itself() -> None:
    engine = _engine()
    session = open_propagation(engine, Query(text="the boxes"), EVERY_4)
    for index in range(2):
        session.step(frame(_boxes(index), index))
    fork = session.fork()
    ahead = fork.step(frame(_boxes(3), 3))
    assert (fork.frame_count, session.frame_count) == (3, 2)
    own = session.step(frame(_boxes(2), 2))
    assert mask_iou(own.segments.masks[0].decode(), masks(_boxes(2))[0]) > 0.9
    assert mask_iou(ahead.segments.masks[0].decode(), masks(_boxes(3))[0]) > 0.9


def test_reset_and_refresh_ask_again() -> None:
    engine = _engine()
    session = open_propagation(engine, Query(text="the boxes"), EVERY_4)
    session.step(frame(_boxes(0), 0))
    session.refresh()
    session.step(frame(_boxes(1), 1))
    session.step(frame(_boxes(2), 2))
    assert len(engine.asked) == 2
    session.reset()
    assert session.frame_count == 0
    session.step(frame(_boxes(3), 3))
    assert len(engine.asked) == 3


def test_a_keyframe_that_fails_costs_only_itself() -> None:
    engine = _engine()
    session = open_propagation(engine, Query(text="the boxes"), EVERY_4)
    for index in range(4):
        session.step(frame(_boxes(index), index))
    engine.fails = True
    with pytest.raises(ModelError, match="out of order"):
        session.step(frame(_boxes(4), 4))
    assert session.frame_count == 4
    engine.fails = False
    result = session.step(frame(_boxes(5), 5))
    assert result.carried is None


def test_sessions_of_a_camera_share_its_motion() -> None:
    """Each with a motion of its own would compute the flow again for every query."""
    engine, motion = _engine(), CameraMotion()
    sessions = [open_propagation(engine, Query(text=t), EVERY_4, motion=motion) for t in ("one", "other")]
    for index in range(3):
        shown = frame(_boxes(index), index)
        first, second = (session.step(shown) for session in sessions)
        assert motion.advance(shown) is motion.advance(shown)
    np.testing.assert_array_equal(first.segments.masks[0].decode(), second.segments.masks[0].decode())


def test_memory_is_constant() -> None:
    engine = _engine(40)
    session = open_propagation(engine, Query(text="the boxes"), EVERY_4)
    sizes = []
    for index in range(40):
        session.step(frame(_boxes(index), index))
        sizes.append(session.nbytes)
    assert 0 < max(sizes[20:]) <= 1.2 * max(sizes[4:20])


@pytest.mark.parametrize("task", [Task.CHAT, Task.GROUNDED_CONVERSATION])
def test_text_cannot_be_carried(task: Task) -> None:
    with pytest.raises(InvalidQueryError, match="does not generate text"):
        open_propagation(_engine(1), Query(text="hello", task=task), EVERY_4)
