"""The lifecycle of the node, and how its process ends."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lifecycle_msgs.msg import Transition
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter

from tests.ros.color_node import load
from tests.ros.node_client import NodeClient
from xsam import XSamError
from xsam.weights.checkpoint import resolve_model
from xsam.worker import ModelWorker
from xsam_ros.node.node import SegmenterNode
from xsam_ros.node.streams import Streams
from xsam_ros.srv import Segment

Spawn = Callable[..., Any]
Eventually = Callable[..., Any]


@pytest.fixture
def node(ros: Any) -> NodeClient:
    return NodeClient(ros)


def test_the_whole_lifecycle(spawn: Spawn, node: NodeClient, eventually: Eventually) -> None:
    process = spawn("tests/ros/color_node.py", params={"autostart": "false"})
    assert node.state == "unconfigured"
    assert node.segment().code == "NOT_ACTIVE"

    assert not node.change(Transition.TRANSITION_ACTIVATE), "an impossible transition gets a response"
    assert node.state == "unconfigured"
    empty_mb = process.resident_mb

    assert node.set("cameras", ["a", "b"]).successful
    assert node.change(Transition.TRANSITION_CONFIGURE)
    assert process.resident_mb > empty_mb + 40, "the model was loaded"
    assert [camera.name for camera in node.status.cameras] == ["a", "b"]
    assert node.segment().code == "NOT_ACTIVE"

    assert node.change(Transition.TRANSITION_ACTIVATE)
    assert node.segment().code == ""
    assert not node.set("model", "other").successful

    running = node.segment_later("slow")
    eventually(lambda: node.status.busy, "a running request")
    waiting = node.segment_later("red")
    eventually(lambda: node.status.waiting, "a waiting request")
    assert node.change(Transition.TRANSITION_DEACTIVATE)
    eventually(lambda: running.done() and waiting.done(), "both refusals", 1.0)
    assert (running.result().code, waiting.result().code) == ("NOT_ACTIVE", "NOT_ACTIVE")
    assert node.segment().code == "NOT_ACTIVE"

    assert node.change(Transition.TRANSITION_ACTIVATE)
    assert node.segment().code == ""
    assert node.change(Transition.TRANSITION_DEACTIVATE)
    assert node.change(Transition.TRANSITION_CLEANUP)
    assert process.resident_mb < empty_mb + 20, "cleanup releases the memory of the model"
    assert node.status.model_id == ""
    assert node.set("model", "other").successful
    assert node.change(Transition.TRANSITION_CONFIGURE)
    assert node.change(Transition.TRANSITION_ACTIVATE)
    assert node.segment().code == ""
    assert node.change(Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert node.status.state == "finalized"


def test_other_services_respond_while_the_model_loads_and_runs(
    spawn: Spawn, node: NodeClient, eventually: Eventually
) -> None:
    """The executor never waits for the model, which loads for 3 s and runs for 3 s."""
    spawn("tests/ros/color_node.py", params={"autostart": "false", "model": "large"})
    assert node.state == "unconfigured"

    def states() -> list[str]:
        """Return the states from two services, after parameters were set and read."""
        assert node.set("default_timeout_s", 20.0).successful
        assert node.get_integer("queue_size") == 8
        return [node.state, node.status.state]

    configured = node.change_later(Transition.TRANSITION_CONFIGURE)
    eventually(lambda: node.state == "configuring", "loading to begin", 2.0)
    assert states() == ["configuring", "configuring"]
    assert "wait" in node.segment().hint, "the advice was to configure the node"
    assert not configured.done(), "all of that while the model was loading"
    eventually(configured.done, "the end of loading")
    assert configured.result().success
    assert node.change(Transition.TRANSITION_ACTIVATE)
    running = node.segment_later("stuck slow red")
    eventually(lambda: node.status.busy, "a running request")
    assert states() == ["active", "active"]
    assert not running.done(), "and while the model was running"
    assert node.change(Transition.TRANSITION_DEACTIVATE)
    eventually(running.done, "the refusal")
    assert running.result().code == "NOT_ACTIVE"
    assert node.change(Transition.TRANSITION_ACTIVATE)


def test_a_model_that_cannot_be_loaded(spawn: Spawn, node: NodeClient, eventually: Eventually) -> None:
    """The node reports why and waits for a correction, instead of exiting or pretending to work."""
    process = spawn("tests/ros/color_node.py", params={"model": "missing"})
    eventually(lambda: node.status.last_error, "the error")
    assert "no checkpoint in missing" in node.status.last_error
    eventually(lambda: node.state == "unconfigured", "the end of the transition")
    assert node.segment().code == "NOT_ACTIVE"
    assert "CHECKPOINT" in process.output
    assert node.set("model", "tiny").successful
    assert node.change(Transition.TRANSITION_CONFIGURE)
    assert node.status.last_error == ""
    assert node.change(Transition.TRANSITION_ACTIVATE)
    assert node.segment().code == ""


@pytest.mark.slow
def test_damaged_weights_are_named_and_the_node_stays_up(
    spawn: Spawn, node: NodeClient, eventually: Eventually, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(resolve_model("tiny")[0], damaged)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    spawn("-m", "xsam_ros.segmenter_node", params={"model": str(damaged), "cameras": "[front]"})
    status = eventually(lambda: (s := node.status).last_error and s, "the reason", 120.0)
    assert "model.safetensors" in status.last_error
    # The reason is there before the transition has ended: status calls respond while the model loads.
    eventually(lambda: node.status.state == "unconfigured", "the end of the transition")
    response = node.segment()
    assert (response.status, response.code) == (Segment.Response.STATUS_REFUSED, "NOT_ACTIVE")


def test_interrupted_while_the_model_runs(spawn: Spawn, node: NodeClient, eventually: Eventually) -> None:
    process = spawn("tests/ros/color_node.py")
    eventually(lambda: node.active, "the active state")
    node.segment_later("slow")
    eventually(lambda: node.status.busy, "a running request")
    process.interrupt()
    process.interrupt()  # from an impatient Ctrl-C
    assert process.wait() == 0, process.output


_INVALID_PARAMETERS: dict[str, tuple[dict[str, Any], str]] = {
    "range": ({"queue_size": 0}, "queue_size"),
    "name": ({"cameras": "['Not A Name']"}, "is not a camera name"),
    "choice": ({"dtype": "float3"}, "float32"),
}


@pytest.fixture(scope="module")
def refused_processes(module_spawn: Spawn) -> dict[str, Any]:
    """Start a process with each invalid parameter, all at once."""
    return {
        name: module_spawn("tests/ros/color_node.py", params=params, exit_code=2)
        for name, (params, _) in _INVALID_PARAMETERS.items()
    }


@pytest.mark.parametrize("name", _INVALID_PARAMETERS)
def test_an_invalid_parameter_ends_the_program_with_one_line(
    refused_processes: dict[str, Any], name: str
) -> None:
    process = refused_processes[name]
    assert process.wait() == 2
    assert _INVALID_PARAMETERS[name][1] in process.output
    assert "Traceback" not in process.output


def test_streams_stop_before_waiting_requests_are_refused(ros: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a stream that waits for its results reports the refusal as its failure, now and then."""
    parameters = {"autostart": False, "cameras": ["front"], "front.stream_text": "red"}
    overrides = [Parameter(name, value=value) for name, value in parameters.items()]
    node = SegmenterNode("alone", engine_factory=load, context=ros.context, parameter_overrides=overrides)
    events: list[str] = []
    refuse, stop_all = ModelWorker.refuse, Streams.stop_all

    def observed_refuse(worker: ModelWorker, error: XSamError) -> None:
        events.append("refuse")
        refuse(worker, error)

    def observed_stop_all(streams: Streams, reason: str) -> None:
        events.append("stop streams")
        stop_all(streams, reason)

    def stream_is_running() -> bool:
        return any(thread.name == "xsam_stream_front" for thread in threading.enumerate())

    monkeypatch.setattr(ModelWorker, "refuse", observed_refuse)
    monkeypatch.setattr(Streams, "stop_all", observed_stop_all)
    try:
        assert node.trigger_configure() == node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        assert stream_is_running()
        events.clear()
        assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
        assert events == ["stop streams", "refuse"]
        assert not stream_is_running()
    finally:
        node.stop()
        node.destroy_node()


def test_a_destroyed_node_leaves_no_lifecycle_services(ros: Any, eventually: Eventually) -> None:
    """Leftover services would take the requests for the next node of that name in the process."""
    node = SegmenterNode(
        "short_lived", context=ros.context, parameter_overrides=[Parameter("autostart", value=False)]
    )

    def services() -> set[str]:
        names = {name for name, _ in ros.node.get_service_names_and_types()}
        return {name for name in names if name.startswith("/short_lived/")}

    lifecycle = {f"/short_lived/{name}" for name in ("change_state", "get_state", "get_available_states")}
    eventually(lambda: lifecycle <= services(), "the services")
    node.stop()
    node.destroy_node()
    eventually(lambda: not lifecycle & services(), "the end of the services")
    assert node is not None, "kept, so that only destroy_node can have ended the services"
