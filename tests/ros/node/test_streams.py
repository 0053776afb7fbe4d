"""Streams of a node in its own process: newest frames, track ids, rates, priorities, shutdown."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from lifecycle_msgs.msg import Transition
from sensor_msgs.msg import Image
from std_msgs.msg import Header

import xsam_ros.msg as messages
from tests.ros import camera_driver
from tests.ros.image_driver import ImageDriver
from tests.ros.node_client import NodeClient
from xsam.worker import ModelWorker
from xsam_ros.cameras.camera import CameraFrame
from xsam_ros.messages.image_messages import image_from_array
from xsam_ros.node.camera_stream import CameraStream, Lease
from xsam_ros.node.metrics import NodeStatistics
from xsam_ros.node.parameters import NodeParameters
from xsam_ros.node.requests import FrameResults, NodeContext
from xsam_ros.node.stream_query import StreamQuery
from xsam_ros.srv import SetStreamQuery

Eventually = Callable[..., Any]
_RESULT = messages.SegmentationResult
_STREAM = SetStreamQuery.Response
_HW = (48, 96)


class MovingScene(ImageDriver):
    """A camera that sees a red square move back and forth, and a green one stand still."""

    def __init__(self, ros: Any) -> None:
        super().__init__(ros, Image(), "/front/image_raw")
        self.red = True
        self.sent: dict[tuple[int, int], int] = {}  # left edge of the red square by stamp

    def next(self, stamp: Any) -> Image:
        left = 5 + abs(len(self.sent) % 16 - 8)  # overlaps itself in all frames, however many are skipped
        rgb = np.full((*_HW, 3), 120, np.uint8)
        if self.red:
            rgb[10:25, left : left + 15] = (255, 0, 0)
        rgb[30:40, 60:80] = (0, 255, 0)
        self.sent[stamp.sec, stamp.nanosec] = left
        return image_from_array(rgb, "rgb8", Header(stamp=stamp, frame_id="front/optical frame"))


class StreamClient(NodeClient):
    """A client of the node that collects the results of the stream of camera "front"."""

    def __init__(self, ros: Any) -> None:
        super().__init__(ros)
        self.results: list[messages.SegmentationResult] = ros.collect(_RESULT, "/xsam/front/result")

    @property
    def stream(self) -> messages.StreamStatus:
        return self.stream_status("front")


@pytest.fixture(scope="module")
def camera(module_ros: Any) -> Iterator[MovingScene]:
    with MovingScene(module_ros) as camera:
        yield camera


@pytest.fixture(scope="module")
def process(module_spawn: Callable[..., Any]) -> Any:
    params = {"cameras": "[front, dark]", "queue_size": 2, "max_frame_age_s": 5.0}
    return module_spawn("tests/ros/color_node.py", params=params)


@pytest.fixture
def node(
    process: Any, camera: MovingScene, module_ros: Any, eventually: Eventually
) -> Iterator[StreamClient]:
    node = StreamClient(module_ros)
    eventually(lambda: node.active, "the active state", 60.0)
    eventually(lambda: node.status.cameras[0].frames, "frames")
    yield node
    node.set_stream()
    eventually(lambda: node.idle, "an idle model")


def _red_tracks(results: list[messages.SegmentationResult]) -> list[int]:
    return [item.track_id for result in results for item in result.instances if item.label == "red"]


def test_results_come_with_header_and_ids(
    node: StreamClient, camera: MovingScene, eventually: Eventually
) -> None:
    """The header is that of the image itself, and each object keeps one track id."""
    started = node.set_stream("red", "green")
    assert (started.status, started.code) == (_STREAM.STATUS_STARTED, "")
    assert started.result_topic == "/xsam/front/result"
    eventually(lambda: len(node.results) >= 30, "results")
    results = list(node.results)
    for result in results:
        assert result.header.frame_id == "front/optical frame"
        assert result.camera == "front"
        left = camera.sent[result.header.stamp.sec, result.header.stamp.nanosec]
        if result.query.text == "red":
            (red,) = result.instances
            assert (red.box.x_min, red.box.x_max) == (left, left + 15)
        else:
            assert [item.label for item in result.instances] == ["green"]
    tracks = {
        label: {item.track_id for result in results for item in result.instances if item.label == label}
        for label in ("red", "green")
    }
    assert {len(ids) for ids in tracks.values()} == {1}
    assert tracks["red"].isdisjoint(tracks["green"])
    assert 0 not in tracks["red"] | tracks["green"]
    stamps = [(r.header.stamp.sec, r.header.stamp.nanosec) for r in results if r.query.text == "red"]
    assert stamps == sorted(set(stamps)), "each frame once, in order"


def test_the_rate_is_kept_and_skipped_frames_are_counted(node: StreamClient, eventually: Eventually) -> None:
    node.set_stream("red", rate_hz=4.0)
    eventually(lambda: node.stream.answers >= 6, "results")
    status = node.stream
    assert (status.running, list(status.queries), status.requested_hz) == (True, ["red"], 4.0)
    assert 0.0 < status.rate_hz < 5.0
    assert status.dropped >= 2 * status.answers, "20 images a second, 4 results"
    assert status.latency_s > 0.0
    assert (status.refused, status.last_error) == (0, "")


def test_change_and_stop(node: StreamClient, eventually: Eventually) -> None:
    node.set_stream("red")
    eventually(lambda: _red_tracks(node.results), "the first stream")
    changed = node.set_stream("green")
    assert changed.status == _STREAM.STATUS_CHANGED
    node.results.clear()
    eventually(lambda: any(r.query.text == "green" for r in node.results), "the changed stream")
    stopped = node.set_stream()
    assert (stopped.status, stopped.code) == (_STREAM.STATUS_STOPPED, "")
    assert not node.stream.running
    again = node.set_stream()
    assert (again.status, bool(again.message)) == (_STREAM.STATUS_STOPPED, True)
    eventually(lambda: node.idle, "an idle model")
    node.results.clear()
    time.sleep(0.3)  # six images
    assert node.results == []


@pytest.mark.parametrize(
    ("camera_name", "texts", "rate_hz", "code"),
    [
        ("attic", ["red"], 0.0, "UNKNOWN_CAMERA"),
        ("attic", [], 0.0, "UNKNOWN_CAMERA"),
        ("front", [" "], 0.0, "INVALID_QUERY"),
        ("front", ["red", "x" * 3000], 0.0, "INVALID_QUERY"),
        ("front", ["red"] * 17, 0.0, "INVALID_QUERY"),
        ("front", ["red"], -1.0, "INVALID_QUERY"),
        ("front", ["red"], float("nan"), "INVALID_QUERY"),
    ],
)
def test_refusals_leave_a_running_stream_alone(
    node: StreamClient, eventually: Eventually, camera_name: str, texts: list[str], rate_hz: float, code: str
) -> None:
    node.set_stream("green")
    refused = node.set_stream(*texts, camera=camera_name, rate_hz=rate_hz)
    assert (refused.status, refused.code) == (_STREAM.STATUS_REFUSED, code)
    assert refused.message
    assert refused.result_topic == ""
    node.results.clear()
    eventually(lambda: len(node.results) > 2, "the stream to continue")
    assert {result.query.text for result in node.results} == {"green"}


def test_an_object_out_of_sight_for_a_moment_keeps_its_id(
    node: StreamClient, camera: MovingScene, eventually: Eventually
) -> None:
    node.set_stream("red")
    eventually(lambda: len(_red_tracks(node.results)) > 5, "results")
    camera.red = False
    eventually(lambda: node.results[-1].status == _RESULT.STATUS_NOT_FOUND, "a result without it")
    count = len(node.results)
    eventually(lambda: len(node.results) > count + 3, "some more")
    camera.red = True
    seen = len(_red_tracks(node.results))
    eventually(lambda: len(_red_tracks(node.results)) > seen + 3, "it to come back")
    assert len(set(_red_tracks(node.results))) == 1


def test_the_camera_stops_and_comes_back(
    node: StreamClient, camera: MovingScene, eventually: Eventually
) -> None:
    node.set_stream("red")
    eventually(lambda: node.stream.answers, "results")
    camera.stop()
    try:
        eventually(lambda: node.idle, "an idle model")
        answers = node.stream.answers
        time.sleep(0.5)
        assert node.stream.answers <= answers + 1
        assert node.stream.running
    finally:
        camera.start()
    eventually(lambda: node.stream.answers > answers + 3, "new results")
    assert node.stream.last_error == ""


def test_requests_go_first_and_have_the_queue_for_themselves(
    node: StreamClient, eventually: Eventually
) -> None:
    node.set_stream("slow red")
    eventually(lambda: node.status.busy, "the stream to run")
    futures = [node.segment_later("red") for _ in range(2)]
    eventually(lambda: node.status.waiting == 2, "two waiting requests")
    third = node.segment_later("red")
    eventually(third.done, "the refusal", 1.0)
    assert third.result().code == "QUEUE_FULL"
    answers = node.stream.answers
    eventually(lambda: all(future.done() for future in futures), "both responses")
    assert [future.result().code for future in futures] == ["", ""]
    assert node.stream.answers <= answers + 1, "the running frame was finished, and no other was started"


def test_failing_is_not_finding_nothing(node: StreamClient, eventually: Eventually) -> None:
    """A failure publishes no empty result; the status reports it, and the stream continues."""
    node.set_stream("broken")
    eventually(lambda: node.stream.refused > 1, "failures")
    status = node.stream
    assert status.running
    assert status.answers == 0
    assert "MODEL_ERROR" in status.last_error
    assert "wrong device" in status.last_error
    assert not any(result.query.text == "broken" for result in node.results)
    node.set_stream("blue")
    eventually(lambda: any(result.query.text == "blue" for result in node.results), "results")
    nothing = next(result for result in node.results if result.query.text == "blue")
    assert nothing.status == _RESULT.STATUS_NOT_FOUND
    assert nothing.message
    assert node.stream.last_error == ""


def test_deactivating_ends_the_stream_and_parameters_start_one(
    node: StreamClient, eventually: Eventually
) -> None:
    node.set_stream("slow red")
    eventually(lambda: node.status.busy, "the stream to run")
    assert node.change(Transition.TRANSITION_DEACTIVATE)
    assert not node.stream.running
    refused = node.set_stream("red")
    assert (refused.status, refused.code) == (_STREAM.STATUS_REFUSED, "NOT_ACTIVE")
    assert node.change(Transition.TRANSITION_ACTIVATE)
    assert not node.stream.running
    assert node.change(Transition.TRANSITION_DEACTIVATE)
    assert node.change(Transition.TRANSITION_CLEANUP)
    assert node.set("front.stream_text", "green").successful
    assert node.set("front.stream_rate_hz", 10.0).successful
    node.results.clear()
    assert node.change(Transition.TRANSITION_CONFIGURE)
    assert node.change(Transition.TRANSITION_ACTIVATE)
    eventually(lambda: node.results, "results of the configured stream")
    assert {result.query.text for result in node.results} == {"green"}
    assert (node.stream.running, node.stream.requested_hz) == (True, 10.0)


class _WeakMessage:
    """Stands in for a result message; real ones cannot be referenced weakly."""


def test_a_waiting_stream_keeps_no_results(monkeypatch: pytest.MonkeyPatch, eventually: Eventually) -> None:
    """A camera may stop for hours: image and results must not be kept until its next frame."""
    references: list[weakref.ref[_WeakMessage]] = []

    class FakeHandler:
        """Returns results at once."""

        def segment(self, source: CameraFrame, *_: Any, **__: Any) -> FrameResults:
            message: Any = _WeakMessage()
            references.append(weakref.ref(message))
            return FrameResults(source=source, results=[], messages=[message], stages_s={})

    handler: Any = FakeHandler()
    driver = camera_driver.BufferedCamera(camera_driver.FakeClock.installed(monkeypatch))
    worker = ModelWorker(queue_size=1, log_error=print)
    worker.accept()
    context = NodeContext(
        handler=handler, worker=worker, publishers={}, parameters=NodeParameters, statistics=NodeStatistics()
    )
    stream = CameraStream(
        driver.buffer,
        StreamQuery([messages.SegmentQuery(text="red")], 0.0),
        context,
        stream_id="1",
        owner="",
        lease=Lease(),
        log_error=print,
    )
    driver.color()
    eventually(lambda: stream.statistics().answers, "a result")
    eventually(lambda: references and references[0]() is None, "the result to be released")
    stream.stop()
    assert worker.close(timeout_s=10.0)
