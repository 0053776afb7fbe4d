"""Streams of `RosSegmenter`: only their own results, and an end that is told with its reason."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from lifecycle_msgs.msg import Transition
from std_msgs.msg import Header

from tests.ros.image_driver import ImageDriver
from tests.ros.node_client import NodeClient
from xsam import (
    CameraRef,
    DeadlineExceededError,
    InvalidQueryError,
    Query,
    SegmentationResult,
    StreamEndedError,
    StreamTakenError,
)
from xsam_ros.client import RosSegmenter
from xsam_ros.messages.image_messages import image_from_array

Eventually = Callable[..., Any]
_RED, _GREEN = Query(text="red"), Query(text="green")


@pytest.fixture(scope="module")
def camera(module_ros: Any) -> Iterator[ImageDriver]:
    rgb = np.full((24, 32, 3), 120, np.uint8)
    rgb[5:15, 5:15], rgb[18:22, 20:30] = (255, 0, 0), (0, 255, 0)
    image = image_from_array(rgb, "rgb8", Header(frame_id="lens_optical"))
    with ImageDriver(module_ros, image, "/front/image_raw") as camera:
        yield camera


@pytest.fixture(scope="module")
def clients(
    module_spawn: Callable[..., Any], camera: ImageDriver, eventually: Eventually
) -> Iterator[tuple[RosSegmenter, RosSegmenter]]:
    params = {"cameras": "[front, dark]", "max_frame_age_s": 5.0}
    module_spawn("tests/ros/color_node.py", params=params)
    with RosSegmenter("/xsam", owner="picker") as picker, RosSegmenter("/xsam", owner="navigator") as other:
        eventually(lambda: picker.status(deadline_s=15.0).state == "active", "the active state", 60.0)
        eventually(lambda: picker.status().cameras[0].frames, "frames")
        yield picker, other
        assert not any(camera.stream.running for camera in picker.status().cameras)


def test_a_second_stream_is_refused_and_the_first_goes_on(
    clients: tuple[RosSegmenter, RosSegmenter],
) -> None:
    picker, navigator = clients
    with picker.start_stream("front", [_RED]) as stream:
        assert stream.next().found
        with pytest.raises(StreamTakenError, match="'picker'") as caught:
            navigator.start_stream("front", [_GREEN])
        assert caught.value.owner == "picker"
        with pytest.raises(StreamTakenError):
            picker.start_stream("front", [_GREEN])
        with pytest.raises(StreamTakenError):
            navigator.stop_stream("front")
        for _ in range(3):
            assert stream.next().query is _RED


def test_a_replaced_owner_is_told_and_never_gets_results_of_the_other(
    clients: tuple[RosSegmenter, RosSegmenter],
) -> None:
    """Both ask the same words, so nothing but the id tells their results apart."""
    picker, navigator = clients
    first = picker.start_stream("front", [_RED])
    first.next()
    with navigator.start_stream("front", [_RED], replace=True) as second:
        assert second.next().found
        received: list[SegmentationResult] = []
        with pytest.raises(StreamEndedError, match="'navigator' replaced it") as caught:
            received.extend(first)
        assert caught.value.reason == "REPLACED"
        assert len(received) < 32
        with pytest.raises(StreamEndedError):
            first.next(deadline_s=1.0)
        first.close()
        picker.stop_stream("dark")
        assert second.next().found, "the first owner does not stop what is not its own"


def test_results_of_requests_are_not_delivered(clients: tuple[RosSegmenter, RosSegmenter]) -> None:
    """A stream also delivered the results of other clients' requests for the same text."""
    picker, navigator = clients
    with picker.start_stream("front", [_RED], rate_hz=0.5) as stream:
        stamps = [stream.next().stamp_ns]
        for _ in range(10):
            assert navigator.segment(CameraRef(name="front"), [_RED], deadline_s=10.0)[0].found
        stamps.append(stream.next().stamp_ns)
    assert stamps[1] - stamps[0] > 1e9, "the next result is the stream's own, after two seconds"


def test_the_client_keeps_its_lease(clients: tuple[RosSegmenter, RosSegmenter]) -> None:
    picker, _ = clients
    with picker.start_stream("front", [_RED], lease_s=1.0, rate_hz=10.0) as stream:
        first = stream.next()
        while stream.next().stamp_ns - first.stamp_ns < 3e9:
            pass
        status = next(c for c in picker.status().cameras if c.name == "front").stream
        assert (status.stream_id, status.owner, status.lease_s) == (stream.stream_id, "picker", 1.0)
        assert status.age_s > 2.5


