"""Streams have an id and an owner: nobody takes one over in silence, and each end is told with its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from lifecycle_msgs.msg import Transition
from sensor_msgs.msg import Image
from std_msgs.msg import Header

import xsam_ros.msg as messages
from tests.ros.image_driver import ImageDriver
from tests.ros.node_client import NodeClient
from xsam_ros.messages.image_messages import image_from_array
from xsam_ros.runtime.qos import STREAM_STATUS_QOS
from xsam_ros.srv import SetStreamQuery

Eventually = Callable[..., Any]
_RESPONSE = SetStreamQuery.Response
_STATUS = messages.StreamStatus


class OwnerClient(NodeClient):
    """A client of the node that collects what is published of camera "front"."""

    def __init__(self, ros: Any) -> None:
        super().__init__(ros)
        self.results: list[messages.SegmentationResult] = ros.collect(
            messages.SegmentationResult, "/xsam/front/result"
        )
        self.labels: list[Image] = ros.collect(Image, "/xsam/front/label_image")
        self.events: list[messages.StreamStatus] = ros.collect(
            _STATUS, "/xsam/front/stream", qos=STREAM_STATUS_QOS
        )

    @property
    def stream(self) -> messages.StreamStatus:
        return self.stream_status()

    def ask(self, *texts: str, camera: str = "front", **fields: Any) -> SetStreamQuery.Response:
        request = SetStreamQuery.Request(camera=camera, **fields)
        request.queries = [messages.SegmentQuery(text=text) for text in texts]
        return self._ros.call(SetStreamQuery, "/xsam/set_stream_query", request)

    def end_of(self, stream_id: str) -> messages.StreamStatus | None:
        return next((e for e in self.events if e.stream_id == stream_id and not e.running), None)


@pytest.fixture(scope="module")
def camera(module_ros: Any) -> Iterator[ImageDriver]:
    rgb = np.full((24, 32, 3), 120, np.uint8)
    rgb[5:15, 5:15], rgb[18:22, 20:30] = (255, 0, 0), (0, 255, 0)
    image = image_from_array(rgb, "rgb8", Header(frame_id="lens_optical"))
    with ImageDriver(module_ros, image, "/front/image_raw") as camera:
        yield camera


@pytest.fixture(scope="module")
def process(module_spawn: Callable[..., Any]) -> Any:
    params = {"cameras": "[front, dark]", "dark.stream_text": "red", "max_frame_age_s": 5.0}
    return module_spawn("tests/ros/color_node.py", params=params)


@pytest.fixture
def node(process: Any, camera: ImageDriver, module_ros: Any, eventually: Eventually) -> Iterator[OwnerClient]:
    node = OwnerClient(module_ros)
    eventually(lambda: node.active, "the active state", 60.0)
    eventually(lambda: node.status.cameras[0].frames, "frames")
    yield node
    node.ask(replace=True)


def test_a_second_owner_is_refused_and_told_who_has_the_camera(
    node: OwnerClient, eventually: Eventually
) -> None:
    """The second call once took the stream over in silence."""
    first = node.ask("red", owner="picker", stream_id="p1", lease_s=60.0)
    assert first.status == _RESPONSE.STATUS_STARTED
    assert (first.stream.stream_id, first.stream.owner, first.stream.running) == ("p1", "picker", True)
    assert (first.result_topic, first.stream_topic) == ("/xsam/front/result", "/xsam/front/stream")
    for fields in ({"owner": "navigator"}, {}, {"owner": "picker", "stream_id": "p2"}):
        refused = node.ask("green", **fields)
        assert (refused.status, refused.code) == (_RESPONSE.STATUS_REFUSED, "STREAM_TAKEN")
        assert "'picker'" in refused.message
        assert "replace" in refused.hint
        assert (refused.stream.owner, refused.stream.stream_id, refused.result_topic) == ("picker", "p1", "")
    for fields in ({}, {"owner": "navigator"}, {"owner": "navigator", "stream_id": "p1"}):
        assert node.ask(**fields).code == "STREAM_TAKEN", "stopping is no better"
    node.results.clear()
    eventually(lambda: len(node.results) > 3, "the stream to continue")
    assert {(r.query.text, r.stream_id) for r in node.results} == {("red", "p1")}
    assert node.stream.owner == "picker"
    assert 0.0 < node.stream.age_s < 60.0
    assert 0.0 < node.stream.lease_left_s <= 60.0


def test_replacing_tells_the_owner(node: OwnerClient, eventually: Eventually) -> None:
    node.ask("red", owner="picker", stream_id="r1")
    replaced = node.ask("green", owner="navigator", stream_id="r2", replace=True)
    assert (replaced.status, replaced.stream.owner) == (_RESPONSE.STATUS_CHANGED, "navigator")
    end = eventually(lambda: node.end_of("r1"), "the end of the first stream")
    assert (end.end, end.owner) == (_STATUS.END_REPLACED, "picker")
    assert "'navigator'" in end.end_message
    late = node.ask(owner="picker", stream_id="r1", renew=True)
    assert (late.status, late.code) == (_RESPONSE.STATUS_REFUSED, "STREAM_ENDED")
    assert late.stream.end == _STATUS.END_REPLACED
    stopped = node.ask(owner="picker", stream_id="r1")
    assert stopped.status == _RESPONSE.STATUS_STOPPED, "which stops nothing"
    assert stopped.message == "no stream was running"
    assert node.stream.stream_id == "r2"
    taken = node.ask(owner="somebody", replace=True)
    assert taken.stream.end == _STATUS.END_REPLACED
    assert eventually(lambda: node.end_of("r2"), "the end of the second").end == _STATUS.END_REPLACED


def test_an_owner_changes_its_stream_and_keeps_its_id(node: OwnerClient, eventually: Eventually) -> None:
    """A lost request may be sent again: the same id is the same stream."""
    node.ask("red", owner="picker", stream_id="c1")
    for _ in range(2):
        changed = node.ask("green", owner="picker", stream_id="c1", rate_hz=20.0)
        assert (changed.status, changed.stream.stream_id) == (_RESPONSE.STATUS_CHANGED, "c1")
    assert node.end_of("c1") is None
    unnamed = node.ask("red", owner="picker")
    assert unnamed.stream.stream_id not in ("", "c1")
    assert eventually(lambda: node.end_of("c1"), "the end").end == _STATUS.END_REPLACED
    assert node.ask(owner="picker").status == _RESPONSE.STATUS_STOPPED
    assert node.stream.end == _STATUS.END_STOPPED


def test_a_lease_that_is_not_renewed_ends_the_stream(node: OwnerClient, eventually: Eventually) -> None:
    """A stream whose client had died went on for ever."""
    node.ask("red", owner="picker", stream_id="l1", lease_s=1.5)
    for _ in range(8):
        renewed = node.ask(owner="picker", stream_id="l1", renew=True)
        assert renewed.status == _RESPONSE.STATUS_RENEWED
        assert renewed.stream.lease_left_s == pytest.approx(1.5, abs=0.3)
        answers = node.stream.answers
        eventually(lambda answers=answers: node.stream.answers > answers + 4, "some results")
    end = eventually(lambda: node.end_of("l1"), "the end", 10.0)
    assert end.end == _STATUS.END_LEASE_EXPIRED
    assert "'picker' did not renew its lease of 1.5 s" in end.end_message
    status = node.stream
    assert (status.running, status.end, status.owner) == (False, _STATUS.END_LEASE_EXPIRED, "picker")
    assert node.ask("red", owner="navigator").status == _RESPONSE.STATUS_STARTED
    assert node.ask(owner="navigator").status == _RESPONSE.STATUS_STOPPED


def test_only_the_owner_renews(node: OwnerClient) -> None:
    node.ask("red", owner="picker", stream_id="o1", lease_s=30.0)
    assert node.ask(owner="thief", stream_id="o1", renew=True).code == "STREAM_ENDED"
    assert node.ask(owner="picker", renew=True).code == "INVALID_QUERY"
    unknown = node.ask(owner="picker", stream_id="from before a restart", renew=True)
    assert (unknown.code, unknown.stream.end) == ("STREAM_ENDED", _STATUS.END_NODE_LOST)
    assert node.ask(owner="picker", stream_id="o1", renew=True, camera="attic").code == "UNKNOWN_CAMERA"


@pytest.mark.parametrize(
    "fields",
    [
        {"lease_s": 0.5},
        {"lease_s": -1.0},
        {"lease_s": float("nan")},
        {"lease_s": float("inf")},
        {"lease_s": 1e9},
        {"owner": "x" * 129},
        {"owner": "two\nlines"},
        {"stream_id": "x" * 65},
        {"stream_id": "bell\a"},
    ],
    ids=repr,
)
def test_what_is_out_of_bounds_is_refused(node: OwnerClient, fields: dict[str, Any]) -> None:
    response = node.ask("red", **fields)
    assert (response.status, response.code) == (_RESPONSE.STATUS_REFUSED, "INVALID_QUERY")
    assert next(iter(fields)) in response.message
    assert node.stream.running is False


def test_results_of_requests_do_not_mix_with_those_of_the_stream(
    node: OwnerClient, eventually: Eventually
) -> None:
    """Images cannot say whose they are: a Nav2 layer lost its floor for every question somebody asked."""
    node.ask("green", owner="navigator", stream_id="m1")
    eventually(lambda: node.labels, "label images of the stream")
    node.results.clear()
    for _ in range(5):
        answer = node.segment("red", camera="front")
        assert answer.results[0].stream_id == ""
    eventually(lambda: sum(r.stream_id == "" for r in node.results) == 5, "results of the requests")
    assert {r.query.text for r in node.results if r.stream_id == "m1"} == {"green"}
    count = len(node.labels)
    eventually(lambda: len(node.labels) > count + 2, "more label images")
    assert not any(_sees_red(labels) for labels in node.labels)
    node.ask(owner="navigator")
    node.segment("red", camera="front")
    eventually(lambda: any(map(_sees_red, node.labels)), "that of a request, without a stream")


def _sees_red(labels: Image) -> bool:
    """Return whether a label image has an instance where the red square is."""
    ids = np.frombuffer(labels.data, np.uint16).reshape(labels.height, labels.width)
    return bool(ids[10, 10])


def test_deactivation_ends_streams_and_says_so(
    node: OwnerClient, module_ros: Any, eventually: Eventually
) -> None:
    """After deactivate and activate a stream was gone without notice."""
    node.ask("red", owner="picker", stream_id="d1", lease_s=60.0)
    configured = node.stream_status("dark")
    assert (configured.owner, configured.running) == ("parameter dark.stream_text", True)
    assert node.change(Transition.TRANSITION_DEACTIVATE)
    end = eventually(lambda: node.end_of("d1"), "the end")
    assert (end.end, end.end_message) == (_STATUS.END_DEACTIVATED, "the node was deactivated")
    assert node.ask("red", owner="picker", stream_id="d2").code == "NOT_ACTIVE"
    late = node.ask(owner="picker", stream_id="d1", renew=True)
    assert (late.code, late.stream.end) == ("STREAM_ENDED", _STATUS.END_DEACTIVATED)
    assert node.change(Transition.TRANSITION_ACTIVATE)
    assert node.stream.end == _STATUS.END_DEACTIVATED, "the status still says why"
    late = node.ask(owner="picker", stream_id="d1", renew=True)
    assert (late.code, late.stream.end) == ("STREAM_ENDED", _STATUS.END_DEACTIVATED)
    events = module_ros.collect(_STATUS, "/xsam/front/stream", qos=STREAM_STATUS_QOS)
    eventually(lambda: any(e.stream_id == "d1" and not e.running for e in events), "the latched end")
    again = node.stream_status("dark")
    assert again.running, "what is configured starts again"
    assert again.stream_id != configured.stream_id


def test_a_silent_camera_is_named_and_does_not_end_the_stream(
    node: OwnerClient, eventually: Eventually
) -> None:
    eventually(lambda: "NO_FRAME" in node.stream_status("dark").last_error, "the reason")
    status = node.stream_status("dark")
    assert "/dark/image_raw" in status.last_error
    assert status.running


def test_the_stream_of_a_parameter_gives_way(node: OwnerClient) -> None:
    """Nobody waits for it: the README's calls replace the one in config/demo.yaml."""
    assert node.stream_status("dark").running
    changed = node.ask("green", camera="dark", owner="picker")
    assert (changed.status, changed.stream.owner) == (_RESPONSE.STATUS_CHANGED, "picker")
    assert node.ask("red", camera="dark").code == "STREAM_TAKEN"
    assert node.ask(camera="dark", owner="picker").status == _RESPONSE.STATUS_STOPPED
