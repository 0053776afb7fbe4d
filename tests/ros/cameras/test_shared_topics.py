"""Two cameras on one topic, and two publishers on one topic: plausible images of the wrong camera."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from sensor_msgs.msg import CameraInfo, Image

import xsam_ros.msg as messages
from tests.ros.image_driver import ImageDriver
from xsam_ros.messages.encode_images import image_from_depth, image_from_rgb
from xsam_ros.srv import Segment

Eventually = Callable[..., Any]
_PARAMETERS = {
    "cameras": "[left, right, rear, roof]",
    "left.image_topic": "/shared/image_raw",
    "right.image_topic": "/shared/image_raw",
    "rear.depth_topic": "/rear/depth",
    "roof.depth_topic": "/rear/depth",
    "rear.sync_tolerance_s": 0.5,
}


@pytest.fixture(scope="module", autouse=True)
def node(module_spawn: Callable[..., Any]) -> None:
    module_spawn("tests/ros/color_node.py", params=_PARAMETERS)


@pytest.fixture
def drive(ros: Any) -> Iterator[Callable[..., ImageDriver]]:
    with contextlib.ExitStack() as drivers:
        yield lambda *what: drivers.enter_context(ImageDriver(ros, *what))


def _color() -> Image:
    rgb = np.full((48, 64, 3), 120, np.uint8)
    rgb[8:24, 8:32] = (255, 0, 0)
    return image_from_rgb(rgb, "rgb8")


def _depth(meters: float) -> Image:
    return image_from_depth(np.full((48, 64), meters, np.float32), "32FC1")


def _info(focal: float) -> CameraInfo:
    return CameraInfo(height=48, width=64, k=[focal, 0.0, 31.5, 0.0, focal, 23.5, 0.0, 0.0, 1.0])


def test_cameras_that_share_a_topic_are_named(ros: Any, eventually: Eventually, drive: Any) -> None:
    """Copied parameters: "right" was asked and "left" was segmented, and nobody said so."""
    drive(_color(), "/shared/image_raw")
    drive(_color(), "/rear/image_raw")
    drive(_depth(1.0), "/rear/depth")
    drive(_info(60.0), "/rear/camera_info")
    latest: dict[str, DiagnosticStatus] = {}

    def keep(message: DiagnosticArray) -> None:
        latest.update({status.name.rpartition(" ")[2]: status for status in message.status})

    subscription = ros.node.create_subscription(DiagnosticArray, "/diagnostics", keep, 10)
    for names, topic in (("left and right", "/shared/image_raw"), ("rear and roof", "/rear/depth")):
        words = f"cameras {names} have the same topic, {topic}"

        def named(names: str = names, words: str = words) -> bool:
            statuses = [latest[name] for name in names.split(" and ") if name in latest]
            values = [pair.value for status in statuses for pair in status.values if words in pair.value]
            return len(values) == 2 and all(status.level != DiagnosticStatus.OK for status in statuses)

        eventually(named, words)
    eventually(lambda: "/shared/image_raw" in latest["left"].message, "the message of a camera that works")
    assert latest["left"].level == DiagnosticStatus.WARN
    ros.node.destroy_subscription(subscription)


def _notes(ros: Any) -> list[str]:
    request = Segment.Request(camera="rear", queries=[messages.SegmentQuery(text="red")])
    response = ros.call(Segment, "/xsam/segment", request)
    return list(response.results[0].notes) if response.results else []


@pytest.mark.parametrize(
    ("second", "topic"),
    [
        (_color(), "/rear/image_raw"),
        (_depth(2.0), "/rear/depth"),
        (_info(90.0), "/rear/camera_info"),
    ],
    ids=["color", "depth", "info"],
)
def test_two_publishers_are_in_the_notes_of_results(
    ros: Any, eventually: Eventually, drive: Any, second: Any, topic: str
) -> None:
    """Whichever message came last decided: depth of one camera, or the matrix of another."""
    drive(_color(), "/rear/image_raw")
    drive(_depth(1.0), "/rear/depth")
    drive(_info(60.0), "/rear/camera_info")
    words = f"2 publishers send to {topic}, and their messages mix"
    eventually(lambda: (notes := _notes(ros)) and not any(words in note for note in notes), "one publisher")
    drive(second, topic)
    eventually(lambda: any(words in note for note in _notes(ros)), words)
