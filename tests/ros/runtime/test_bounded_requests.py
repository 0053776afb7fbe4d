"""Long requests are cut before they become Python objects."""

from __future__ import annotations

import array
import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
from rclpy.serialization import deserialize_message, serialize_message
from rosidl_parser.definition import BasicType

from xsam_ros.action import Segment as SegmentAction
from xsam_ros.messages.image_messages import image_from_array
from xsam_ros.msg import MaskRle, PixelPoint, SegmentQuery, VisualPrompt
from xsam_ros.node.lifecycle import release_memory, settle_memory
from xsam_ros.runtime.bounded_requests import bounded_message
from xsam_ros.srv import Segment, SetStreamQuery

np = pytest.importorskip("numpy")

_Goal = SegmentAction.Impl.SendGoalService.Request
_LIMIT = 50


def _scribble(count: int) -> VisualPrompt:
    return VisualPrompt(kind=VisualPrompt.KIND_SCRIBBLE, points=[PixelPoint(x=3.0, y=4.0)] * count)


def _elements(queries: list[Any]) -> int:
    prompts = [prompt for query in queries for prompt in query.prompts]
    names = sum(len(query.thing_classes) + len(query.stuff_classes) for query in queries)
    return len(queries) + names + len(prompts) + sum(len(prompt.points) for prompt in prompts)


def _request(kind: Any, queries: list[Any]) -> Any:
    if kind is not _Goal:
        return kind(camera="front", queries=queries)
    goal = kind()
    goal.goal_id.uuid[3] = 7
    goal.goal.camera, goal.goal.queries = "front", queries
    return goal


def _read(kind: Any, request: Any) -> Any:
    return deserialize_message(serialize_message(request), bounded_message(kind, _LIMIT))


@pytest.mark.parametrize("kind", [Segment.Request, SetStreamQuery.Request, _Goal])
@pytest.mark.parametrize(
    "queries",
    [
        [SegmentQuery(prompts=[_scribble(100_000)])],
        [SegmentQuery(prompts=[_scribble(20)] * 9)],
        [SegmentQuery(thing_classes=["mug"] * 100_000)],
        [SegmentQuery(stuff_classes=["wall"] * 30)] * 3,
        [SegmentQuery(prompts=[VisualPrompt()] * 1000)],
        [SegmentQuery(text="mug")] * 1000,
    ],
)
def test_long_lists_are_cut_to_one_more_than_is_allowed(kind: Any, queries: list[Any]) -> None:
    read = _read(kind, _request(kind, queries))
    assert isinstance(read, kind)
    inner = read.goal if kind is _Goal else read
    assert _elements(inner.queries) == _LIMIT + 1
    assert inner.camera == "front"


@pytest.mark.parametrize("kind", [Segment.Request, SetStreamQuery.Request, _Goal])
def test_what_is_short_enough_arrives_as_it_was_sent(kind: Any) -> None:
    mask = MaskRle(height=2, width=3, counts=array.array("B", b"06" * 1000))  # numbers do not count
    queries = [
        SegmentQuery(text="the red mug", score_threshold=0.25, max_instances=7, explain=True),
        SegmentQuery(thing_classes=["mug", "größe"], stuff_classes=["table"]),
        SegmentQuery(prompts=[VisualPrompt(kind=VisualPrompt.KIND_MASK, mask=mask), _scribble(3)]),
        SegmentQuery(thing_classes=["x"] * (_LIMIT - 12)),
    ]
    request = _request(kind, queries)
    assert _elements(queries) == _LIMIT
    if kind is Segment.Request:
        request.image = image_from_array(np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3), "rgb8")
        request.max_age_s, request.timeout_s = 0.5, 2.0
    assert _read(kind, request) == request


def test_what_was_cut_is_freed() -> None:
    """The structure of C is whole again when it is destroyed."""
    data = serialize_message(Segment.Request(queries=[SegmentQuery(thing_classes=["x" * 100] * 100_000)]))
    bounded = bounded_message(Segment.Request, _LIMIT)

    def resident_mib() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

    deserialize_message(data, bounded)
    before_mib = resident_mib()
    for _ in range(20):
        deserialize_message(data, bounded)
    assert resident_mib() - before_mib < 100  # 20 × 12 MB of strings


def test_a_message_that_is_laid_out_otherwise_is_read_whole() -> None:
    """Another ROS distribution may have other structures: following its pointers would end the process."""
    octets = tuple(BasicType("uint8") if isinstance(kind, BasicType) else kind for kind in MaskRle.SLOT_TYPES)
    parts = {"SLOT_TYPES": octets, "__module__": MaskRle.__module__}
    other = type(MaskRle)("MaskRle", (MaskRle,), parts)
    assert bounded_message(other, _LIMIT) is other


def test_what_settled_is_freed_when_memory_is_released() -> None:
    class Link:
        to: Link

    link = Link()
    link.to, gone = link, weakref.ref(link)
    settle_memory()
    del link
    gc.collect()
    assert gone() is not None
    release_memory()
    assert gone() is None
