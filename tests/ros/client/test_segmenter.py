"""`RosSegmenter` against a real node: it keeps the contract of `xsam.segmenter.Segmenter`."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from tests.unit.test_segmenter_contract import CHECKS, Subject
from xsam import (
    CameraRef,
    DeadlineExceededError,
    Frame,
    InvalidImageError,
    InvalidOptionError,
    InvalidQueryError,
    ModelError,
    NoFrameError,
    Query,
    QueueFullError,
    RequestCancelledError,
    SegmenterUnavailableError,
    Status,
    UnknownCameraError,
    VisualPrompt,
)
from xsam_ros.client import Progress, RosSegmenter

Eventually = Callable[..., Any]
_RED = Query(text="the red one")


@pytest.fixture(scope="module")
def node(module_spawn: Callable[..., Any]) -> Any:
    return module_spawn("tests/ros/color_node.py", params={"cameras": "[dark]", "queue_size": 1})


@pytest.fixture(scope="module")
def segmenter(node: Any, eventually: Eventually) -> Iterator[RosSegmenter]:
    with RosSegmenter("/xsam", frame_wait_s=0.3) as segmenter:
        eventually(lambda: segmenter.status(deadline_s=15.0).state == "active", "the active state")
        yield segmenter


@pytest.fixture
def frame() -> Frame:
    rgb = np.full((20, 30, 3), 90, np.uint8)
    rgb[5:15, 10:20] = (255, 0, 0)
    return Frame(rgb=rgb, camera="elsewhere", frame_id="lens", stamp_ns=123_456_789_012)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Callable[[Subject], None], segmenter: RosSegmenter, frame: Frame) -> None:
    check(
        Subject(
            segmenter=segmenter,
            source=frame,
            image_hw=frame.image_hw,
            camera=frame.camera,
            frame_id=frame.frame_id,
            stamp_ns=frame.stamp_ns,
        )
    )


def test_results_are_complete(segmenter: RosSegmenter, frame: Frame) -> None:
    queries = [_RED, Query(text="purple"), Query(text=""), Query(thing_classes=("blue", "red"))]
    red, purple, empty, classes = segmenter.segment(frame, queries, deadline_s=10.0)
    assert [result.status for result in (red, purple, empty, classes)] == [
        Status.FOUND,
        Status.NOT_FOUND,
        Status.REFUSED,
        Status.FOUND,
    ]
    np.testing.assert_array_equal(red.masks[0], (frame.rgb == (255, 0, 0)).all(axis=2))
    assert red.query is queries[0]
    assert (red.camera, red.frame_id, red.stamp_ns) == ("elsewhere", "lens", 123_456_789_012)
    assert (red.model_id, red.segments.labels) == ("colors", ("red",))
    assert red.segments.boxes_xyxy.tolist() == [[10, 5, 20, 15]]
    assert {"queue", "image", "inference"} <= set(red.timing.stages_s)
    assert (empty.code, len(empty)) == ("INVALID_QUERY", 0)
    assert purple.message


def test_a_broken_callback_does_not_affect_other_requests(segmenter: RosSegmenter, frame: Frame) -> None:
    """The exception must not end the client's thread, which all later requests need."""

    def broken(_: Progress) -> None:
        raise ValueError("a bug of the caller")

    results = segmenter.segment_with_progress(frame, [_RED], deadline_s=10.0, on_progress=broken)
    assert results[0].found
    assert segmenter.segment(frame, [_RED], deadline_s=10.0)[0].found


