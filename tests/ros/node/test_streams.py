"""Streams of a node in a process of its own: newest frames, track ids, rates, priorities, ends."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters
from sensor_msgs.msg import Image
from std_msgs.msg import Header

import xsam_ros.msg as messages
from tests.ros import camera_driver
from tests.ros.image_driver import ImageDriver
from xsam_ros.cameras.camera import CameraFrame
from xsam_ros.messages.images import image_from_array
from xsam_ros.node.metrics import NodeStatistics
from xsam_ros.node.parameters import NodeParameters
from xsam_ros.node.requests import FrameResults, NodeContext
from xsam_ros.node.streams import CameraStream, StreamQuery
from xsam_ros.node.worker import ModelWorker
from xsam_ros.srv import GetStatus, Segment, SetStreamQuery

Eventually = Callable[..., Any]
_RESULT = messages.SegmentationResult
_STREAM = SetStreamQuery.Response
_HW = (48, 96)


def _ask(text: str) -> messages.SegmentQuery:
    return messages.SegmentQuery(text=text)


class Camera(ImageDriver):
    """A red square drifts to and fro, a green one stands still."""

    def __init__(self, ros: Any) -> None:
        super().__init__(ros, Image(), "/front/image_raw")
        self.red = True
        self.sent: dict[tuple[int, int], int] = {}  # left edge of the red square by stamp

    def next(self, stamp: Any) -> Image:
        left = 5 + abs(len(self.sent) % 80 - 40)
        rgb = np.full((*_HW, 3), 120, np.uint8)
        if self.red:
            rgb[10:25, left : left + 15] = (255, 0, 0)
        rgb[30:40, 60:80] = (0, 255, 0)
        self.sent[stamp.sec, stamp.nanosec] = left
        return image_from_array(rgb, "rgb8", Header(stamp=stamp, frame_id="front/optical frame"))


class Node:
    """Shorthand for talking to the node under test."""

    def __init__(self, ros: Any) -> None:
        self._ros = ros
        self.results: list[messages.SegmentationResult] = ros.collect(_RESULT, "/xsam/front/result")

    def stream(self, *texts: str, camera: str = "front", rate_hz: float = 0.0) -> SetStreamQuery.Response:
        request = SetStreamQuery.Request(camera=camera, rate_hz=rate_hz)
        request.queries = [_ask(text) for text in texts]
        return self._ros.call(SetStreamQuery, "/xsam/set_stream_query", request)

    @property
    def node_status(self) -> GetStatus.Response:
        return self._ros.call(GetStatus, "/xsam/get_status", GetStatus.Request())

    @property
    def status(self) -> messages.StreamStatus:
        return next(item for item in self.node_status.cameras if item.name == "front").stream

    def change(self, transition: int) -> None:
        request = ChangeState.Request(transition=Transition(id=transition))
        assert self._ros.call(ChangeState, "/xsam/change_state", request).success

    def put(self, name: str, **value: Any) -> Any:
        request = SetParameters.Request(parameters=[Parameter(name=name, value=ParameterValue(**value))])
        return self._ros.call(SetParameters, "/xsam/set_parameters", request).results[0]

    def later(self, text: str) -> Any:
        client = self._ros.node.create_client(Segment, "/xsam/segment")
        assert client.wait_for_service(5.0)
        image = image_from_array(np.full((8, 8, 3), (255, 0, 0), np.uint8), "rgb8")
        return client.call_async(Segment.Request(queries=[_ask(text)], image=image))


@pytest.fixture(scope="module")
def camera(module_ros: Any) -> Iterator[Camera]:
    with Camera(module_ros) as camera:
        yield camera


@pytest.fixture(scope="module")
def process(module_spawn: Callable[..., Any]) -> Any:
    params = {"cameras": "[front, dark]", "queue_size": 2, "max_frame_age_s": 5.0}
    return module_spawn("tests/ros/color_node.py", params=params)


@pytest.fixture
def node(process: Any, camera: Camera, module_ros: Any, eventually: Eventually) -> Iterator[Node]:
    node = Node(module_ros)
    eventually(lambda: node.node_status.state == "active", "the active state", 60.0)
    eventually(lambda: node.node_status.cameras[0].frames, "frames")
    yield node
    node.stream()
    eventually(lambda: not node.node_status.busy, "an idle model")


def _red_tracks(results: list[messages.SegmentationResult]) -> list[int]:
    return [item.track_id for result in results for item in result.instances if item.label == "red"]


def test_results_come_with_header_and_ids(node: Node, camera: Camera, eventually: Eventually) -> None:
    """The header is that of the very image, and each object has one number in all answers."""
    started = node.stream("red", "green")
    assert (started.status, started.code) == (_STREAM.STATUS_STARTED, "")
    assert started.result_topic == "/xsam/front/result"
    eventually(lambda: len(node.results) >= 30, "answers")
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


def test_the_rate_is_kept_and_passed_over_frames_are_counted(node: Node, eventually: Eventually) -> None:
    node.stream("red", rate_hz=4.0)
    eventually(lambda: node.status.answers >= 6, "answers")
    status = node.status
    assert (status.running, list(status.queries), status.requested_hz) == (True, ["red"], 4.0)
    assert 0.0 < status.rate_hz < 5.0
    assert status.dropped >= 2 * status.answers, "20 images a second, 4 answers"
    assert status.latency_s > 0.0
    assert (status.refused, status.last_error) == (0, "")


def test_change_and_stop(node: Node, eventually: Eventually) -> None:
    node.stream("red")
    eventually(lambda: _red_tracks(node.results), "the first stream")
    changed = node.stream("green")
    assert changed.status == _STREAM.STATUS_CHANGED
    node.results.clear()
    eventually(lambda: any(r.query.text == "green" for r in node.results), "the changed stream")
    stopped = node.stream()
    assert (stopped.status, stopped.code) == (_STREAM.STATUS_STOPPED, "")
    assert not node.status.running
    again = node.stream()
    assert (again.status, bool(again.message)) == (_STREAM.STATUS_STOPPED, True)
    eventually(lambda: not node.node_status.busy, "an idle model")
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
    node: Node, eventually: Eventually, camera_name: str, texts: list[str], rate_hz: float, code: str
) -> None:
    node.stream("green")
    refused = node.stream(*texts, camera=camera_name, rate_hz=rate_hz)
    assert (refused.status, refused.code) == (_STREAM.STATUS_REFUSED, code)
    assert refused.message
    assert refused.result_topic == ""
    node.results.clear()
    eventually(lambda: len(node.results) > 2, "the stream to go on")
    assert {result.query.text for result in node.results} == {"green"}


def test_an_object_out_of_sight_for_a_moment_keeps_its_id(
    node: Node, camera: Camera, eventually: Eventually
) -> None:
    node.stream("red")
    eventually(lambda: len(_red_tracks(node.results)) > 5, "answers")
    camera.red = False
    eventually(lambda: node.results[-1].status == _RESULT.STATUS_NOT_FOUND, "an answer without it")
    count = len(node.results)
    eventually(lambda: len(node.results) > count + 3, "some more")
    camera.red = True
    seen = len(_red_tracks(node.results))
    eventually(lambda: len(_red_tracks(node.results)) > seen + 3, "it to come back")
    assert len(set(_red_tracks(node.results))) == 1


def test_the_camera_stops_and_comes_back(node: Node, camera: Camera, eventually: Eventually) -> None:
    node.stream("red")
    eventually(lambda: node.status.answers, "answers")
    camera.stop()
    try:
        eventually(lambda: not node.node_status.busy, "an idle model")
        answers = node.status.answers
        time.sleep(0.5)
        assert node.status.answers <= answers + 1
        assert node.status.running
    finally:
        camera.start()
    eventually(lambda: node.status.answers > answers + 3, "new answers")
    assert node.status.last_error == ""


def test_requests_go_first_and_have_the_queue_for_themselves(node: Node, eventually: Eventually) -> None:
    node.stream("slow red")
    eventually(lambda: node.node_status.busy, "the stream to run")
    futures = [node.later("red") for _ in range(2)]
    eventually(lambda: node.node_status.waiting == 2, "two waiting requests")
    third = node.later("red")
    eventually(third.done, "the refusal", 1.0)
    assert third.result().code == "QUEUE_FULL"
    answers = node.status.answers
    eventually(lambda: all(future.done() for future in futures), "both answers")
    assert [future.result().code for future in futures] == ["", ""]
    assert node.status.answers <= answers + 1, "the running frame was finished, and no other began"


def test_failing_is_not_finding_nothing(node: Node, eventually: Eventually) -> None:
    """A model that fails publishes no empty answer; the status says what happened, and the stream goes on."""
    node.stream("broken")
    eventually(lambda: node.status.refused > 1, "failures")
    status = node.status
    assert status.running
    assert status.answers == 0
    assert "MODEL_ERROR" in status.last_error
    assert "wrong device" in status.last_error
    assert not any(result.query.text == "broken" for result in node.results)
    node.stream("blue")
    eventually(lambda: any(result.query.text == "blue" for result in node.results), "answers")
    nothing = next(result for result in node.results if result.query.text == "blue")
    assert nothing.status == _RESULT.STATUS_NOT_FOUND
    assert nothing.message
    assert node.status.last_error == ""


def test_deactivating_ends_the_stream_and_parameters_begin_one(node: Node, eventually: Eventually) -> None:
    node.stream("slow red")
    eventually(lambda: node.node_status.busy, "the stream to run")
    node.change(Transition.TRANSITION_DEACTIVATE)
    assert not node.status.running
    refused = node.stream("red")
    assert (refused.status, refused.code) == (_STREAM.STATUS_REFUSED, "NOT_ACTIVE")
    node.change(Transition.TRANSITION_ACTIVATE)
    assert not node.status.running
    node.change(Transition.TRANSITION_DEACTIVATE)
    node.change(Transition.TRANSITION_CLEANUP)
    assert node.put("front.stream_text", type=4, string_value="green").successful
    assert node.put("front.stream_rate_hz", type=3, double_value=10.0).successful
    node.results.clear()
    node.change(Transition.TRANSITION_CONFIGURE)
    node.change(Transition.TRANSITION_ACTIVATE)
    eventually(lambda: node.results, "answers of the configured stream")
    assert {result.query.text for result in node.results} == {"green"}
    assert (node.status.running, node.status.requested_hz) == (True, 10.0)


class _Message:
    """Stands for an answer; the standard ones can't be watched by a weak reference."""


def test_a_stream_that_waits_holds_no_answer(monkeypatch: pytest.MonkeyPatch, eventually: Eventually) -> None:
    """A camera may stop for hours: image and answer are not kept for it."""
    given: list[weakref.ref[_Message]] = []

    class Model:
        """Answers at once."""

        def segment(self, source: CameraFrame, *_: Any, **__: Any) -> FrameResults:
            message: Any = _Message()
            given.append(weakref.ref(message))
            return FrameResults(source=source, results=[], messages=[message], stages_s={})

    model: Any = Model()
    driver = camera_driver.BufferedCamera(camera_driver.FakeClock.installed(monkeypatch))
    worker = ModelWorker(queue_size=1, log_error=print)
    worker.accept()
    context = NodeContext(
        handler=model, worker=worker, publishers={}, parameters=NodeParameters, statistics=NodeStatistics()
    )
    stream = CameraStream(
        driver.buffer, StreamQuery.from_messages([_ask("red")], 0.0), context, log_error=print
    )
    driver.color()
    eventually(lambda: stream.statistics().answers, "an answer")
    eventually(lambda: given and given[0]() is None, "the answer to be given up")
    stream.stop()
    assert worker.close(timeout_s=10.0)
