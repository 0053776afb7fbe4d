"""A model that loads in the background: calls wait for it, and raise its error when it fails."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tests.agent.table import MASKS, new_frame
from tests.unit.test_segmenter_contract import CHECKS, Subject
from xsam import CheckpointError, DeadlineExceededError, FakeSegmenter, ModelError, Query
from xsam_agent_tools.runtime.loading import LoadingSegmenter

QUERIES = [Query(text="the plate")]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Callable[[Subject], None]) -> None:
    frame = new_frame()
    segmenter = LoadingSegmenter(lambda: FakeSegmenter(MASKS, frames={"front": frame}))
    check(Subject(segmenter=segmenter, source=frame, image_hw=frame.image_hw, camera="front"))


def test_hooks_are_passed_on() -> None:
    class HookCallingSegmenter(FakeSegmenter):
        def segment(self, source, queries, *, deadline_s, on_stage=None, on_text=None):
            on_stage("decode")
            on_text(0, "a plate")
            return super().segment(source, queries, deadline_s=deadline_s)

    stages, texts = [], []
    LoadingSegmenter(lambda: HookCallingSegmenter(MASKS)).segment(
        new_frame(), QUERIES, deadline_s=30, on_stage=stages.append, on_text=lambda *text: texts.append(text)
    )
    assert (stages, texts) == (["decode"], [(0, "a plate")])


def test_requests_wait_for_the_model_and_no_longer_than_allowed() -> None:
    may_load = threading.Event()

    def load() -> FakeSegmenter:
        assert may_load.wait(30)
        return FakeSegmenter(MASKS)

    segmenter = LoadingSegmenter(load)
    assert segmenter.status(deadline_s=1).state == "loading"
    with pytest.raises(DeadlineExceededError, match="still being loaded") as caught:
        segmenter.segment(new_frame(), QUERIES, deadline_s=0.05)
    assert caught.value.retryable
    may_load.set()
    (result,) = segmenter.segment(new_frame(), QUERIES, deadline_s=30)
    assert result.found
    assert segmenter.status(deadline_s=1).state == "ready"


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (CheckpointError("no model"), CheckpointError, "no model"),
        (OSError("disk"), ModelError, "OSError: disk"),
    ],
)
def test_every_call_raises_the_error_that_prevented_loading(
    error: Exception, kind: type, message: str
) -> None:
    def load() -> FakeSegmenter:
        raise error

    segmenter = LoadingSegmenter(load)
    for _ in range(2):
        with pytest.raises(kind, match=message):
            segmenter.segment(new_frame(), QUERIES, deadline_s=30)
    status = segmenter.status(deadline_s=1)
    assert (status.state, message in status.last_error) == ("failed", True)


def test_the_status_tool_says_that_it_is_loading(make_tools, call) -> None:
    may_load = threading.Event()
    segmenter = LoadingSegmenter(lambda: may_load.wait(30) and FakeSegmenter(MASKS))
    tools = make_tools(segmenter=segmenter, deadline_s=0.2)
    assert call(tools["perception_status"])["state"] == "loading"
    refusal = call(tools["segment_objects"], queries=["mug"])
    assert (refusal["code"], refusal["retryable"]) == ("DEADLINE", True)
    may_load.set()
