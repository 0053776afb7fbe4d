"""Leases and ends of streams, without a node: what counts down, what ends a stream, what is remembered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import xsam_ros.msg as messages
from tests.ros import camera_driver
from xsam import FakeSegmenter, NotActiveError, StreamEndedError
from xsam.worker import ModelWorker
from xsam_ros.messages.streams import StreamEnd
from xsam_ros.node.metrics import NodeStatistics
from xsam_ros.node.parameters import NodeParameters
from xsam_ros.node.requests import NodeContext, RequestHandler
from xsam_ros.node.stream_query import StreamQuery
from xsam_ros.node.streams import Claim, Streams

Eventually = Callable[..., Any]
_QUERY = StreamQuery([messages.SegmentQuery(text="red")], 0.0)
_CLAIM = Claim(owner="picker", stream_id="1", lease_s=2.0)


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> camera_driver.BufferedCamera:
    return camera_driver.BufferedCamera(camera_driver.FakeClock.installed(monkeypatch))


@pytest.fixture
def streams(camera: camera_driver.BufferedCamera) -> Iterator[Streams]:
    engine: Any = FakeSegmenter({})
    transforms: Any = None
    worker = ModelWorker(queue_size=1, log_error=print)
    worker.accept()
    context = NodeContext(
        handler=RequestHandler(engine, transforms, {"front": camera.buffer}, NodeParameters),
        worker=worker,
        publishers={},
        parameters=NodeParameters,
        statistics=NodeStatistics(),
    )
    streams = Streams(context, log_error=print)
    streams.accept()
    yield streams
    streams.stop_all("the test is over")
    assert worker.close(timeout_s=10.0)


def _elapse(streams: Streams, turns: int) -> None:
    for _ in range(turns):
        streams.elapse(0.25)


def test_a_lease_counts_the_turns_of_the_node(streams: Streams) -> None:
    """A node that stood still for a minute must not end the streams whose renewals it could not hear."""
    streams.start("front", _QUERY, _CLAIM)
    for _ in range(3):
        _elapse(streams, 7)
        assert streams.renew("front", _CLAIM).lease_left_s == 2.0
    _elapse(streams, 7)
    assert streams.statistics()["front"].lease_left_s == pytest.approx(0.25)
    _elapse(streams, 1)
    ended = streams.statistics()["front"]
    assert (ended.running, ended.end, ended.owner) == (False, StreamEnd.LEASE_EXPIRED, "picker")
    with pytest.raises(StreamEndedError, match="did not renew its lease of 2 s") as caught:
        streams.renew("front", _CLAIM)
    assert caught.value.reason == "LEASE_EXPIRED"


def test_without_a_lease_a_stream_runs_on(streams: Streams) -> None:
    streams.start("front", _QUERY, Claim(owner="somebody at a terminal"))
    _elapse(streams, 1000)
    assert streams.statistics()["front"].running


def test_a_change_renews_the_lease(streams: Streams) -> None:
    streams.start("front", _QUERY, _CLAIM)
    _elapse(streams, 7)
    stream, was_running = streams.start("front", _QUERY, _CLAIM)
    assert (stream.stream_id, stream.lease_left_s, was_running) == ("1", 2.0, True)


def test_a_fault_of_the_node_is_an_end_with_a_reason(
    streams: Streams,
    camera: camera_driver.BufferedCamera,
    monkeypatch: pytest.MonkeyPatch,
    eventually: Eventually,
) -> None:
    def broken(*_: Any, **__: Any) -> bool:
        raise OverflowError("timestamp too large to convert to C PyTime_t")

    monkeypatch.setattr(camera.buffer, "wait_newer", broken)
    streams.start("front", _QUERY, _CLAIM)
    eventually(lambda: not streams.statistics()["front"].running, "the end of the thread")
    streams.elapse(0.25)
    ended = streams.statistics()["front"]
    assert ended.end is StreamEnd.FAILED
    assert "OverflowError" in ended.end_message


def test_nothing_starts_while_the_node_stops(streams: Streams) -> None:
    """A call that arrives during deactivation would leave a stream behind in a node that is not active."""
    streams.start("front", _QUERY, _CLAIM)
    streams.stop_all("the node was deactivated")
    with pytest.raises(NotActiveError, match="deactivated"):
        streams.start("front", _QUERY, Claim(owner="late"))
    with pytest.raises(StreamEndedError) as caught:
        streams.renew("front", _CLAIM)
    assert caught.value.reason == "DEACTIVATED"
    streams.accept()
    assert streams.start("front", _QUERY, Claim(owner="late"))[1] is False
