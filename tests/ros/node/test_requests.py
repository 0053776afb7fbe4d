"""Locations of a request: whatever goes wrong with them, the masks are returned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from std_msgs.msg import Header

from xsam import FakeSegmenter, Frame, Query, SegmentationResult, Status
from xsam.types.deadline import Deadline
from xsam_ros.cameras.camera import CameraFrame
from xsam_ros.messages.frames import stamp_from_ns
from xsam_ros.messages.queries import query_to_message
from xsam_ros.node.parameters import NodeParameters
from xsam_ros.node.requests import ParsedQuery, RequestHandler

_HW = (48, 64)
_STAMP_NS = -5_000_000_000


class BrokenTransforms:
    def relocate(self, *_: Any) -> Any:
        raise RuntimeError("TF is upset")


class SameFrame:
    def relocate(self, locations: Any, *_: Any) -> Any:
        return tuple(locations)


def _located(transforms: Any, *, notes: tuple[str, ...] = ()) -> tuple[SegmentationResult, Any]:
    mask = np.zeros(_HW, np.bool_)
    mask[10:30, 10:40] = True
    frame = Frame(
        rgb=np.zeros((*_HW, 3), np.uint8),
        stamp_ns=_STAMP_NS,
        depth_m=np.ones(_HW, np.float32),
        intrinsics=np.array([[60.0, 0, 32], [0, 60.0, 24], [0, 0, 1]]),
    )
    header = Header(stamp=stamp_from_ns(_STAMP_NS), frame_id="lens")
    engine: Any = FakeSegmenter({"mug": [mask]})
    handler = RequestHandler(engine, transforms, {}, NodeParameters)
    query = Query(text="mug")
    done = handler.segment(
        CameraFrame(frame=frame, header=header, notes=notes),
        [ParsedQuery(message=query_to_message(query), query=query)],
        deadline=Deadline(10.0),
        on_stage=lambda stage: None,
        before_s={},
    )
    return done.results[0], done.messages[0]


@pytest.mark.parametrize(("transforms", "valid"), [(SameFrame(), True), (BrokenTransforms(), False)])
def test_a_problem_with_locations_never_costs_the_masks(transforms: Any, valid: bool) -> None:
    """A negative stamp made the whole request MODEL_ERROR."""
    result, message = _located(transforms)
    assert result.status is Status.FOUND
    (location,) = result.segments.locations
    assert location is not None
    assert location.valid == valid
    assert valid or "RuntimeError: TF is upset" in location.reason
    assert message.instances[0].area == 600


def test_notes_of_the_frame_are_in_the_result_and_in_the_message() -> None:
    result, message = _located(SameFrame(), notes=("not optical",))
    assert result.notes == ("not optical",)
    assert list(message.notes) == ["not optical"]