def test_responses_to_other_clients_push_none_out(
    segmenter: RosSegmenter, frame: Frame, eventually: Eventually
) -> None:
    """The responses to all clients reach each of them; a busy client must not lose its own."""
    blocked, released = threading.Event(), threading.Event()

    def hold(_: Progress) -> None:
        blocked.set()
        released.wait(30.0)

    answered = segmenter.status().answered
    with RosSegmenter("/xsam") as busy, ThreadPoolExecutor() as threads:
        slow = [Query(text="slow red")]  # its progress is reported for long enough to be discovered
        held = threads.submit(busy.segment_with_progress, frame, slow, deadline_s=60.0, on_progress=hold)
        assert blocked.wait(30.0)
        waiting = threads.submit(busy.segment, frame, [_RED], deadline_s=60.0)
        eventually(lambda: segmenter.status().answered == answered + 2, "both responses of the node")
        for _ in range(30):
            segmenter.segment(frame, [_RED], deadline_s=10.0)
        released.set()
        assert waiting.result(60.0)[0].found
        assert held.result(60.0)[0].found


@pytest.mark.parametrize(
    ("source", "queries", "error"),
    [
        (CameraRef(name="attic"), [_RED], UnknownCameraError),
        (CameraRef(name="dark"), [_RED], NoFrameError),
        (CameraRef(name="dark", max_age_s=5), [_RED], NoFrameError),
        (CameraRef(name="nul\0"), [_RED], InvalidQueryError),
        (CameraRef(name="dark"), [], InvalidQueryError),
        (CameraRef(name="dark"), [Query(text="nul\0")], InvalidQueryError),
    ],
)
def test_refusals_are_raised(
    segmenter: RosSegmenter, source: CameraRef, queries: list[Query], error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        segmenter.segment(source, queries, deadline_s=10.0)
    assert type(caught.value) is error


def test_a_frame_from_the_future(segmenter: RosSegmenter, frame: Frame) -> None:
    with pytest.raises(InvalidImageError, match="stamp"):
        segmenter.segment(Frame(rgb=frame.rgb, stamp_ns=2**62), [_RED], deadline_s=10.0)


def test_a_failing_model_is_raised(segmenter: RosSegmenter, frame: Frame) -> None:
    with pytest.raises(ModelError, match="wrong device"):
        segmenter.segment(frame, [Query(text="broken")], deadline_s=10.0)


def test_a_prompt_outside_the_image_is_one_refused_result(segmenter: RosSegmenter, frame: Frame) -> None:
    outside = Query(prompts=(VisualPrompt.box(100, 100, 120, 120),))
    refused, good = segmenter.segment(frame, [outside, _RED], deadline_s=10.0)
    assert (refused.status, refused.code) == (Status.REFUSED, "INVALID_QUERY")
    assert good.found


def test_the_deadline_covers_a_missing_node() -> None:
    started_s = time.monotonic()
    with RosSegmenter("/nobody") as segmenter, pytest.raises(SegmenterUnavailableError, match="/nobody"):
        segmenter.segment(CameraRef(name="front"), [_RED], deadline_s=0.5)
    assert 0.5 <= time.monotonic() - started_s < 3.0


@pytest.mark.parametrize("text", ["slow", "stuck"])
def test_the_deadline_covers_inference(
    segmenter: RosSegmenter, frame: Frame, text: str, eventually: Eventually
) -> None:
    started_s = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        segmenter.segment(frame, [Query(text=text)], deadline_s=0.4)
    assert 0.4 <= time.monotonic() - started_s < 1.3
    if text == "slow":  # 1.5 s in small stages: the node has to know the deadline and stop early
        eventually(lambda: not segmenter.status().busy, "a model that has given up", 0.7)
    assert segmenter.segment(frame, [_RED], deadline_s=10.0)[0].found


@pytest.mark.parametrize(
    ("deadline_s", "error"),
    [
        (0, DeadlineExceededError),
        (-1.0, DeadlineExceededError),
        (float("-inf"), DeadlineExceededError),
        (float("nan"), InvalidOptionError),
        ("5", InvalidOptionError),
        (None, InvalidOptionError),
    ],
)
def test_a_deadline_that_leaves_no_time_is_not_a_missing_node(
    deadline_s: Any, error: type[Exception]
) -> None:
    with RosSegmenter("/nobody") as segmenter:
        for call in (
            lambda: segmenter.segment(CameraRef(name="front"), [_RED], deadline_s=deadline_s),
            lambda: segmenter.segment(
                CameraRef(name="front"), [_RED], deadline_s=deadline_s, on_stage=lambda _: None
            ),
            lambda: segmenter.status(deadline_s=deadline_s),
            lambda: segmenter.start_stream("front", [_RED], deadline_s=deadline_s),
            lambda: segmenter.stop_stream("front", deadline_s=deadline_s),
        ):
            with pytest.raises(error, match="deadline_s"):
                call()


def test_no_time_at_all(segmenter: RosSegmenter, frame: Frame) -> None:
    with pytest.raises(DeadlineExceededError):
        segmenter.segment(frame, [_RED], deadline_s=0.0)


def test_many_threads_share_one_client(segmenter: RosSegmenter, frame: Frame) -> None:
    """With room for one in the queue, some get results, the others a refusal, and nobody waits forever."""
    ended: list[str] = []

    def request() -> None:
        try:
            ended.append(segmenter.segment(frame, [Query(text="slow red")], deadline_s=20.0)[0].status.value)
        except QueueFullError as error:
            ended.append(error.code)

    threads = [threading.Thread(target=request) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    assert len(ended) == 6
    assert set(ended) == {"found", "QUEUE_FULL"}
    assert ended.count("found") == 2


def test_hooks_report_stages_and_text(segmenter: RosSegmenter, frame: Frame) -> None:
    stages: list[str] = []
    texts: list[tuple[int, str]] = []
    results = segmenter.segment(
        frame,
        [Query(text=""), Query(text="tell me what is red, slow")],
        deadline_s=10.0,
        on_stage=stages.append,
        on_text=lambda index, text: texts.append((index, text)),
    )
    assert [result.status for result in results] == [Status.REFUSED, Status.FOUND]
    assert stages[0] == "request"
    assert stages.index("image") < stages.index("inference") < stages.index("step 9")
    assert all(stage != following for stage, following in itertools.pairwise(stages))
    assert {index for index, _ in texts} == {1}
    assert texts[-1][1].startswith(texts[0][1])


def test_an_error_of_a_hook_stops_the_model(
    segmenter: RosSegmenter, frame: Frame, eventually: Eventually
) -> None:
    def cancel(stage: str) -> None:
        if stage == "step 2":
            raise RequestCancelledError("not needed any more")

    with pytest.raises(RequestCancelledError, match="not needed any more"):
        segmenter.segment(frame, [Query(text="slow red")], deadline_s=10.0, on_stage=cancel)
    eventually(lambda: not segmenter.status().busy, "a model that has stopped", 0.7)  # 30 steps take 1.5 s


def test_a_request_with_hooks_waits_for_the_first_frame_of_a_camera(segmenter: RosSegmenter) -> None:
    started_s = time.monotonic()
    with pytest.raises(NoFrameError):
        segmenter.segment(CameraRef(name="dark"), [_RED], deadline_s=10.0, on_stage=lambda _: None)
    assert time.monotonic() - started_s > 0.2  # frame_wait_s is 0.3


def test_a_closed_client_says_so(node: Any, frame: Frame) -> None:
    segmenter = RosSegmenter("/xsam")
    segmenter.close()
    segmenter.close()
    with pytest.raises(SegmenterUnavailableError, match="closed"):
        segmenter.segment(frame, [_RED], deadline_s=1.0)


def test_a_program_that_forgets_to_close_ends_properly() -> None:
    """A thread inside ROS at the end of the interpreter would abort the process with code 134."""
    code = "from xsam_ros.client import RosSegmenter\nsegmenter = RosSegmenter('/xsam')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_node_is_still_alive(node: Any, segmenter: RosSegmenter) -> None:
    assert node.running
    assert segmenter.status().failed == 1
