"""Cameras that hang, and calls under load: nobody waits for somebody else's camera, or past the deadline."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator

import pytest

from tests.agent.table import MASKS, new_frame
from xsam import FakeSegmenter, Frame, NoFrameError
from xsam.types.deadline import Deadline
from xsam_agent_tools.runtime.call_threads import CallThreads
from xsam_agent_tools.runtime.camera_frames import CameraFrames
from xsam_agent_tools.runtime.loading import LoadingSegmenter


class Cameras:
    """A frame source in which the camera "front" hangs until it is released."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.calls: list[str] = []

    def frame(self, camera: str) -> Frame:
        self.calls.append(camera)
        if camera == "front":
            self.release.wait(60)
        return new_frame(camera)


@pytest.fixture
def cameras() -> Iterator[Cameras]:
    cameras = Cameras()
    yield cameras
    cameras.release.set()


def test_a_camera_that_hangs_does_not_delay_the_others(make_tools, call, cameras: Cameras) -> None:
    """The frame source ran in the model's queue: every later call on the healthy camera ended in DEADLINE."""
    tools = make_tools(frame_source=cameras.frame, deadline_s=0.3)
    hung = call(tools["segment_objects"], queries=["mug"], camera="front")
    assert (hung["code"], hung["retryable"]) == ("DEADLINE", True)
    assert "'front' delivered no frame" in hung["message"]
    for _ in range(3):
        assert call(tools["segment_objects"], queries=["mug"], camera="wrist")["status"] == "ok"


def test_the_status_blames_only_the_camera_that_hangs(make_tools, call, cameras: Cameras) -> None:
    tools = make_tools(frame_source=cameras.frame, deadline_s=0.3)
    for _ in range(2):
        front, wrist = call(tools["perception_status"])["cameras"]
        assert "'front'" in front["problem"]
        assert "problem" not in wrist
        assert wrist["fresh"] is True


@pytest.mark.slow
def test_who_comes_later_is_told_at_once_and_the_camera_may_come_back(
    make_tools, call, cameras: Cameras
) -> None:
    tools = make_tools(frame_source=cameras.frame, deadline_s=0.3)
    call(tools["segment_objects"], queries=["mug"])
    for _ in range(20):
        late = call(tools["segment_objects"], queries=["mug"])
        assert late["code"] == "NO_FRAME"
        assert "hangs" in late["message"]
    assert cameras.calls == ["front"]  # no thread is added for each of them
    cameras.release.set()
    until = time.monotonic() + 30
    while call(tools["segment_objects"], queries=["mug"])["status"] != "ok":
        assert time.monotonic() < until


def test_a_frame_is_requested_after_the_call_that_it_is_for() -> None:
    """A caller that joins an earlier request could get what the camera showed before."""
    entered, release = threading.Event(), threading.Event()
    numbers = iter(range(10))

    def source(camera: str) -> Frame:
        number = next(numbers)
        entered.set()
        release.wait(30)
        return new_frame(camera, seed=number)

    frames = CameraFrames(source, hangs_after_s=30)
    first = frames.request("front")
    assert entered.wait(30)
    later: list[Frame] = []
    thread = threading.Thread(target=lambda: later.append(frames.newest("front", Deadline(30))))
    thread.start()
    time.sleep(0.05)  # so that it may join; the outcome is the same if it does not
    release.set()
    thread.join(30)
    assert (later[0].rgb == new_frame("front", seed=1).rgb).all()
    assert (frames.wait(first, Deadline(30)).rgb == new_frame("front", seed=0).rgb).all()


def test_an_error_of_an_earlier_request_is_not_that_of_a_later_one() -> None:
    entered, release, calls = threading.Event(), threading.Event(), []

    def source(camera: str) -> Frame:
        calls.append(camera)
        entered.set()
        release.wait(30)
        if len(calls) == 1:
            raise NoFrameError("nothing yet")
        return new_frame(camera)

    frames = CameraFrames(source, hangs_after_s=30)
    frames.request("front")
    assert entered.wait(30)
    got: list[Frame] = []
    thread = threading.Thread(target=lambda: got.append(frames.newest("front", Deadline(30))))
    thread.start()
    release.set()
    thread.join(30)
    assert len(got) == 1


# ------------------------------------------------------------- the age when the model gets the frame


def test_the_first_answer_after_start_is_on_a_fresh_frame(make_toolkit, call) -> None:
    """It used a frame from before the model was loaded: `age_s` was 8 to 19 s with a limit of 5 s."""
    may_load, moment_ns = threading.Event(), [10**18]

    def load() -> FakeSegmenter:
        assert may_load.wait(30)
        moment_ns[0] += 20 * 10**9  # loading takes 20 s
        return FakeSegmenter(MASKS)

    def source(camera: str) -> Frame:
        return Frame(rgb=new_frame(camera).rgb, camera=camera, stamp_ns=moment_ns[0])

    toolkit = make_toolkit(
        segmenter=LoadingSegmenter(load), frame_source=source, clock_ns=lambda: moment_ns[0], deadline_s=30
    )
    answers: list[dict] = []
    tool = toolkit.get_tools()[0]
    thread = threading.Thread(target=lambda: answers.append(call(tool, queries=["mug"]).json))
    thread.start()
    time.sleep(0.05)
    may_load.set()
    thread.join(30)
    assert answers[0]["status"] == "ok"
    assert answers[0]["age_s"] <= 5


