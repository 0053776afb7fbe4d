"""`XSam` refusals, failures, deadlines and cancellation."""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from typing import Any

import numpy as np
import pytest
import torch

import xsam.inference.forward
import xsam.inference.prepare
from tests.unit.engine.asking import STAGES, assert_same, picture
from xsam import (
    CameraRef,
    DeadlineExceededError,
    InvalidImageError,
    InvalidQueryError,
    ModelError,
    OutOfMemoryError,
    Query,
    RequestCancelledError,
    Status,
    Task,
    UnknownCameraError,
    VisualPrompt,
    XSam,
)
from xsam.config import XSamConfig
from xsam.model.xsam import XSamModel

# ----------------------------------------------------------------------------------- refusals, errors


def test_a_bad_query_among_good_ones(one_engine: XSam) -> None:
    good = Query(text="mug")
    first, bad, last = one_engine.segment(
        picture(), [good, Query(prompts=(VisualPrompt.point(151, 5),)), good]
    )
    assert (bad.status, bad.code) == (Status.REFUSED, "INVALID_QUERY")
    assert "151×97" in bad.message
    alone = one_engine.segment(picture(), good)
    assert_same(first, alone, 1e-5)
    assert_same(last, alone, 1e-5)


@pytest.mark.parametrize("query", [Query(), Query(text="<SEG>"), Query(text="\ud800"), "", " "])
def test_a_bad_query_alone_is_raised(one_engine: XSam, query: Query | str) -> None:
    with pytest.raises(InvalidQueryError):
        one_engine.segment(picture(), query)


def test_no_queries(one_engine: XSam) -> None:
    with pytest.raises(InvalidQueryError):
        one_engine.segment(picture(), [])


