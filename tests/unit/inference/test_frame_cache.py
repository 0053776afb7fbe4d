"""Frames are computed once, found again by their pixels, and dropped when memory runs short."""

from __future__ import annotations

import dataclasses
import functools
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from support.golden import GOLDEN
from xsam import (
    Frame,
    ModelError,
    OutOfMemoryError,
    Query,
    RequestCancelledError,
    SegmentationResult,
    Task,
    VisualPrompt,
    XSam,
)
from xsam.inference.frame_cache import EncodedFrame, FrameCache
from xsam.model.mask_decoder import DecoderMemory
from xsam.model.xsam import XSamModel
from xsam.weights.checkpoint import load_checkpoint


def _frame(values: int) -> EncodedFrame:
    tensor = torch.zeros(values)
    memory = DecoderMemory(keys=(tensor,), values=(), mask_features=tensor, level_mask_features=(tensor,))
    return EncodedFrame(image_tokens=None, region_map=tensor[:1], memory=memory)


def _key(value: int) -> bytes:
    return Frame(rgb=np.full((2, 3, 3), value, np.uint8)).pixels_id


# ------------------------------------------------------------------------------------- by itself


def test_a_frame_is_known_by_its_pixels() -> None:
    rgb = np.arange(2 * 6 * 3, dtype=np.uint8).reshape(2, 6, 3)
    frame = Frame(rgb=rgb)
    key = frame.pixels_id
    assert Frame(rgb=rgb.copy()).pixels_id == key
    columns_first = np.asfortranarray(rgb)
    columns_first.flags.writeable = False
    assert Frame(rgb=columns_first).pixels_id == key
    assert Frame(rgb=rgb.reshape(6, 2, 3)).pixels_id != key
    assert Frame(rgb=rgb[::-1]).pixels_id != key
    rgb[1, 5, 2] += 1
    assert Frame(rgb=rgb).pixels_id != key
    assert dataclasses.replace(frame, rgb=rgb).pixels_id != key
    assert pickle.loads(pickle.dumps(frame)).pixels_id == frame.pixels_id == key


def test_shared_memory_counts_once() -> None:
    assert _frame(100).nbytes == 400


def test_the_frame_used_longest_ago_goes_first() -> None:
    cache = FrameCache(1000)
    for value in (1, 2):
        cache.put(_key(value), _frame(100))
    assert cache.get(_key(1)) is not None
    cache.put(_key(3), _frame(100))
    assert cache.get(_key(2)) is None
    assert cache.get(_key(1)) is not None
    assert (len(cache), cache.nbytes) == (2, 800)


def test_a_frame_that_grew_drops_others_and_one_too_large_stays_alone() -> None:
    cache = FrameCache(1000)
    cache.put(_key(1), _frame(100))
    cache.put(_key(2), _frame(100))
    cache.put(_key(2), _frame(200))
    assert (cache.get(_key(1)), len(cache)) == (None, 1)
    cache.put(_key(3), _frame(300))
    assert (cache.get(_key(2)), len(cache)) == (None, 1)
    assert cache.get(_key(3)) is not None
    cache.make_room()  # before the next frame is computed
    assert len(cache) == 0


def test_room_is_made_before_a_frame_is_computed() -> None:
    cache = FrameCache(1000)
    cache.put(_key(1), _frame(100))
    cache.make_room()
    assert len(cache) == 1
    cache.put(_key(2), _frame(100))
    cache.make_room()
    assert cache.get(_key(1)) is None
    assert cache.get(_key(2)) is not None


def test_frames_that_pass_by_take_the_memory_of_one_and_push_out_none() -> None:
    """A stream at 5 Hz once filled the whole cache in seconds."""
    cache = FrameCache(1000)
    cache.put(_key(0), _frame(50))
    for value in range(1, 30):
        cache.make_room()
        cache.put(_key(value), _frame(50), keep=False)
        assert (len(cache), cache.nbytes) == (2, 400)
        assert cache.get(_key(value)) is not None, "a request for the newest frame still finds it"
    assert cache.get(_key(0)) is not None


def test_a_frame_that_passes_by_is_the_first_to_be_dropped() -> None:
    cache = FrameCache(1000)
    cache.put(_key(1), _frame(100))
    cache.put(_key(2), _frame(100), keep=False)
    assert cache.get(_key(2)) is not None
    cache.put(_key(3), _frame(100))
    assert (cache.get(_key(2)), len(cache)) == (None, 2)
    cache.put(_key(4), _frame(100), keep=False)  # there is no room beside those that are kept
    assert (cache.get(_key(4)), len(cache)) == (None, 2)


def test_a_frame_that_is_asked_about_again_is_kept() -> None:
    cache = FrameCache(1000)
    cache.put(_key(1), _frame(50), keep=False)
    cache.put(_key(1), _frame(50))
    cache.put(_key(2), _frame(50), keep=False)
    cache.put(_key(1), _frame(50), keep=False)  # a stream that sees a kept frame does not change that
    cache.make_room()
    assert cache.get(_key(1)) is not None
    assert (cache.get(_key(2)), len(cache)) == (None, 1)


