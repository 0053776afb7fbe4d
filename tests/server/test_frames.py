"""Frames that are asked about again by their id: found, dropped for memory or age, and one's own only."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from support.model_server import FakeEngine
from tests.server.conftest import Ask, picture, png
from xsam import Frame, FrameNotKeptError, QueueFullError
from xsam_server.frames import FrameStore, KeptFrame, MemoryBudget


def _frame(name: str, nbytes: int = 300) -> KeptFrame:
    return KeptFrame(id=name, frame=Frame(rgb=np.zeros((1, nbytes // 3, 3), np.uint8)))


class _Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_second_question_needs_the_id_only(ask: Ask, engine: FakeEngine) -> None:
    image = png(picture(91))
    first = ask(image).json()
    assert first["frame"] == hashlib.sha256(image).hexdigest()
    second = ask(None, frame=first["frame"], queries=[{"text": "floor"}])
    assert second.status_code == 200
    assert second.json()["frame"] == first["frame"]
    assert len(second.request.content) < 2000
    assert engine.asked[0][0] is engine.asked[1][0], "it is decoded once"


def test_an_image_that_is_sent_again_is_not_decoded_again(ask: Ask, engine: FakeEngine) -> None:
    image = png(picture(92))
    ask(image)
    ask(image)
    assert engine.asked[0][0] is engine.asked[1][0]


def test_a_frame_of_a_stream_is_not_kept(ask: Ask, engine: FakeEngine) -> None:
    frame = ask(png(picture(93)), keep_frame=False).json()["frame"]
    assert engine.asked[0][2] is False
    assert ask(None, frame=frame).json()["code"] == "FRAME_NOT_KEPT"


def test_the_oldest_frames_make_room() -> None:
    store = FrameStore(limit_bytes=600, max_age_s=9.0)
    for name in ("a", "b"):
        store.put("robot", _frame(name))
    store.get("robot", "a")
    store.put("robot", _frame("c"))
    with pytest.raises(FrameNotKeptError):
        store.get("robot", "b")
    assert [store.get("robot", name).id for name in ("a", "c")] == ["a", "c"]
    assert store.nbytes == 600
    store.put("robot", _frame("huge", 900))
    assert len(store) == 2, "a frame over the limit must not push out the others"


def test_each_client_has_room_of_its_own_and_its_own_frames() -> None:
    store = FrameStore(limit_bytes=600, max_age_s=9.0)
    store.put("robot", _frame("a"))
    for name in ("b", "c", "d"):
        store.put("other", _frame(name))
    assert store.get("robot", "a").id == "a"
    with pytest.raises(FrameNotKeptError):
        store.get("other", "a")


def test_frames_that_nobody_asks_about_are_dropped() -> None:
    clock = _Clock()
    store = FrameStore(limit_bytes=6000, max_age_s=10.0, clock=clock)
    store.put("robot", _frame("a"))
    store.put("robot", _frame("b"))
    clock.now_s = 9.0
    store.get("robot", "a")
    clock.now_s = 15.0
    store.drop_old()
    assert len(store) == 1
    assert store.get("robot", "a").id == "a"
    clock.now_s = 25.5
    with pytest.raises(FrameNotKeptError):
        store.get("robot", "a")
    assert store.nbytes == 0


def test_no_frames_are_kept_without_memory_for_them() -> None:
    store = FrameStore(limit_bytes=0, max_age_s=9.0)
    store.put("robot", _frame("a"))
    assert store.find("robot", "a") is None


def test_requests_share_their_memory_and_give_it_back() -> None:
    budget = MemoryBudget(100)
    with budget.hold() as first:
        first.take(60)
        with budget.hold() as second:
            second.take(40)
            with pytest.raises(QueueFullError):
                second.take(1)
        assert budget.used == 60
        first.take(40)
    assert budget.used == 0
