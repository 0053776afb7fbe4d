"""Clients and cameras are killed, requests are hostile: the node still handles the next good request."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.ros.fuzz import fuzz
from benchmarks.ros.load import LoadClient
from tests.ros.node_client import NodeClient

Spawn = Callable[..., Any]
Eventually = Callable[..., Any]

_CLIENT = """
from xsam import Frame, Query
from xsam_ros.client import RosSegmenter
import numpy as np
with RosSegmenter("/xsam") as segmenter:
    print("requesting", flush=True)
    segmenter.segment(Frame(rgb=np.zeros((24, 32, 3), np.uint8)), [Query(text="slow")], deadline_s=30.0)
    print("done", flush=True)
"""


@pytest.fixture(scope="module")
def node(module_spawn: Spawn, module_ros: Any, eventually: Eventually) -> NodeClient:
    module_spawn("-m", "tests.ros.color_node", params={"cameras": "[front]"})
    node = NodeClient(module_ros)
    eventually(lambda: node.active, "the active state")
    return node


def test_a_client_that_is_killed_during_a_call(node: NodeClient, eventually: Eventually) -> None:
    """Its response has no receiver; the model is free again once it is done."""
    client = subprocess.Popen([sys.executable, "-c", _CLIENT], stdout=subprocess.PIPE, text=True)
    try:
        eventually(lambda: node.status.busy, "the request of the client", 30.0)
        client.send_signal(signal.SIGKILL)
        assert client.wait(10.0) == -signal.SIGKILL
    finally:
        client.kill()
        client.communicate()
    eventually(lambda: node.idle, "an idle model")
    assert node.segment().code == ""


def test_a_camera_that_is_killed_and_restarted(
    spawn: Spawn, node: NodeClient, eventually: Eventually
) -> None:
    """SIGKILL leaves the middleware no time to announce it: frames that are too old are still refused."""
    small = {"camera": "front", "width": 64, "height": 48, "rate_hz": 20.0, "seed": 3}
    assert node.set("max_frame_age_s", 0.5).successful
    camera = spawn("-m", "xsam_ros.camera_sim", params=small, exit_code=-signal.SIGKILL)
    eventually(lambda: node.segment("blue", camera="front").code == "", "results", 30.0)
    camera.send_signal(signal.SIGKILL)
    camera.wait()
    eventually(lambda: node.segment("blue", camera="front").code == "STALE_FRAME", "a refusal")
    spawn("-m", "xsam_ros.camera_sim", params={**small, "width": 96, "height": 80, "encoding": "bgr8"})
    eventually(lambda: node.segment("blue", camera="front").code == "", "results again", 30.0)
    (result,) = node.segment("blue", camera="front").results
    assert (result.image_height, result.image_width) == (80, 96)


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("kind", "count"),
    [("points", 2_000_000), ("names", 1_000_000), ("prompts", 200_000), ("queries", 200_000)],
)
def test_other_calls_are_answered_while_a_long_request_arrives(
    node: NodeClient, kind: str, count: int
) -> None:
    """It became Python objects first, which took a minute; `benchmarks.ros.responsiveness` has the times."""
    command = [sys.executable, "-m", "benchmarks.ros.hostile", kind, str(count)]
    hostile = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert hostile.stdout is not None
        assert hostile.stdout.readline() == "sent\n"
        answered = 0
        while hostile.poll() is None:
            assert node.status.state == "active"
            answered += 1
        assert answered >= 1
        assert "more than 30,000 queries, names, prompts and points together" in hostile.stdout.read()
    finally:
        hostile.kill()
        hostile.communicate()


def test_hostile_requests_all_end(node: NodeClient) -> None:
    """Run a part of `make fuzz`, with a model that takes no time."""
    with LoadClient(f"fuzz_{time.monotonic_ns()}") as client:
        report = fuzz(client, range(1000, 1060))
    assert report["lost_requests"] == []
    assert report["requests"] == 60
    assert set(report["refusals"]) >= {"INVALID_QUERY", "INVALID_IMAGE"}
    assert report["failures"] == {}
    assert node.segment().code == ""
