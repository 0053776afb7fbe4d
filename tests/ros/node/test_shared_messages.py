"""Messages that are published never share parts with what is kept for the next request."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from std_msgs.msg import Header

import xsam_ros.msg as messages
from tests.ros import camera_driver
from xsam import Frame, MaskRle, Query, SegmentationResult, Segments, Status
from xsam.types.location import Location3D
from xsam_ros.cameras.camera import CameraFrame
from xsam_ros.messages.frames import stamp_from_ns
from xsam_ros.messages.results import result_to_message
from xsam_ros.node.parameters import NodeParameters
from xsam_ros.node.requests import RequestHandler, parse_queries
from xsam_ros.publishers import detections

_HW = (24, 32)


class WholeImageEngine:
    """Finds one object, the whole image."""

    def segment(self, frame: Frame, queries: list[Query], **_: Any) -> list[SegmentationResult]:
        mask = MaskRle.encode(np.ones(frame.image_hw, bool))
        segments = Segments(
            image_hw=frame.image_hw,
            masks=(mask,),
            labels=("wall",),
            label_indices=np.zeros(1, np.int32),
            scores=np.ones(1, np.float32),
            boxes_xyxy=np.array([[0, 0, 32, 24]], np.float32),
        )
        return [SegmentationResult(status=Status.FOUND, query=query, segments=segments) for query in queries]


class TenMetersAhead:
    """The used part of `Transforms`: the target frame is 10 m behind the camera."""

    def relocate(
        self, locations: tuple[Location3D, ...], header: Header, target_frame: str
    ) -> tuple[Location3D, ...]:
        if target_frame == header.frame_id:
            return locations
        matrix = np.eye(4)
        matrix[2, 3] = 10.0
        return tuple(location.transformed(matrix, target_frame) for location in locations)


class FakeMessage(SimpleNamespace):
    """A vision_msgs message: any field, and its header is the object that it was given."""

    def __getattr__(self, name: str) -> Any:
        setattr(self, name, [] if name == "detections" else FakeMessage())
        return getattr(self, name)


@pytest.fixture
def vision_msgs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        *("Detection2D", "Detection2DArray", "Detection3D", "Detection3DArray"),
        "ObjectHypothesisWithPose",
    ):
        monkeypatch.setattr(detections, name, FakeMessage, raising=False)


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> CameraFrame:
    driver = camera_driver.BufferedCamera(camera_driver.FakeClock.installed(monkeypatch))
    driver.color(hw=_HW)
    driver.depth(1.0, hw=_HW)
    driver.info(hw=_HW, focal_px=30.0, k=[30.0, 0.0, 16.0, 0.0, 30.0, 12.0, 0.0, 0.0, 1.0])
    assert driver.frame() is driver.frame(), "the frame is kept for the next request"
    return driver.frame()


def _segment(source: CameraFrame) -> messages.SegmentationResult:
    transforms: Any = TenMetersAhead()
    engine: Any = WholeImageEngine()
    handler = RequestHandler(engine, transforms, {}, lambda: NodeParameters(target_frame="map"))
    deadline: Any = SimpleNamespace(remaining_s=10.0)
    results = handler.segment(
        source,
        parse_queries([messages.SegmentQuery(text="wall")]),
        deadline=deadline,
        on_stage=lambda _: None,
        before_s={},
    )
    return results.messages[0]


@pytest.mark.usefixtures("vision_msgs")
def test_publishing_detections_leaves_the_kept_frame_in_its_own_frame(source: CameraFrame) -> None:
    """The second request on a frame once got camera coordinates, labeled as coordinates of the map."""
    for request in range(3):
        result = _segment(source)
        location = result.instances[0].location
        assert (location.frame_id, location.position.z) == ("map", pytest.approx(11.0)), f"request {request}"
        assert result.header.frame_id == "lens_optical"
        array = detections.detections_3d([result])
        assert array.header.frame_id == array.detections[0].header.frame_id == "map"
        assert result.header.frame_id == "lens_optical", "the result itself keeps the frame of the image"
        assert source.header.frame_id == "lens_optical"


def test_a_message_has_a_header_of_its_own(source: CameraFrame) -> None:
    """Whatever is done to a published message, stamp included, the kept frame stays as it was."""
    header = Header(frame_id="lens", stamp=stamp_from_ns(5_000_000_007))
    result = SegmentationResult(
        status=Status.NOT_FOUND, query=Query(text="x"), segments=Segments(image_hw=_HW)
    )
    for message in (result_to_message(result, header=header), _segment(source)):
        message.header.frame_id = "map"
        message.header.stamp.sec = 99
        message.header.stamp.nanosec = 99
    assert (header.frame_id, header.stamp.sec, header.stamp.nanosec) == ("lens", 5, 7)
    assert source.header.frame_id == "lens_optical"
    assert source.header.stamp.nanosec != 99


@pytest.mark.usefixtures("vision_msgs")
def test_detections_of_a_result_share_no_header_with_it(source: CameraFrame) -> None:
    result = _segment(source)
    flat = detections.detections_2d([result])
    flat.header.frame_id = "elsewhere"
    flat.detections[0].header.frame_id = "elsewhere"
    assert result.header.frame_id == "lens_optical"
