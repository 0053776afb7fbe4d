"""Streams with a model that remembers: sessions equal those of the engine, and their memory is bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from numpy.typing import NDArray
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import Header

import xsam_ros.msg as messages
from support.golden import GOLDEN_X2SAM
from tests.ros.image_driver import ImageDriver
from tests.ros.node_client import NodeClient
from xsam import Frame, Query, XSam
from xsam_ros.messages.image_messages import image_from_array
from xsam_ros.messages.results import result_from_message

pytestmark = pytest.mark.slow
Eventually = Callable[..., Any]
Rgb = NDArray[np.uint8]
MODEL = GOLDEN_X2SAM / "x2a"
REFRESH = 4
TEXT = "the red cube"
_RESULT = messages.SegmentationResult


class Clip(ImageDriver):
    """A camera with a clock of its own that sees a bright square move over noise."""

    def __init__(self, ros: Any, camera: str) -> None:
        super().__init__(ros, Image(), f"/{camera}/image_raw", stamp=Time)
        self.rows = 48
        self.clock_s = 1000
        self.seen: dict[tuple[int, int], Rgb] = {}  # by stamp
        self._camera = camera
        self._noise = np.random.default_rng(len(camera)).integers(0, 80, (48, 72, 3), dtype=np.uint8)

    def next(self, stamp: Time) -> Image:
        rgb = self._noise[: self.rows].copy()
        left = 5 + (3 * len(self.seen)) % 40
        rgb[10:30, left : left + 20] = (220, 60, 40)
        self.clock_s += 1
        self.seen[self.clock_s, self.rows] = rgb
        header = Header(stamp=Time(sec=self.clock_s), frame_id=self._camera)
        return image_from_array(rgb, "rgb8", header)


class MemoryClient(NodeClient):
    """A client of the node that collects the results of its cameras."""

    def __init__(self, ros: Any) -> None:
        super().__init__(ros)
        qos = QoSProfile(depth=1000)
        self.results: dict[str, list[_RESULT]] = {
            name: ros.collect(_RESULT, f"/xsam/{name}/result", qos) for name in ("front", "rear")
        }

    def stop(self) -> None:
        for camera, results in self.results.items():
            self.set_stream(camera=camera)
            results.clear()


@pytest.fixture(scope="module")
def cameras(module_ros: Any) -> Iterator[dict[str, Clip]]:
    clips = {name: Clip(module_ros, name) for name in ("front", "rear")}
    with clips["front"], clips["rear"]:
        yield clips


@pytest.fixture(scope="module")
def process(module_spawn: Callable[..., Any]) -> Any:
    params = {
        "model": str(MODEL),
        "device": "cpu",
        "threads": 1,
        "cameras": "[front, rear]",
        "front.stamp_clock": "other",
        "rear.stamp_clock": "other",
        "max_frame_age_s": 30.0,
        "memory_refresh_frames": REFRESH,
    }
    return module_spawn("-m", "xsam_ros.segmenter_node", params=params)


@pytest.fixture
def node(
    process: Any, cameras: dict[str, Clip], module_ros: Any, eventually: Eventually
) -> Iterator[MemoryClient]:
    node = MemoryClient(module_ros)
    eventually(lambda: node.active, "the active state", 120.0)
    eventually(lambda: all(camera.frames for camera in node.status.cameras), "frames")
    yield node
    node.stop()
    eventually(lambda: node.idle, "an idle model")
    for name, value in (("memory", "auto"), ("memory_mb", 2048)):
        assert node.set(name, value).successful
    for clip in cameras.values():
        clip.rows = 48


@pytest.fixture(scope="module")
def engine() -> XSam:
    return XSam.load(MODEL, device="cpu", threads=1)


def _equal_those_of_a_session(
    engine: XSam, clip: Clip, results: list[_RESULT], query: Query, *, least: int
) -> None:
    """Compare results with those of a session of the engine on the same frames."""
    assert len(results) >= least
    session = engine.open_session(query, refresh_every=REFRESH)
    for message in results:
        stamp = message.header.stamp
        rgb = clip.seen[stamp.sec, message.image_height]
        expected = session.step(Frame(rgb=rgb, stamp_ns=stamp.sec * 10**9))
        result = result_from_message(message, query=query)
        assert result.status is expected.status
        assert result.segments.labels == expected.segments.labels
        assert result.segments.masks == expected.segments.masks
        assert result.segments.doubts == expected.segments.doubts
        np.testing.assert_allclose(result.segments.scores, expected.segments.scores, rtol=1e-5)


def _of(results: list[_RESULT], text: str) -> list[_RESULT]:
    return [result for result in list(results) if result.query.text == text]


def _memory_notes(result: _RESULT) -> list[str]:
    return [note for note in result.notes if "memory" in note]


def test_results_equal_a_session_of_the_engine(
    node: MemoryClient, cameras: dict[str, Clip], engine: XSam, eventually: Eventually
) -> None:
    """Frames that were skipped cost nothing; the queries are read again every few frames."""
    node.set_stream(TEXT, "the mug")
    results = node.results["front"]
    eventually(lambda: len(results) >= 24, "results")
    stream = node.stream_status()
    most = engine.session_nbytes(Query(text=TEXT)) + engine.session_nbytes(Query(text="the mug"))
    assert (stream.sessions, stream.no_memory_reason) == (2, "")
    assert most / 2 < stream.memory_bytes <= most
    node.set_stream()
    for text in (TEXT, "the mug"):
        found = _of(results, text)
        _equal_those_of_a_session(engine, cameras["front"], found, Query(text=text), least=10)
    assert not any(_memory_notes(result) for result in results)
    assert "memory" in {stage.stage for stage in results[5].timing}
    ended = node.stream_status()
    assert (ended.running, ended.sessions, ended.memory_bytes) == (False, 0, 0)


def test_every_camera_has_its_own_memory(
    node: MemoryClient, cameras: dict[str, Clip], engine: XSam, eventually: Eventually
) -> None:
    for camera in cameras:
        node.set_stream(TEXT, camera=camera)
    eventually(lambda: all(len(results) >= 8 for results in node.results.values()), "results")
    assert [node.stream_status(camera).sessions for camera in cameras] == [1, 1]
    for camera in cameras:
        node.set_stream(camera=camera)
    for camera, clip in cameras.items():
        _equal_those_of_a_session(engine, clip, node.results[camera], Query(text=TEXT), least=8)


def test_time_that_jumps_back_and_another_size_begin_another_video(
    node: MemoryClient, cameras: dict[str, Clip], engine: XSam, eventually: Eventually
) -> None:
    """Track ids go on from the last one: an object of another video is never taken for one of this."""
    clip, results = cameras["front"], node.results["front"]
    node.set_stream(TEXT)
    eventually(lambda: len(results) >= 4, "results")
    clip.clock_s = 300  # it counts images, whose number by now depends on the machine
    eventually(lambda: any(r.header.stamp.sec < 1000 for r in list(results)[-2:]), "results after the jump")
    clip.rows = 40
    eventually(lambda: sum(result.image_height == 40 for result in list(results)) >= 4, "smaller images")
    node.set_stream()
    _equal_those_of_a_session(engine, clip, results, Query(text=TEXT), least=9)
    parts: dict[tuple[int, bool], set[int]] = {}
    for result in results:
        key = (result.image_height, result.header.stamp.sec < 1000)
        parts.setdefault(key, set()).update(item.track_id for item in result.instances)
    ids = [id_ for part in parts.values() for id_ in part]
    assert len(parts) == 3
    assert len(ids) == len(set(ids))
    assert 0 not in ids


def test_another_query_begins_another_session(
    node: MemoryClient, cameras: dict[str, Clip], engine: XSam, eventually: Eventually
) -> None:
    results = node.results["front"]
    for text in (TEXT, "water"):
        node.set_stream(text)
        eventually(lambda text=text: len(_of(results, text)) >= 5, "results")
    node.set_stream()
    for text in (TEXT, "water"):
        found = _of(results, text)
        _equal_those_of_a_session(engine, cameras["front"], found, Query(text=text), least=5)


def test_a_deadline_drops_frames_and_nothing_else(
    node: MemoryClient, cameras: dict[str, Clip], engine: XSam, eventually: Eventually
) -> None:
    results = node.results["front"]
    node.set_stream(TEXT)
    eventually(lambda: len(results) >= 3, "results")
    assert node.set("default_timeout_s", 0.01).successful
    refused = node.stream_status().refused
    eventually(lambda: node.stream_status().refused >= refused + 3, "frames without time")
    assert node.set("default_timeout_s", 30.0).successful
    before = len(results)
    eventually(lambda: len(results) >= before + 4, "results again")
    node.set_stream()
    _equal_those_of_a_session(engine, cameras["front"], results, Query(text=TEXT), least=7)


@pytest.mark.parametrize(
    ("parameter", "value", "reason", "note"),
    [
        ("memory", "off", "parameter memory is off", ""),
        ("memory_mb", 0, "query 1: it takes up to", "segmented without memory of earlier frames: it takes"),
    ],
)
def test_without_memory_every_frame_is_an_image_and_the_stream_says_why(
    node: MemoryClient,
    cameras: dict[str, Clip],
    engine: XSam,
    eventually: Eventually,
    parameter: str,
    value: Any,
    reason: str,
    note: str,
) -> None:
    assert node.set(parameter, value).successful
    node.set_stream(TEXT)
    results = node.results["front"]
    eventually(lambda: len(results) >= 3, "results")
    stream = node.stream_status()
    assert (stream.sessions, stream.memory_bytes) == (0, 0)
    assert stream.no_memory_reason.startswith(reason)
    node.set_stream()
    for message in results:
        rgb = cameras["front"].seen[message.header.stamp.sec, message.image_height]
        expected = engine.segment(rgb, TEXT)
        assert result_from_message(message, query=Query(text=TEXT)).segments.masks == expected.segments.masks
        assert [text.startswith(note) for text in _memory_notes(message)] == [True] * bool(note)


def test_a_query_that_generates_text_is_answered_without_a_session(
    node: MemoryClient, eventually: Eventually
) -> None:
    request = messages.SegmentQuery(text="what is there?", explain=True)
    node.set_stream_queries([request, messages.SegmentQuery(text=TEXT)])
    results = node.results["front"]
    eventually(lambda: len(results) >= 4, "results", 60.0)
    stream = node.stream_status()
    assert (stream.sessions, stream.no_memory_reason) == (
        1,
        "query 1: a video session segments, it does not generate text",
    )
    assert not any(_memory_notes(result) for result in results)


def test_a_request_with_the_words_of_the_stream_looks_with_its_memory(
    node: MemoryClient, cameras: dict[str, Clip], engine: XSam, eventually: Eventually
) -> None:
    """The stream never notices: its own results are as if nobody had asked."""
    clip, results = cameras["front"], node.results["front"]
    node.set_stream(TEXT)
    eventually(lambda: len(results) >= 5, "results")
    (response,) = node.segment(TEXT, camera="front").results
    (other,) = node.segment("the mug", camera="front").results
    (elsewhere,) = node.segment(TEXT, camera="rear").results
    before = len(results)
    eventually(lambda: len(results) >= before + 3, "more results")
    node.set_stream()
    note = "segmented with the memory of the camera's stream, which has this query"
    assert _memory_notes(response) == [note]
    assert _memory_notes(other) == _memory_notes(elsewhere) == []
    of_the_stream = [result for result in results if result.stream_id]
    _equal_those_of_a_session(engine, clip, of_the_stream, Query(text=TEXT), least=8)
    stamp = response.header.stamp.sec
    seen = [r.header.stamp.sec for r in of_the_stream if r.header.stamp.sec < stamp]
    expected = []
    for stamps in ([*seen, stamp], [*seen, stamp, stamp]):  # the stream had not seen the frame before, or had
        session = engine.open_session(TEXT, refresh_every=REFRESH)
        frames = [Frame(rgb=clip.seen[s, 48], stamp_ns=s * 10**9) for s in stamps]
        expected.append([session.step(frame) for frame in frames][-1].segments.masks)
    assert result_from_message(response, query=Query(text=TEXT)).segments.masks in expected
