"""Queries of a stream: what is kept is bounded, masks are decoded late, and every call gets a response."""

from __future__ import annotations

import array
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message

import xsam_ros.msg as messages
from tests.ros import camera_driver
from tests.ros.color_node import load
from tests.ros.node_client import NodeClient
from xsam import InvalidQueryError
from xsam.types.masks import MaskRle
from xsam.worker import ModelWorker
from xsam_ros.node import streams as streams_module
from xsam_ros.node.camera_stream import CameraStream, Lease
from xsam_ros.node.metrics import NodeStatistics
from xsam_ros.node.node import SegmenterNode
from xsam_ros.node.parameters import NodeParameters
from xsam_ros.node.requests import NodeContext, parse_queries
from xsam_ros.node.stream_query import StreamQuery
from xsam_ros.node.streams import Streams
from xsam_ros.srv import GetStatus, SetStreamQuery

Eventually = Callable[..., Any]
_RED = messages.SegmentQuery(text="red")


def _mask_prompt(side_px: int) -> messages.VisualPrompt:
    """Return a prompt with a mask of a large image in a few bytes: its first half is the object."""
    counts = _counts(0, side_px * side_px // 2, side_px * side_px - side_px * side_px // 2)
    mask = messages.MaskRle(height=side_px, width=side_px, counts=array.array("B", counts))
    return messages.VisualPrompt(kind=messages.VisualPrompt.KIND_MASK, mask=mask)


def _counts(*runs: int) -> bytes:
    """Encode up to three run lengths as COCO does."""
    code = bytearray()
    for run in runs:
        more = True
        while more:
            digit, run = run & 0x1F, run >> 5
            more = not (run == 0 and not digit & 0x10)
            code.append((digit | (0x20 if more else 0)) + 48)
    return bytes(code)


@pytest.mark.parametrize(
    "rate_hz", [1e-10, 1e-320, 5e-4, 1001.0, 1e300, -1e-9, float("inf"), float("nan"), float("-inf")]
)
def test_a_rate_that_no_thread_can_keep_is_refused(rate_hz: float) -> None:
    with pytest.raises(InvalidQueryError, match="rate_hz must be 0"):
        StreamQuery([_RED], rate_hz)


@pytest.mark.parametrize("rate_hz", [0.0, 0.001, 1000.0])
def test_the_ends_of_the_range_are_allowed(rate_hz: float) -> None:
    assert StreamQuery([_RED], rate_hz).rate_hz == rate_hz


def test_names_without_end_are_refused() -> None:
    """16 × 250 names of 2000 characters once made every status message 8 MB."""
    names = [f"{index:04d}".ljust(2000, "x") for index in range(250)]
    with pytest.raises(InvalidQueryError, match="8000000 characters, at most 100000"):
        StreamQuery([messages.SegmentQuery(thing_classes=names) for _ in range(16)], 0.0)


def test_points_without_end_are_refused() -> None:
    points = [messages.PixelPoint(x=1.0, y=1.0)] * 4000
    scribble = messages.VisualPrompt(kind=messages.VisualPrompt.KIND_SCRIBBLE, points=points)
    with pytest.raises(InvalidQueryError, match="12000 prompt points, at most"):
        StreamQuery([messages.SegmentQuery(prompts=[scribble])] * 3, 0.0)


def test_masks_without_end_are_refused() -> None:
    """Before any of them is read."""
    mask = messages.MaskRle(height=9000, width=9000, counts=array.array("B", b"1" * 1_500_000))
    prompt = messages.VisualPrompt(kind=messages.VisualPrompt.KIND_MASK, mask=mask)
    with pytest.raises(InvalidQueryError, match="4500000 bytes of masks, at most 4000000"):
        StreamQuery([messages.SegmentQuery(prompts=[prompt])] * 3, 0.0)


def test_the_status_of_the_largest_stream_is_short() -> None:
    names = [f"name number {index}" for index in range(250)]
    query = StreamQuery([messages.SegmentQuery(thing_classes=names)] * 16, 0.0)
    assert len(query) == 16
    status = messages.StreamStatus(queries=list(query.descriptions))
    assert len(serialize_message(status)) < 10_000
    assert query.descriptions[0].startswith("name number 0, name number 1")
    assert query.descriptions[0].endswith("…")


def test_masks_are_decoded_for_the_size_of_the_image_only(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[tuple[int, int]] = []
    decode = MaskRle.decode

    def observed(mask: MaskRle) -> Any:
        decoded.append((mask.height, mask.width))
        return decode(mask)

    monkeypatch.setattr(MaskRle, "decode", observed)
    query = StreamQuery([messages.SegmentQuery(prompts=[_mask_prompt(side)]) for side in (64, 16384)], 0.0)
    assert decoded == [], "the callback decodes nothing"
    small, large = query.parsed((64, 64))
    assert decoded == [(64, 64)]
    assert isinstance(large.query, InvalidQueryError)
    assert "the image is (64, 64)" in large.query.message
    assert query.parsed((64, 64))[0] is small, "parsed once for a size"


def test_a_malformed_mask_is_refused_at_once() -> None:
    prompt = _mask_prompt(64)
    prompt.mask.width = 65
    with pytest.raises(InvalidQueryError, match="mask prompt"):
        StreamQuery([messages.SegmentQuery(prompts=[prompt])], 0.0)


def test_the_masks_of_a_request_are_bounded_together() -> None:
    """Each is a few bytes, and 4096 × 4096 pixels once it is decoded."""
    queries = [messages.SegmentQuery(prompts=[_mask_prompt(4096)] * 8) for _ in range(3)]
    first, second, third = parse_queries(queries, image_hw=(4096, 4096))
    assert not isinstance(first.query, InvalidQueryError)
    assert isinstance(second.query, InvalidQueryError)
    assert "256 million pixels together" in second.query.message
    assert isinstance(third.query, InvalidQueryError)


def test_a_thread_that_ends_is_not_running(monkeypatch: pytest.MonkeyPatch, eventually: Eventually) -> None:
    driver = camera_driver.BufferedCamera(camera_driver.FakeClock.installed(monkeypatch))

    def broken(*_: Any, **__: Any) -> bool:
        raise OverflowError("timestamp too large to convert to C PyTime_t")

    monkeypatch.setattr(driver.buffer, "wait_newer", broken)
    worker = ModelWorker(queue_size=1, log_error=print)
    errors: list[str] = []
    context = NodeContext(
        handler=None,  # type: ignore[arg-type]
        worker=worker,
        publishers={},
        parameters=NodeParameters,
        statistics=NodeStatistics(),
    )
    stream = CameraStream(
        driver.buffer,
        StreamQuery([_RED], 0.0),
        context,
        stream_id="1",
        owner="",
        lease=Lease(),
        log_error=errors.append,
    )
    eventually(lambda: not stream.statistics().running, "the end of the thread")
    assert "OverflowError" in stream.statistics().last_error
    assert "OverflowError" in errors[0]
    stream.stop()
    assert worker.close(timeout_s=10.0)


@pytest.fixture
def node(ros: Any) -> Iterator[SegmenterNode]:
    """Create an active node in this process, to break its parts."""
    overrides = [Parameter("autostart", value=False), Parameter("cameras", value=["front"])]
    node = SegmenterNode("xsam", engine_factory=load, context=ros.context, parameter_overrides=overrides)
    ros.executor.add_node(node)
    node.trigger_configure()
    node.trigger_activate()
    yield node
    ros.executor.remove_node(node)
    node.stop()
    node.destroy_node()


@pytest.mark.parametrize("error", [RuntimeError("surprise"), MemoryError(), KeyError("x")], ids=repr)
def test_services_respond_whatever_is_raised(
    node: SegmenterNode, ros: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise error

    client = NodeClient(ros)
    monkeypatch.setattr(Streams, "start", broken)
    started_s = time.monotonic()
    response = client.set_stream("red")
    assert (response.status, response.code) == (SetStreamQuery.Response.STATUS_REFUSED, "MODEL_ERROR")
    assert type(error).__name__ in response.message
    assert response.hint
    monkeypatch.setattr(Streams, "statistics", broken)
    status: GetStatus.Response = client.status
    assert type(error).__name__ in status.last_error
    monkeypatch.setattr(streams_module, "Streams", broken)
    monkeypatch.setattr("xsam_ros.node.requests.RequestHandler.check_query_count", broken)
    assert client.segment("red").code == "MODEL_ERROR"
    assert time.monotonic() - started_s < 10.0


def test_large_masks_do_not_hold_up_other_services(node: SegmenterNode, ros: Any) -> None:
    """Four calls of a few bytes once froze all services for 91 s."""
    client = NodeClient(ros)
    queries = [messages.SegmentQuery(prompts=[_mask_prompt(16384)] * 4)] * 4
    started_s = time.monotonic()
    request = SetStreamQuery.Request(camera="front", queries=queries)
    response = ros.call(SetStreamQuery, "/xsam/set_stream_query", request)
    assert response.status == SetStreamQuery.Response.STATUS_STARTED, response.message
    assert client.active
    assert time.monotonic() - started_s < 5.0
    assert json.dumps(list(client.stream_status().queries)) == json.dumps(["4 prompts"] * 4)
