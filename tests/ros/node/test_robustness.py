"""Processes die, weights are damaged, requests are hostile: the node answers the next good request."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.ros.fuzz import fuzz
from benchmarks.ros.load import LoadClient
from xsam.weights.checkpoint import resolve_model
from xsam_ros.messages.images import image_from_array
from xsam_ros.msg import SegmentQuery
from xsam_ros.srv import GetStatus, Segment

Spawn = Callable[..., Any]
Eventually = Callable[..., Any]

_BLUE = image_from_array(np.full((24, 32, 3), (0, 0, 255), np.uint8), "rgb8")

_CLIENT = """
from xsam import Frame, Query
from xsam_ros.client import RosSegmenter
import numpy as np
with RosSegmenter("/xsam") as segmenter:
    print("asking", flush=True)
    segmenter.segment(Frame(rgb=np.zeros((24, 32, 3), np.uint8)), [Query(text="slow")], deadline_s=30.0)
    print("answered", flush=True)
"""


def _ask(ros: Any, text: str, **fields: Any) -> Segment.Response:
    if not fields:
        fields = {"image": _BLUE}
    request = Segment.Request(queries=[SegmentQuery(text=text)], timeout_s=10.0, **fields)
    return ros.call(Segment, "/xsam/segment", request)


def _status(ros: Any) -> GetStatus.Response:
    return ros.call(GetStatus, "/xsam/get_status", GetStatus.Request())


def test_a_client_that_is_killed_in_the_middle_of_a_call(
    spawn: Spawn, ros: Any, eventually: Eventually
) -> None:
    """Its answer has nowhere to go; the model is free again when it is ready."""
    spawn("-m", "tests.ros.color_node", params={"cameras": "[front]"})
    eventually(lambda: _status(ros).state == "active", "the active state")
    client = subprocess.Popen([sys.executable, "-c", _CLIENT], stdout=subprocess.PIPE, text=True)
    try:
        eventually(lambda: _status(ros).busy, "the request of the client", 30.0)
        client.send_signal(signal.SIGKILL)
        assert client.wait(10.0) == -signal.SIGKILL
    finally:
        client.kill()
        client.communicate()
    eventually(lambda: not _status(ros).busy, "a model that is free")
    assert _ask(ros, "blue").code == ""


def test_a_camera_that_is_killed_and_started_again(spawn: Spawn, ros: Any, eventually: Eventually) -> None:
    """SIGKILL leaves the middleware no time to say goodbye: no frame is served that is too old."""
    small = {"camera": "front", "width": 64, "height": 48, "rate_hz": 20.0, "seed": 3}
    spawn("-m", "tests.ros.color_node", params={"cameras": "[front]", "max_frame_age_s": 0.5})
    camera = spawn("-m", "xsam_ros.camera_sim", params=small, exit_code=-signal.SIGKILL)
    eventually(lambda: _ask(ros, "blue", camera="front").code == "", "an answer", 30.0)
    camera._popen.send_signal(signal.SIGKILL)
    camera.wait()
    eventually(lambda: _ask(ros, "blue", camera="front").code == "STALE_FRAME", "a refusal")
    spawn("-m", "xsam_ros.camera_sim", params={**small, "width": 96, "height": 80, "encoding": "bgr8"})
    eventually(lambda: _ask(ros, "blue", camera="front").code == "", "an answer again", 30.0)
    (result,) = _ask(ros, "blue", camera="front").results
    assert (result.image_height, result.image_width) == (80, 96)


@pytest.mark.slow
def test_damaged_weights_are_named_and_the_node_lives(
    spawn: Spawn, ros: Any, eventually: Eventually, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(resolve_model("tiny")[0], damaged)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    spawn("-m", "xsam_ros.segmenter_node", params={"model": str(damaged), "cameras": "[front]"})
    status = eventually(lambda: (s := _status(ros)).last_error and s, "the reason", 120.0)
    assert "model.safetensors" in status.last_error
    assert status.state == "unconfigured"
    response = _ask(ros, "blue")
    assert (response.status, response.code) == (Segment.Response.STATUS_REFUSED, "NOT_ACTIVE")


def test_hostile_requests_all_end(spawn: Spawn, ros: Any, eventually: Eventually) -> None:
    """A part of `make fuzz`, with a model that needs no time."""
    spawn("-m", "tests.ros.color_node", params={"cameras": "[front]"})
    eventually(lambda: _status(ros).state == "active", "the active state")
    with LoadClient(f"fuzz_{time.monotonic_ns()}") as client:
        report = fuzz(client, range(1000, 1060))
    assert report["lost_requests"] == []
    assert report["requests"] == 60
    assert set(report["refusals"]) >= {"INVALID_QUERY", "INVALID_IMAGE"}
    assert report["failures"] == {}
    assert _ask(ros, "blue").code == ""
