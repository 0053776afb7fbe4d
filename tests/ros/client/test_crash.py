"""A client whose node crashes: it hears of that soon, or gets its result from the next node."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from xsam import Frame, NotActiveError, Query, SegmenterUnavailableError, StreamEndedError
from xsam_ros.client import RosSegmenter

Spawn = Callable[..., Any]
Eventually = Callable[..., Any]
_FRAME = Frame(rgb=np.full((20, 30, 3), (255, 0, 0), np.uint8))
_STUCK = [Query(text="stuck endless red")]


def _killed_while_busy(spawn: Spawn, segmenter: RosSegmenter, eventually: Eventually, pending: Any) -> None:
    """Kill the node once it has the request of a client."""
    process = spawn("tests/ros/color_node.py", exit_code=-signal.SIGKILL)
    eventually(lambda: segmenter.status(deadline_s=30.0).state == "active", "the active state")
    pending()
    eventually(lambda: segmenter.status().busy, "a running request")
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("over", ["service", "action"])
def test_a_node_that_crashes_and_returns(spawn: Spawn, eventually: Eventually, over: str) -> None:
    """The client waited for its whole 60 s, and was told to allow more."""
    texts = iter(["stuck endless red"])
    with RosSegmenter("/xsam") as segmenter, RosSegmenter("/xsam") as client, ThreadPoolExecutor() as pool:
        futures: list[Any] = []
        hook: dict[str, Any] = {} if over == "service" else {"on_stage": lambda _: None}

        def send() -> None:
            query = [Query(text=f"{next(texts)}")]
            futures.append(pool.submit(client.segment, _FRAME, query, deadline_s=60.0, **hook))

        _killed_while_busy(spawn, segmenter, eventually, send)
        killed_s = time.monotonic()
        # The next node is patient with the same text: only its first call tells whether it arrived again.
        spawn("tests/ros/color_node.py")
        eventually(lambda: segmenter.status(deadline_s=30.0).state == "active", "the next node", 40.0)
        if over == "service":
            eventually(lambda: segmenter.status().busy, "the request, sent again")
        else:
            with pytest.raises(SegmenterUnavailableError, match=r"restarted|vanished"):
                futures[0].result(30.0)
        assert time.monotonic() - killed_s < 30.0
        client.close()  # ends the call that is still pending


def test_streams_over_a_crash(spawn: Spawn, eventually: Eventually) -> None:
    """Calls waited for their whole deadline and were told to allow more; a running stream heard nothing."""
    process = spawn("tests/ros/color_node.py", exit_code=-signal.SIGKILL)
    with RosSegmenter("/xsam") as client:
        eventually(lambda: client.status(deadline_s=30.0).state == "active", "the active state")
        stream = client.start_stream("camera", [Query(text="red")])
        process.send_signal(signal.SIGKILL)
        process.wait()
        for call in (
            lambda: client.start_stream("camera", [Query(text="red")], deadline_s=1.5),
            lambda: client.stop_stream("camera", deadline_s=1.5),
            lambda: stream.next(deadline_s=1.5),
        ):
            with pytest.raises(SegmenterUnavailableError, match="respond"):
                call()
        spawn("tests/ros/color_node.py")
        with pytest.raises(StreamEndedError, match=r"restarted|vanished") as caught:
            stream.next(deadline_s=40.0)
        assert caught.value.reason == "NODE_LOST"
        eventually(lambda: client.status(deadline_s=30.0).state == "active", "the next node", 40.0)
        with client.start_stream("camera", [Query(text="red")], deadline_s=20.0) as stream:
            assert client.status().cameras[0].stream.stream_id == stream.stream_id


def test_a_start_of_a_stream_is_sent_again_to_the_next_node(spawn: Spawn, eventually: Eventually) -> None:
    process = spawn("tests/ros/color_node.py", exit_code=-signal.SIGKILL)
    with RosSegmenter("/xsam") as client, ThreadPoolExecutor() as pool:
        eventually(lambda: client.status(deadline_s=30.0).state == "active", "the active state")
        process.send_signal(signal.SIGSTOP)  # it has the request, and crashes before it responds
        starting = pool.submit(client.start_stream, "camera", [Query(text="red")], deadline_s=60.0)
        time.sleep(0.5)
        process.send_signal(signal.SIGKILL)
        process.wait()
        spawn("tests/ros/color_node.py", params={"autostart": "false"})
        with pytest.raises(NotActiveError, match="unconfigured"):  # so the next node has it
            starting.result(40.0)


@pytest.mark.slow
def test_a_node_that_crashes_and_stays_away(spawn: Spawn, eventually: Eventually) -> None:
    ended = threading.Event()
    errors: list[BaseException] = []
    with RosSegmenter("/xsam") as segmenter, RosSegmenter("/xsam") as client:

        def call() -> None:
            try:
                client.segment(_FRAME, _STUCK, deadline_s=60.0)
            except Exception as error:
                errors.append(error)
            ended.set()

        _killed_while_busy(spawn, segmenter, eventually, threading.Thread(target=call).start)
        started_s = time.monotonic()
        assert ended.wait(50.0), "the middleware notices a missing process after 20 s"
        assert time.monotonic() - started_s < 40.0
    assert isinstance(errors[0], SegmenterUnavailableError)
    assert "vanished" in errors[0].message
    assert "longer deadline" not in str(errors[0])