def test_stopping_ends_the_iteration(clients: tuple[RosSegmenter, RosSegmenter]) -> None:
    picker, _ = clients
    stream = picker.start_stream("front", [_RED])
    with ThreadPoolExecutor() as pool:
        reading = pool.submit(list, stream)
        stream.next()
        picker.stop_stream("front")
        reading.result(10.0)  # the iteration has ended, without an error
    with pytest.raises(StreamEndedError) as caught:
        stream.next()
    assert caught.value.reason == "STOPPED"


def test_an_error_in_the_block_is_not_replaced_by_one_of_stopping(
    clients: tuple[RosSegmenter, RosSegmenter],
) -> None:
    picker, _ = clients

    def fail_in_a_closed_client() -> None:
        with RosSegmenter("/xsam") as short, short.start_stream("front", [_RED]):
            short.close()
            raise ZeroDivisionError

    def read_what_is_replaced() -> None:
        with picker.start_stream("front", [_RED]) as stream:
            picker.start_stream("front", [_GREEN], replace=True)
            for _ in stream:
                pass

    with pytest.raises(ZeroDivisionError):
        fail_in_a_closed_client()
    with pytest.raises(StreamEndedError) as caught:
        read_what_is_replaced()
    assert caught.value.reason == "REPLACED"
    picker.stop_stream("front")


def test_closing_the_client_stops_what_has_a_lease(clients: tuple[RosSegmenter, RosSegmenter]) -> None:
    picker, _ = clients
    with RosSegmenter("/xsam") as short:
        stream = short.start_stream("front", [_RED])
        stream.next()
    status = next(c for c in picker.status().cameras if c.name == "front").stream
    assert not status.running
    assert "xsam_client_" in status.owner, "without a name, that of the program and the node"
    with RosSegmenter("/xsam", owner="lasting") as short:
        short.start_stream("front", [_RED], lease_s=0.0)
    assert next(c for c in picker.status().cameras if c.name == "front").stream.running
    picker.stop_stream("front", replace=True)


def test_a_client_that_dies_does_not_keep_the_camera(
    clients: tuple[RosSegmenter, RosSegmenter], eventually: Eventually
) -> None:
    picker, _ = clients
    code = """
import time
from xsam import Query
from xsam_ros.client import RosSegmenter
RosSegmenter("/xsam", owner="mortal").start_stream("front", [Query(text="red")], deadline_s=20.0, lease_s=2.0)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code]) as mortal:

        def stream() -> Any:
            return next(c for c in picker.status().cameras if c.name == "front").stream

        try:
            eventually(lambda: stream().owner == "mortal" and stream().running, "its stream")
        finally:
            mortal.send_signal(signal.SIGKILL)
    eventually(lambda: not stream().running, "the end of its lease", 10.0)
    assert "'mortal' did not renew its lease" in stream().end_message


def test_a_silent_camera_is_named(clients: tuple[RosSegmenter, RosSegmenter]) -> None:
    picker, _ = clients
    with (
        picker.start_stream("dark", [_RED], wait_s=4.5) as stream,
        pytest.raises(DeadlineExceededError, match=r"NO_FRAME: no frame on /dark/image_raw for"),
    ):
        next(iter(stream))


@pytest.mark.parametrize("lease_s", [-1.0, 0.3, float("nan")])
def test_an_impossible_lease(clients: tuple[RosSegmenter, RosSegmenter], lease_s: float) -> None:
    with pytest.raises(InvalidQueryError, match="lease_s must be 0"):
        clients[0].start_stream("front", [_RED], lease_s=lease_s)


def test_deactivation_is_told_at_once(
    clients: tuple[RosSegmenter, RosSegmenter], module_ros: Any, eventually: Eventually
) -> None:
    """After deactivate and activate, a stream was gone without notice."""
    picker, navigator = clients
    node = NodeClient(module_ros)
    errors: list[StreamEndedError] = []

    def read() -> None:
        try:
            with picker.start_stream("front", [_RED], wait_s=30.0) as stream:
                started.set()
                for _ in stream:
                    pass
        except StreamEndedError as error:
            errors.append(error)

    started = threading.Event()
    reader = threading.Thread(target=read)
    reader.start()
    assert started.wait(10.0)
    assert node.change(Transition.TRANSITION_DEACTIVATE)
    began_s = time.monotonic()
    reader.join(10.0)
    assert not reader.is_alive()
    assert time.monotonic() - began_s < 5.0
    assert (errors[0].reason, errors[0].code) == ("DEACTIVATED", "STREAM_ENDED")
    assert "the node was deactivated" in errors[0].message
    assert node.change(Transition.TRANSITION_ACTIVATE)
    with navigator.start_stream("front", [_RED]) as stream:
        assert stream.next().found
