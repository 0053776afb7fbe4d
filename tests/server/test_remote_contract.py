"""The client keeps the contract of every segmenter, over a fake and over a real model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from support.golden import GOLDEN
from support.model_server import running_server
from tests.server.conftest import RED, new_engine, picture
from tests.unit.test_segmenter_contract import CHECKS, DEADLINE_S, Subject
from xsam import Frame, Query, Segmenter, VisualPrompt
from xsam.remote import RemoteSegmenter

FRAME = Frame(rgb=picture(), camera="wrist", frame_id="lens", stamp_ns=123_456_789_012)


@pytest.fixture(scope="module", params=["fake", pytest.param("golden model", marks=pytest.mark.slow)])
def local(request: pytest.FixtureRequest) -> Any:
    if request.param == "fake":
        return new_engine()
    import torch

    from xsam import XSam

    torch.set_num_threads(1)
    return XSam.load(GOLDEN / "a", device="cpu")


@pytest.fixture(scope="module")
def remote(local: Any) -> Iterator[RemoteSegmenter]:
    with running_server(lambda: local) as server, RemoteSegmenter(server.url) as segmenter:
        yield segmenter


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Callable[[Subject], None], remote: Segmenter) -> None:
    check(
        Subject(
            segmenter=remote,
            source=FRAME,
            image_hw=FRAME.image_hw,
            camera="wrist",
            frame_id="lens",
            stamp_ns=123_456_789_012,
        )
    )


def test_answers_are_those_of_the_model_to_the_last_bit(local: Any, remote: RemoteSegmenter) -> None:
    queries = [
        Query(thing_classes=("red", "mug"), stuff_classes=("floor",), score_threshold=0.0),
        Query(text="red", score_threshold=0.0),
        Query(prompts=(VisualPrompt.from_mask(RED),)),
        Query(prompts=(VisualPrompt.point(12, 7), VisualPrompt.box(1, 2, 30, 20))),
        Query(text=" "),
    ]
    here = local.segment(FRAME, queries, deadline_s=DEADLINE_S)
    there = remote.segment(FRAME, queries, deadline_s=DEADLINE_S)
    for ours, theirs in zip(here, there, strict=True):
        for name in ("status", "query", "text", "phrases", "message", "code", "hint", "notes", "model_id"):
            assert getattr(theirs, name) == getattr(ours, name), name
        for name in ("image_hw", "masks", "labels", "doubts"):
            assert getattr(theirs.segments, name) == getattr(ours.segments, name), name
        for name in ("label_indices", "scores", "boxes_xyxy"):
            np.testing.assert_array_equal(getattr(theirs.segments, name), getattr(ours.segments, name))
