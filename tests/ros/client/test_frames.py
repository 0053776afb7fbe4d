"""Frames of the node's cameras in the client: the very image of a result, from the topics the node names."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from rosgraph_msgs.msg import Clock

from tests.ros.image_driver import ImageDriver
from xsam import CameraRef, NoFrameError, Query, StaleFrameError, UnknownCameraError
from xsam_agent_tools import XSamToolkit
from xsam_agent_tools.tools.definition import conversation_scope
from xsam_ros.client import RosSegmenter
from xsam_ros.messages.encode_images import compressed_from_rgb, image_from_rgb

Eventually = Callable[..., Any]

_HW = (240, 320)
_RED = Query(text="red")


class MovingSquare(ImageDriver):
    """A driver whose every image shows a red square elsewhere."""

    def __init__(self, ros: Any, topic: str, *, compressed: bool) -> None:
        self._encode = (
            (lambda rgb: compressed_from_rgb(rgb, "png"))
            if compressed
            else (lambda rgb: image_from_rgb(rgb, "rgb8"))
        )
        self._places = itertools.count()
        super().__init__(ros, self._encode(np.zeros((*_HW, 3), np.uint8)), topic)

    def next(self, stamp: Any) -> Any:
        left = 7 * next(self._places) % 280
        rgb = np.full((*_HW, 3), 90, np.uint8)
        rgb[100:130, left : left + 30] = (255, 0, 0)
        self.message = self._encode(rgb)
        return super().next(stamp)


@pytest.fixture(scope="module")
def segmenter(
    module_ros: Any, module_spawn: Callable[..., Any], eventually: Eventually
) -> Iterator[RosSegmenter]:
    """Start a node with a raw, a compressed and a dead camera, and room for hardly more than one image."""
    params = {
        "cameras": "[raw, packed, dead]",
        "raw.image_topic": "/lab/view",
        "raw.buffer_mb": 1,
        "packed.image_topic": "/lab/packed",
        "packed.compressed": "true",
        "max_frame_age_s": 2.0,
    }
    module_spawn("tests/ros/color_node.py", params=params)
    with (
        MovingSquare(module_ros, "/lab/view", compressed=False),
        MovingSquare(module_ros, "/lab/packed", compressed=True),
        RosSegmenter("/xsam", frame_wait_s=1.0) as segmenter,
    ):

        def ready() -> bool:
            cameras = segmenter.status(deadline_s=20.0).cameras
            return sum(camera.frames > 0 for camera in cameras) == 2

        eventually(ready, "frames of two cameras")
        yield segmenter


@pytest.mark.parametrize("camera", ["raw", "packed"])
@pytest.mark.parametrize("text", ["red", "red, slow"])
def test_the_frame_is_the_one_that_was_segmented(segmenter: RosSegmenter, camera: str, text: str) -> None:
    """Also if the model takes 1.5 s, during which thirty newer images arrive and the buffer holds four."""
    results, frame = segmenter.segment_with_frame(CameraRef(name=camera), [Query(text=text)], deadline_s=20.0)
    assert frame is not None
    assert (frame.camera, frame.frame_id, frame.stamp_ns) == (camera, "lens", results[0].stamp_ns)
    np.testing.assert_array_equal(frame.rgb[..., 1] == 0, results[0].masks[0])


def test_ages_are_in_the_simulated_time_of_the_node(
    ros: Any, spawn: Callable[..., Any], eventually: Eventually
) -> None:
    """A simulation begins at 0: by the system's clock its frames are decades old."""
    now = Time(sec=100)
    clock = ros.node.create_publisher(Clock, "/clock", 10)
    ros.node.create_timer(0.02, lambda: clock.publish(Clock(clock=now)))
    rgb = np.zeros((*_HW, 3), np.uint8)
    arguments = ("--ros-args", "-r", "__node:=timed", "-p", "use_sim_time:=true", "-p", "cameras:=[sim]")
    spawn("tests/ros/color_node.py", *arguments)
    with (
        ImageDriver(
            ros,
            image_from_rgb(rgb, "rgb8"),
            "/sim/image_raw",
            stamp=lambda: Time(sec=99, nanosec=500_000_000),
        ),
        RosSegmenter("/timed") as simulated,
    ):
        eventually(lambda: simulated.status(deadline_s=20.0).state == "active", "the active state")
        toolkit = XSamToolkit(simulated, ["sim"], images="tool")
        for name, arguments in (("show_camera", {}), ("segment_objects", {"queries": ["mug"]})):
            spec = next(spec for spec in toolkit.specs if spec.name == name)
            assert json.loads(spec.call(arguments)[0])["age_s"] == pytest.approx(0.5, abs=0.1)


def test_the_newest_frame_has_a_stamp_and_an_age_limit(segmenter: RosSegmenter) -> None:
    first = segmenter.newest_frame("raw")
    second = segmenter.newest_frame("raw", max_age_s=10.0)
    assert first.image_hw == _HW
    assert first.stamp_ns <= second.stamp_ns
    assert abs(segmenter.clock_ns() - second.stamp_ns) < 5e9
    with pytest.raises(StaleFrameError):
        segmenter.newest_frame("raw", max_age_s=1e-6)


def test_a_dead_camera_costs_its_deadline_and_no_more(segmenter: RosSegmenter) -> None:
    started_s = time.monotonic()
    with pytest.raises(NoFrameError, match="dead"):
        segmenter.newest_frame("dead", deadline_s=0.5)
    with pytest.raises(NoFrameError):
        segmenter.segment_with_frame(CameraRef(name="dead"), [_RED], deadline_s=20.0)
    assert time.monotonic() - started_s < 15.0


@pytest.mark.parametrize("name", ["/lab/view", "lab/packed", "", "../raw", "raw "])
def test_only_the_node_says_which_topics_there_are(segmenter: RosSegmenter, name: str) -> None:
    with pytest.raises(UnknownCameraError):
        segmenter.newest_frame(name, deadline_s=5.0)


def test_without_frames_the_tools_that_need_pixels_are_not_offered(segmenter: RosSegmenter) -> None:
    names = {spec.name for spec in XSamToolkit(segmenter, ["raw"], mode="full", images="tool").specs}
    assert {"refine_object", "show_camera"} <= names
    with RosSegmenter("/xsam", with_frames=False) as blind:
        names = {spec.name for spec in XSamToolkit(blind, ["raw"], mode="full").specs}
        assert not {"refine_object", "show_camera"} & names
        with pytest.raises(ValueError, match="frame_source"):
            XSamToolkit(blind, ["raw"], images="tool")


def test_transforms_are_offered_where_tf_is_installed(segmenter: RosSegmenter) -> None:
    """Here it is not."""
    assert segmenter.look_up_transform is None
    locate = next(spec for spec in XSamToolkit(segmenter, ["raw"]).specs if spec.name == "locate_objects_3d")
    assert "frame" not in locate.args.model_json_schema()["properties"]


def test_a_refused_repeat_looks_at_the_picture(segmenter: RosSegmenter, eventually: Eventually) -> None:
    """The view moves, so the same search is made again: without pixels, time alone decided."""
    spec = next(spec for spec in XSamToolkit(segmenter, ["raw"]).specs if spec.name == "segment_objects")
    with conversation_scope("one"):
        content, artifact = spec.call({"queries": ["mug"]})
        later_ns = artifact["frame"]["stamp_ns"] + 300_000_000
        eventually(lambda: segmenter.newest_frame("raw").stamp_ns > later_ns, "a view that has changed")
        again, _ = spec.call({"queries": ["mug"]})
    assert [json.loads(text)["status"] for text in (content, again)] == ["no_match"] * 2
