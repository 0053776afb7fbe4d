"""Streams with `propagate`: results at the camera's rate, whatever time the model takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import Image
from std_msgs.msg import Header

import xsam_ros.msg as messages
from tests.ros.image_driver import ImageDriver
from tests.ros.node_client import NodeClient
from xsam_ros.messages.image_messages import image_from_array
from xsam_ros.messages.masks import mask_from_message
from xsam_ros.srv import SetStreamQuery

Eventually = Callable[..., Any]
_RESULT = messages.SegmentationResult
_QUERY = messages.SegmentQuery
_STREAM = SetStreamQuery.Response
_HW = (120, 160)
_SIDE = 40


def _texture(seed: int, hw: tuple[int, int], low: int, high: int) -> np.ndarray[Any, Any]:
    coarse = np.random.default_rng(seed).integers(low, high, (hw[0] // 6 + 1, hw[1] // 6 + 1), np.uint8)
    return np.asarray(cv2.resize(coarse, (hw[1], hw[0]), interpolation=cv2.INTER_CUBIC), np.uint8)


class MovingScene(ImageDriver):
    """A camera that sees a red square with a texture go back and forth."""

    def __init__(self, ros: Any) -> None:
        super().__init__(ros, Image(), "/front/image_raw")
        self.sent: dict[tuple[int, int], int] = {}  # left edge of the square by stamp
        self._ground = np.repeat(_texture(1, _HW, 60, 160)[..., None], 3, axis=2)
        self._skin = np.stack(
            [_texture(2, (_SIDE, _SIDE), 205, 255), *[_texture(3, (_SIDE, _SIDE), 0, 50)] * 2], axis=2
        )

    def next(self, stamp: Any) -> Image:
        left = 30 + abs(len(self.sent) % 120 - 60)
        rgb = self._ground.copy()
        rgb[40 : 40 + _SIDE, left : left + _SIDE] = self._skin
        self.sent[stamp.sec, stamp.nanosec] = left
        return image_from_array(rgb, "rgb8", Header(stamp=stamp, frame_id="lens"))

    def iou(self, result: Any) -> float:
        """Return how well the first mask of a result fits the square in its own image."""
        left = self.sent[result.header.stamp.sec, result.header.stamp.nanosec]
        truth = np.zeros(_HW, np.bool_)
        truth[40 : 40 + _SIDE, left : left + _SIDE] = True
        mask = mask_from_message(result.instances[0].mask).decode()
        return float((mask & truth).sum() / (mask | truth).sum())


class StreamClient(NodeClient):
    def __init__(self, ros: Any) -> None:
        super().__init__(ros)
        self.results: list[Any] = ros.collect(_RESULT, "/xsam/front/result")

    def propagate(self, *texts: str, **options: Any) -> Any:
        return self.set_stream_queries([_QUERY(text=text) for text in texts], propagate=True, **options)

    @property
    def stream(self) -> messages.StreamStatus:
        return self.stream_status("front")


@pytest.fixture(scope="module")
def scene(module_ros: Any) -> Iterator[MovingScene]:
    with MovingScene(module_ros) as scene:
        yield scene


@pytest.fixture(scope="module")
def process(module_spawn: Callable[..., Any]) -> Any:
    params = {"cameras": "[front]", "queue_size": 1, "max_frame_age_s": 5.0, "keyframe_frames": 5}
    return module_spawn("tests/ros/color_node.py", params=params)


@pytest.fixture
def node(process: Any, scene: MovingScene, module_ros: Any, eventually: Eventually) -> Iterator[StreamClient]:
    node = StreamClient(module_ros)
    eventually(lambda: node.active, "the active state", 60.0)
    eventually(lambda: node.status.cameras[0].frames, "frames")
    yield node
    node.set_stream()
    eventually(lambda: node.idle, "an idle model")


def test_results_come_faster_than_the_model(
    node: StreamClient, scene: MovingScene, eventually: Eventually
) -> None:
    """The model takes 1.5 s for a frame; a robot gets masks of each image all the same, and their age."""
    assert node.propagate("slow red").status == _STREAM.STATUS_STARTED
    eventually(lambda: len(node.results) >= 40, "results")
    results = list(node.results)
    stamps = [result.header.stamp.sec * 10**9 + result.header.stamp.nanosec for result in results]
    assert stamps == sorted(set(stamps)), "one result for each image, in their order"
    carried = [result for result in results if not result.keyframe]
    assert len(carried) >= 0.8 * len(results)
    assert all(result.keyframe_age_s > 0.0 for result in carried)
    assert all(0.0 <= result.confidence < 1.0 for result in carried)
    found = [result for result in carried if result.status == _RESULT.STATUS_FOUND]
    assert len(found) >= len(carried) / 2
    assert np.median([scene.iou(result) for result in found]) > 0.85
    status = node.stream
    assert status.propagate
    assert 0 < status.keyframes < status.answers


def test_the_queue_stays_free(node: StreamClient, eventually: Eventually) -> None:
    node.propagate("slow red")
    eventually(lambda: len(node.results) >= 10, "results")
    assert node.status.waiting == 0
    response = node.segment("green")
    assert response.code == ""


def test_a_fast_model_gives_keyframes(node: StreamClient, scene: MovingScene, eventually: Eventually) -> None:
    node.propagate("red")
    eventually(
        lambda: len(node.results) >= 30 and any(result.keyframe for result in node.results), "a keyframe"
    )
    keyframes = [result for result in node.results if result.keyframe]
    assert all((result.keyframe_age_s, result.confidence) == (0.0, 1.0) for result in keyframes)
    tracks = {item.track_id for result in node.results for item in result.instances}
    assert len(tracks) == 1, "one object"
    assert min(scene.iou(result) for result in node.results if result.instances) > 0.7


def test_each_image_has_a_result_for_every_query(node: StreamClient, eventually: Eventually) -> None:
    node.propagate("red", "blue")
    eventually(lambda: len(node.results) >= 20, "results")
    results = list(node.results)[:20]
    assert [result.query.text for result in results] == ["red", "blue"] * 10
    assert {result.status for result in results[1::2]} == {_RESULT.STATUS_NOT_FOUND}
    for first, second in zip(results[::2], results[1::2], strict=True):
        assert first.header == second.header


def test_text_is_refused(node: StreamClient) -> None:
    chat = _QUERY(text="what is there?", task=_QUERY.TASK_CHAT)
    response = node.set_stream_queries([chat], propagate=True)
    assert (response.status, response.code) == (_STREAM.STATUS_REFUSED, "INVALID_QUERY")
    assert "generate" in response.message


def test_a_model_that_fails_is_named(node: StreamClient, eventually: Eventually) -> None:
    node.propagate("broken")
    eventually(lambda: node.stream.last_error, "an error")
    assert node.stream.running
    assert not any(result.instances for result in node.results)


def test_an_ordinary_stream_has_keyframes_only(node: StreamClient, eventually: Eventually) -> None:
    node.set_stream("red")
    eventually(lambda: len(node.results) >= 5, "results")
    assert all(result.keyframe and result.confidence == 1.0 for result in node.results)
    assert not node.stream.propagate