def test_more_tokens_than_the_model_has_room_for(one_engine: XSam, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a single query, this once returned a REFUSED result, while other bad queries raise."""
    config = one_engine.config
    assert isinstance(config, XSamConfig)
    monkeypatch.setattr(config.llm, "max_position_embeddings", config.num_image_tokens + 200)
    long = Query(thing_classes=("x y z " * 330, "mug"))
    refused, good = one_engine.segment(picture(), [long, Query(text="mug")])
    assert (refused.status, refused.code) == (Status.REFUSED, "INVALID_QUERY")
    assert "tokens" in refused.message
    assert "fewer" in refused.hint
    assert good.status is not Status.REFUSED
    with pytest.raises(InvalidQueryError, match="tokens") as caught:
        one_engine.segment(picture(), long)
    assert "fewer" in caught.value.hint


def test_generated_answers_need_room_as_well(one_engine: XSam, monkeypatch: pytest.MonkeyPatch) -> None:
    query = Query(task=Task.CHAT, text="what is it")
    limit = one_engine.config.llm.max_position_embeddings
    monkeypatch.setattr(xsam.inference.prepare, "MAX_NEW_TOKENS", limit - one_engine.config.num_image_tokens)
    with pytest.raises(InvalidQueryError, match="tokens"):
        one_engine.segment(picture(), query)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((9, 9), np.uint8),
        np.zeros((9, 9, 3), np.float32),
        np.zeros((9, 9, 4), np.uint8),
        np.zeros((0, 9, 3), np.uint8),
        [[1]],
        None,
        "photo.png",
    ],
)
def test_bad_images(one_engine: XSam, image: Any) -> None:
    with pytest.raises(InvalidImageError):
        one_engine.segment(image, "mug")


def test_the_engine_has_no_cameras(one_engine: XSam) -> None:
    with pytest.raises(UnknownCameraError, match="wrist"):
        one_engine.segment(CameraRef(name="wrist"), "mug")


def test_a_closed_engine_says_so(one_engine: XSam) -> None:
    one_engine.close()
    one_engine.close()
    for ask in (lambda: one_engine.segment(picture(), "mug"), lambda: one_engine.config, one_engine.warm_up):
        with pytest.raises(ModelError, match="closed"):
            ask()


def test_warming_up_answers_something(one_engine: XSam) -> None:
    one_engine.warm_up()


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (RuntimeError("shapes differ"), ModelError),
        (MemoryError(), OutOfMemoryError),
        (torch.cuda.OutOfMemoryError("CUDA out of memory\nand much more"), OutOfMemoryError),
    ],
)
def test_what_the_network_raises_is_typed(
    one_engine: XSam, monkeypatch: pytest.MonkeyPatch, raised: Exception, expected: type[ModelError]
) -> None:
    def fail(*_: Any) -> None:
        raise raised

    with monkeypatch.context() as patch:
        patch.setattr(XSamModel, "predict", fail)
        with pytest.raises(expected) as caught:
            one_engine.segment(picture(), "mug")
    assert type(caught.value) is expected
    assert caught.value.__cause__ is raised
    assert "\n" not in caught.value.message
    assert one_engine.segment(picture(), "mug").found  # and keeps working


def test_an_error_that_is_kept_keeps_no_tensors(one_engine: XSam, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory on a GPU: who keeps the error must not keep the memory that the next request needs."""
    made: list[weakref.ref[torch.Tensor]] = []

    def fail(*_: Any) -> None:
        tensor = torch.zeros(1000)
        made.append(weakref.ref(tensor))
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(XSamModel, "predict", fail)
        with pytest.raises(OutOfMemoryError) as caught:
            one_engine.segment(picture(), "mug")
    assert caught.value.__cause__ is not None
    assert made[0]() is None


# ---------------------------------------------------------------------------- deadlines, cancellation


@pytest.mark.parametrize("deadline_s", [0.0, -3.0, 1e-9])
def test_no_time(one_engine: XSam, deadline_s: float) -> None:
    with pytest.raises(DeadlineExceededError):
        one_engine.segment(picture(), "mug", deadline_s=deadline_s)
    assert one_engine.segment(picture(), "mug", deadline_s=60.0).found


@pytest.mark.parametrize("deadline_s", [1e12, float("inf")])
def test_all_the_time_in_the_world(one_engine: XSam, deadline_s: float) -> None:
    """Both once raised `OverflowError`, because locks cannot wait that long."""
    assert one_engine.segment(picture(), "mug", deadline_s=deadline_s).found


@pytest.mark.slow
def test_time_may_run_out_between_stages(one_engine: XSam) -> None:
    seen: list[str] = []

    def dawdle(stage: str) -> None:
        seen.append(stage)
        if stage == "encode":
            time.sleep(0.3)

    with pytest.raises(DeadlineExceededError):
        one_engine.segment(picture(1, 1), "mug", deadline_s=0.25, on_stage=dawdle)
    assert seen[:2] == STAGES[:2]
    assert "postprocess" not in seen


@pytest.mark.slow
def test_time_may_run_out_in_the_middle_of_an_answer(
    one_engine: XSam, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4,000 tokens may take minutes, so the deadline must be checked after each one."""
    monkeypatch.setattr(xsam.inference.forward, "MAX_NEW_TOKENS", 3900)
    started = time.monotonic()
    talk = Query(task=Task.CHAT, text="talk")
    with pytest.raises(DeadlineExceededError, match="language"):
        one_engine.segment(picture(1, 1), talk, deadline_s=1.5, on_text=lambda *_: time.sleep(0.2))
    assert time.monotonic() - started < 10.0


def test_stages_are_announced_in_order(one_engine: XSam) -> None:
    seen: list[str] = []
    one_engine.segment(picture(), "mug", on_stage=seen.append)
    assert [stage for stage, _ in itertools.groupby(seen)] == STAGES  # a slow machine reminds the hook


@pytest.mark.parametrize("stage", STAGES)
def test_a_request_can_be_taken_back_at_every_stage(one_engine: XSam, stage: str) -> None:
    def cancel(now: str) -> None:
        if now == stage:
            raise RequestCancelledError("changed my mind")

    with pytest.raises(RequestCancelledError, match="changed my mind"):
        one_engine.segment(picture(1, 1), "mug", on_stage=cancel)
    assert one_engine.segment(picture(1, 1), "mug").query.text == "mug"


def test_waiting_for_another_request_counts(one_engine: XSam) -> None:
    busy, done = threading.Event(), threading.Event()

    def hold(stage: str) -> None:
        busy.set()
        assert done.wait(30)

    other = threading.Thread(
        target=one_engine.segment, args=(picture(1, 1), "mug"), kwargs={"on_stage": hold}
    )
    other.start()
    try:
        assert busy.wait(30)
        started = time.monotonic()
        with pytest.raises(DeadlineExceededError, match="busy"):
            one_engine.segment(picture(1, 1), "mug", deadline_s=0.1)
        assert time.monotonic() - started < 5.0
    finally:
        done.set()
        other.join(30)
    assert one_engine.segment(picture(1, 1), "mug", deadline_s=60.0)


class OwnError(Exception):
    """Something that a caller's hook raises."""


def test_what_a_hook_raises_reaches_the_caller(one_engine: XSam) -> None:
    def fail(*_: object) -> None:
        raise OwnError("stop")

    with pytest.raises(OwnError, match="stop"):
        one_engine.segment(picture(), "the mug", on_stage=fail)
    with pytest.raises(OwnError, match="stop"):
        one_engine.segment(picture(), Query(text="hello", task=Task.CHAT), on_text=fail)
    with pytest.raises(TypeError, match="a hook must be callable, got str"):
        one_engine.segment(picture(), "the mug", on_stage="print")  # type: ignore[call-overload]
    one_engine.segment(picture(), "the mug")  # the model is free again
