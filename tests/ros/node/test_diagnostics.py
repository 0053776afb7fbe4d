"""`/diagnostics` of a node and its cameras says what is wrong and what to do."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus

from support.ros_peer import RosPeer
from xsam_ros.cameras.buffer import TopicStatistics
from xsam_ros.cameras.camera import CameraStatistics
from xsam_ros.messages.streams import StreamEnd
from xsam_ros.node.diagnostics import Diagnostics, camera_status, model_status
from xsam_ros.node.memory import MemoryStatistics
from xsam_ros.node.metrics import NodeStatistics, StreamStatistics

NO_STREAM = StreamStatistics()

TOPIC = TopicStatistics(
    topic="/front/image_raw",
    received=50,
    received_bytes=1,
    lost=0,
    rate_hz=9.9,
    age_s=0.05,
    held=1,
    held_bytes=1,
    incompatible_qos="",
    incompatible_publishers=0,
)
CAMERA = CameraStatistics(
    name="front",
    image=TOPIC,
    depth=None,
    info=None,
    used=10,
    overwritten=39,
    with_depth=0,
    decode_errors=0,
    last_error="",
    no_depth_reason="",
    no_intrinsics_reason="",
    notes=(),
)


def _camera(**image: Any) -> CameraStatistics:
    return replace(CAMERA, image=replace(TOPIC, **image))


@pytest.mark.parametrize(
    ("camera", "stream", "level", "text"),
    [
        (CAMERA, NO_STREAM, DiagnosticStatus.OK, "9.90 Hz"),
        (_camera(received=0, age_s=math.nan), NO_STREAM, DiagnosticStatus.STALE, "is its driver running"),
        (_camera(age_s=2.0), NO_STREAM, DiagnosticStatus.WARN, "no frame on /front/image_raw for 2.0 s"),
        (_camera(age_s=40.0), NO_STREAM, DiagnosticStatus.ERROR, "for 40 s"),
        (
            _camera(received=0, incompatible_qos="RELIABILITY", incompatible_publishers=1),
            NO_STREAM,
            DiagnosticStatus.ERROR,
            "1 publisher(s) on /front/image_raw offer an incompatible RELIABILITY",
        ),
        (
            replace(CAMERA, decode_errors=3, last_error="encoding 8UC7"),
            NO_STREAM,
            DiagnosticStatus.WARN,
            "3 messages could not be decoded: encoding 8UC7",
        ),
        (
            CAMERA,
            StreamStatistics(running=True, last_error="MODEL_ERROR: broken"),
            DiagnosticStatus.WARN,
            "the stream has no results: MODEL_ERROR: broken",
        ),
        (
            CAMERA,
            StreamStatistics(
                running=True, memory=MemoryStatistics(no_memory_reason="query 2: too large", is_full=True)
            ),
            DiagnosticStatus.WARN,
            "queries of the stream have no memory of earlier frames: query 2: too large",
        ),
        (
            replace(CAMERA, depth=replace(TOPIC, topic="/front/depth", received=0)),
            NO_STREAM,
            DiagnosticStatus.WARN,
            "no message on /front/depth yet",
        ),
        (
            _camera(received=0, age_s=math.nan, problem="/front/image_raw is published as a/msg/B"),
            NO_STREAM,
            DiagnosticStatus.STALE,
            "no frame on /front/image_raw yet; /front/image_raw is published as a/msg/B",
        ),
        (
            replace(CAMERA, depth=replace(TOPIC, topic="/front/depth"), no_depth_reason="0.5 s away"),
            NO_STREAM,
            DiagnosticStatus.WARN,
            "the last frame had no depth: 0.5 s away",
        ),
        (
            replace(CAMERA, info=replace(TOPIC, topic="/front/info"), no_intrinsics_reason="K is identity"),
            NO_STREAM,
            DiagnosticStatus.WARN,
            "no camera matrix: K is identity",
        ),
        (
            _camera(problem="2 publishers send to /front/image_raw"),
            NO_STREAM,
            DiagnosticStatus.WARN,
            "2 publishers",
        ),
    ],
)
def test_a_camera(camera: CameraStatistics, stream: StreamStatistics, level: bytes, text: str) -> None:
    status = camera_status("/xsam", camera, stream)
    assert status.level == level
    assert text in status.message
    assert status.name == "/xsam: camera front"
    values = {pair.key: pair.value for pair in status.values}
    assert values["image topic"] == "/front/image_raw"


def test_notes_are_listed() -> None:
    status = camera_status("/xsam", replace(CAMERA, notes=("not optical", "resized")), NO_STREAM)
    assert {pair.key: pair.value for pair in status.values}["notes"] == "not optical; resized"


def test_the_owner_of_a_stream_and_the_end_of_the_last_one_are_named() -> None:
    def values(stream: StreamStatistics) -> dict[str, str]:
        return {pair.key: pair.value for pair in camera_status("/xsam", CAMERA, stream).values}

    assert values(StreamStatistics(running=True, owner="picker"))["stream owner"] == "picker"
    ended = values(StreamStatistics(end=StreamEnd.REPLACED, end_message="'navigator' replaced it"))
    assert "'navigator' replaced it" in ended["stream"]
    assert "stream" not in values(NO_STREAM)


def test_the_memory_of_streams_is_told() -> None:
    memory = MemoryStatistics(sessions=2, nbytes=503_500_000, no_memory_reason="query 3: a chat")
    streams = {"front": StreamStatistics(running=True, memory=memory), "rear": NO_STREAM}
    camera = {pair.key: pair.value for pair in camera_status("/xsam", CAMERA, streams["front"]).values}
    assert (camera["stream sessions"], camera["stream memory [MB]"]) == ("2", "504")
    assert camera["stream without memory"] == "query 3: a chat"
    now = NodeStatistics(streams=lambda: streams).snapshot()
    model = {pair.key: pair.value for pair in model_status("/xsam", "x2sam on cpu", now, None).values}
    assert (model["sessions that remember frames"], model["memory of sessions [MB]"]) == ("2", "504")


def test_errors_of_the_last_second_decide_the_level() -> None:
    statistics = NodeStatistics()
    statistics.count_request("MODEL_ERROR")
    old = statistics.snapshot()
    assert model_status("/xsam", "tiny", old, None).level == DiagnosticStatus.ERROR
    statistics.count_request("")
    recovered = statistics.snapshot()
    assert model_status("/xsam", "tiny", recovered, old).level == DiagnosticStatus.OK
    statistics.count_request("QUEUE_FULL")
    full = model_status("/xsam", "tiny", statistics.snapshot(), recovered)
    assert full.level == DiagnosticStatus.WARN
    assert "1 × QUEUE_FULL" in full.message


def test_out_of_memory_is_named() -> None:
    """It was reported as "the model failed" once."""
    statistics = NodeStatistics()
    statistics.count_request("OUT_OF_MEMORY")
    status = model_status("/xsam", "tiny", statistics.snapshot(), None)
    assert status.level == DiagnosticStatus.ERROR
    assert status.message.startswith("out of memory")


def test_latency_and_memory_are_numbers() -> None:
    statistics = NodeStatistics()
    for milliseconds in range(1, 101):
        statistics.add_times({"inference": milliseconds / 1000})
    values = {
        pair.key: pair.value for pair in model_status("/xsam", "tiny", statistics.snapshot(), None).values
    }
    assert values["inference p50 / p99 [ms]"] == "50.5 / 99.0"
    assert float(values["resident memory [MB]"]) > 10.0


def _diagnostics(node: Any, problems: Sequence[str] = ()) -> Diagnostics:
    return Diagnostics(node, NodeStatistics(), {}, model=lambda: "none", transforms=lambda: problems)


def test_missing_transforms_are_named(ros: Any) -> None:
    """The reason was in each location only."""
    problems = ["no transform from 'lens' to 'map': not connected", "no transform from 'rear' to 'map': old"]
    _, status = _diagnostics(ros.node, problems).statuses()
    assert status.name.endswith(": transforms")
    assert (status.level, status.message) == (DiagnosticStatus.WARN, problems[1])
    assert [pair.value for pair in status.values] == problems
    assert len(_diagnostics(ros.node).statuses()) == 1


def test_two_nodes_of_one_name_are_noticed(ros: Any, eventually: Callable[..., Any]) -> None:
    """Services of one name: requests went to either of them."""
    first = rclpy.create_node("eyes", context=ros.context, namespace="robot1")
    other = rclpy.create_node("eyes", context=ros.context, namespace="robot2")
    diagnostics = _diagnostics(first)
    eventually(lambda: ("eyes", "/robot2") in first.get_node_names_and_namespaces(), "the other node")
    assert diagnostics.statuses()[0].level == DiagnosticStatus.OK
    with RosPeer() as peer:  # in a context of its own, as another process
        twin = rclpy.create_node("eyes", context=peer.context, namespace="robot1")
        eventually(lambda: diagnostics.statuses()[0].level == DiagnosticStatus.WARN, "the twin")
        status = diagnostics.statuses()[0]
        assert status.message.startswith("2 nodes are called /robot1/eyes")
        assert "__node" in status.message
        twin.destroy_node()
    for node in (first, other):
        node.destroy_node()