def test_a_passing_frame_stays_alone_even_over_the_bound() -> None:
    cache = FrameCache(1000)
    cache.put(_key(1), _frame(300), keep=False)
    assert cache.get(_key(1)) is not None
    cache.clear()
    assert len(cache) == 0
    cache.put(_key(1), _frame(10))
    assert len(cache) == 1


# --------------------------------------------------------------------------------- in the engine


@functools.cache
def _parts() -> tuple[XSamModel, Any]:
    torch.set_num_threads(1)
    return load_checkpoint(GOLDEN / "c")  # its window is shorter than the image


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by one with every encoded image."""
    calls: list[int] = []
    encode = XSamModel.encode_image

    def counted(self: XSamModel, *args: Any) -> Any:
        calls.append(1)
        return encode(self, *args)

    monkeypatch.setattr(XSamModel, "encode_image", counted)
    return calls


def _picture(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 255, (40, 60, 3), dtype=np.uint8)


def _engine(mib: float = 512.0) -> XSam:
    return XSam(*_parts(), model_id="c", frame_cache_mib=mib)


def _same(first: SegmentationResult, second: SegmentationResult) -> None:
    assert first.segments.masks == second.segments.masks
    assert first.segments.scores.tolist() == second.segments.scores.tolist()


QUERIES = (
    Query(text="mug", score_threshold=0.0),
    Query(prompts=(VisualPrompt.box(5, 5, 30, 30),)),
    Query(thing_classes=("mug", "cube"), stuff_classes=("sky",), score_threshold=0.0),
)


def test_a_second_query_on_a_frame_does_not_encode_it_again(encoded: list[int]) -> None:
    engine, fresh = _engine(), _engine(0)
    for query in QUERIES:
        _same(engine.segment(_picture(0), query), fresh.segment(_picture(0), query))
    assert len(encoded) == 1 + len(QUERIES)


def test_two_cameras_may_take_turns(encoded: list[int]) -> None:
    engine = _engine()
    first = engine.segment(_picture(1), QUERIES[0])
    other = engine.segment(_picture(2), QUERIES[0])
    _same(engine.segment(_picture(1), QUERIES[0]), first)
    _same(engine.segment(_picture(2), QUERIES[0]), other)
    assert first.segments.scores.tolist() != other.segments.scores.tolist()
    assert len(encoded) == 2


def test_an_array_that_is_overwritten_is_another_frame(encoded: list[int]) -> None:
    """Cameras reuse their buffers."""
    engine, buffer = _engine(), _picture(3)
    engine.segment(buffer, QUERIES[0])
    buffer[:] = _picture(4)
    _same(engine.segment(buffer, QUERIES[0]), _engine(0).segment(_picture(4), QUERIES[0]))
    assert len(encoded) == 3


def test_the_newest_frame_stays_even_if_it_is_over_the_bound(encoded: list[int]) -> None:
    """No frame of the full-size model fits the node's bound: each request encoded its frame again."""
    engine = _engine(0.001)
    for _ in range(2):
        engine.segment(_picture(5), QUERIES[0])
    assert len(encoded) == 1
    engine.segment(_picture(6), QUERIES[0])
    assert engine.cached_frames == 1
    engine.segment(_picture(5), QUERIES[0])
    assert len(encoded) == 3


def test_frames_of_a_stream_do_not_fill_the_cache(encoded: list[int]) -> None:
    engine = _engine()
    asked = engine.segment(_picture(9), QUERIES[0])
    for seed in range(10, 16):
        engine.segment(_picture(seed), [QUERIES[0], QUERIES[2]], keep_frame=False)
        assert engine.cached_frames == 2
    assert len(encoded) == 7
    engine.segment(_picture(15), QUERIES[2])  # the newest one
    _same(engine.segment(_picture(9), QUERIES[0]), asked)
    assert len(encoded) == 7


def test_without_memory_nothing_is_kept(encoded: list[int]) -> None:
    engine = _engine(0)
    for _ in range(2):
        engine.segment(_picture(5), QUERIES[0])
    assert len(encoded) == 2


def test_out_of_memory_gives_up_the_kept_frames(monkeypatch: pytest.MonkeyPatch, encoded: list[int]) -> None:
    engine = _engine()
    engine.segment(_picture(6), QUERIES[0])

    def fail(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(XSamModel, "predict", fail)
        with pytest.raises(OutOfMemoryError):
            engine.segment(_picture(6), QUERIES[0])
    engine.segment(_picture(6), QUERIES[0])
    assert len(encoded) == 2


def test_closing_gives_up_the_kept_frames() -> None:
    engine = _engine()
    engine.segment(_picture(7), QUERIES[0])
    assert engine.cached_frames == 1
    engine.close()
    assert engine.cached_frames == 0
    with pytest.raises(ModelError, match="closed"):
        engine.segment(_picture(7), QUERIES[0])


def test_a_query_that_was_taken_back_leaves_the_frame(encoded: list[int]) -> None:
    """A retry does not start from scratch."""
    engine = _engine()

    def cancel(*_: Any) -> None:
        raise RequestCancelledError("changed my mind")

    with pytest.raises(RequestCancelledError):
        engine.segment(_picture(8), Query(task=Task.CHAT, text="talk"), on_text=cancel)
    engine.segment(_picture(8), QUERIES[0])
    assert len(encoded) == 1