class FrameClock:
    """A clock that tests move, and frames that carry its time."""

    def __init__(self) -> None:
        self.now_ns = 10**18

    def read_ns(self) -> int:
        return self.now_ns

    def frame(self, camera: str) -> Frame:
        return Frame(rgb=new_frame(camera).rgb, camera=camera, stamp_ns=self.now_ns)

    def pass_s(self, seconds: float) -> None:
        self.now_ns += int(seconds * 1e9)


def test_a_frame_that_grew_old_in_the_queue_of_the_segmenter_is_replaced(make_toolkit, call) -> None:
    clock, waits_s, ages_s = FrameClock(), [8.0, 0.0], []

    class SharedSegmenter(FakeSegmenter):
        """Has a queue of its own, because others use it as well."""

        def segment(self, source, queries, *, deadline_s, on_stage=None, on_text=None):
            on_stage("waiting")
            clock.pass_s(waits_s.pop(0))
            on_stage("encode")
            ages_s.append((clock.now_ns - source.stamp_ns) / 1e9)
            clock.pass_s(9)  # the model may take its time: that is no reason to refuse the frame
            on_stage("decode")
            return super().segment(source, queries, deadline_s=deadline_s)

    toolkit = make_toolkit(
        segmenter=SharedSegmenter(MASKS), frame_source=clock.frame, clock_ns=clock.read_ns, deadline_s=30
    )
    assert call(toolkit.get_tools()[0], queries=["mug"])["status"] == "ok"
    assert ages_s == [0.0]


def test_a_frame_that_grew_old_in_the_queue_of_the_toolkit_is_replaced(make_toolkit, call) -> None:
    clock, started, release = FrameClock(), threading.Event(), threading.Event()

    class PlainSegmenter(FakeSegmenter):
        def segment(self, source, queries, *, deadline_s):
            if not started.is_set():
                started.set()
                release.wait(30)
            return super().segment(source, queries, deadline_s=deadline_s)

    arrived: list[str] = []

    def source(camera: str) -> Frame:
        frame = clock.frame(camera)
        arrived.append(camera)
        return frame

    toolkit = make_toolkit(
        segmenter=PlainSegmenter(MASKS), frame_source=source, clock_ns=clock.read_ns, deadline_s=30
    )
    tool, answers = toolkit.get_tools()[0], []
    first = threading.Thread(target=lambda: call(tool, queries=["plate"]))
    first.start()
    assert started.wait(30)
    second = threading.Thread(target=lambda: answers.append(call(tool, queries=["mug"]).json))
    second.start()
    until = time.monotonic() + 30
    while len(arrived) < 2:
        assert time.monotonic() < until
        time.sleep(0.01)
    time.sleep(0.5)  # until the frame, which is new now, waits in the queue
    clock.pass_s(8)
    release.set()
    first.join(30)
    second.join(30)
    assert (answers[0]["status"], answers[0].get("age_s")) == ("ok", 0.0), answers[0]
    assert len(arrived) == 3


# ---------------------------------------------------------------------------------- asyncio programs


class HungSegmenter(FakeSegmenter):
    """Answers when it is released."""

    def __init__(self, release: threading.Event) -> None:
        super().__init__(MASKS)
        self._release = release

    def segment(self, source, queries, *, deadline_s):
        self._release.wait(60)
        return super().segment(source, queries, deadline_s=deadline_s)


@pytest.mark.asyncio
@pytest.mark.slow
async def test_async_calls_keep_their_own_deadline_under_load(make_toolkit, acall) -> None:
    """24 calls on a hung model with 2 s: the last ended after 8.3 s, as six threads served them all."""
    release = threading.Event()

    tool = make_toolkit(segmenter=HungSegmenter(release), deadline_s=2.0).get_tools()[0]
    free = asyncio.create_task(asyncio.to_thread(threading.get_ident))
    began = time.monotonic()
    try:
        results = await asyncio.gather(*(acall(tool, queries=["mug"]) for _ in range(24)))
        took_s = time.monotonic() - began
        await free
    finally:
        release.set()
    assert [result["code"] for result in results] == ["DEADLINE"] * 24
    assert took_s < 7


@pytest.mark.asyncio
@pytest.mark.slow
async def test_the_default_executor_stays_the_programs_own(make_toolkit, acall) -> None:
    release = threading.Event()

    tool = make_toolkit(segmenter=HungSegmenter(release), deadline_s=30).get_tools()[0]
    calls = [asyncio.create_task(acall(tool, queries=["mug"])) for _ in range(40)]
    try:
        done, waiting = await asyncio.wait(calls, timeout=1.0)
        codes = [json.loads(task.result().message.content)["code"] for task in done]
        assert codes == ["QUEUE_FULL"] * 8  # they are refused, and need not wait for it
        assert len(waiting) == 32
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 10) == "free"
    finally:
        release.set()
        await asyncio.gather(*calls)


@pytest.mark.asyncio
async def test_a_cancelled_call_gives_its_place_back() -> None:
    threads, release = CallThreads(max_calls=1), threading.Event()
    task = asyncio.create_task(threads.run(lambda: release.wait(30)))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()
    until = time.monotonic() + 30
    while True:
        try:
            assert await threads.run(lambda: "done") == "done"
            break
        except Exception:
            assert time.monotonic() < until
            await asyncio.sleep(0.01)
