"""The node through its lifecycle, and the end of its process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter as ParameterOverride

import xsam_ros.msg as messages
from tests.ros.color_node import load
from xsam import XSamError
from xsam_ros.messages.images import image_from_array
from xsam_ros.node.node import SegmenterNode
from xsam_ros.node.streams import StreamQuery
from xsam_ros.node.worker import ModelWorker
from xsam_ros.srv import GetStatus, Segment

Spawn = Callable[..., Any]
Eventually = Callable[..., Any]


class Node:
    """Shorthand for talking to the node under test."""

    def __init__(self, ros: Any, eventually: Eventually) -> None:
        self._ros = ros
        self._eventually = eventually

    def change(self, transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return bool(self._ros.call(ChangeState, "/xsam/change_state", request).success)

    @property
    def state(self) -> str:
        return str(self._ros.call(GetState, "/xsam/get_state", GetState.Request()).current_state.label)

    @property
    def status(self) -> GetStatus.Response:
        return self._ros.call(GetStatus, "/xsam/get_status", GetStatus.Request())

    def request(self, text: str) -> Segment.Request:
        image = image_from_array(np.full((8, 8, 3), (255, 0, 0), np.uint8), "rgb8")
        return Segment.Request(queries=[messages.SegmentQuery(text=text)], image=image)

    def ask(self, text: str = "red") -> str:
        """The code of the response; "" when it was answered."""
        return str(self._ros.call(Segment, "/xsam/segment", self.request(text)).code)

    def ask_later(self, text: str) -> Any:
        client = self._ros.node.create_client(Segment, "/xsam/segment")
        self._eventually(client.service_is_ready, "service")
        return client.call_async(self.request(text))

    def put(self, name: str, **value: Any) -> Any:
        request = SetParameters.Request(parameters=[Parameter(name=name, value=ParameterValue(**value))])
        return self._ros.call(SetParameters, "/xsam/set_parameters", request).results[0]


@pytest.fixture
def node(ros: Any, eventually: Eventually) -> Node:
    return Node(ros, eventually)


def test_the_whole_way_round(spawn: Spawn, node: Node, eventually: Eventually) -> None:
    process = spawn("tests/ros/color_node.py", params={"autostart": "false"})
    assert node.state == "unconfigured"
    assert node.ask() == "NOT_ACTIVE"

    assert not node.change(Transition.TRANSITION_ACTIVATE), "an impossible transition is answered with no"
    assert node.state == "unconfigured"
    empty_mb = process.resident_mb

    assert node.put(
        "cameras", type=ParameterType.PARAMETER_STRING_ARRAY, string_array_value=["a", "b"]
    ).successful
    assert node.change(Transition.TRANSITION_CONFIGURE)
    assert process.resident_mb > empty_mb + 40, "the model was loaded"
    assert [camera.name for camera in node.status.cameras] == ["a", "b"]
    assert node.ask() == "NOT_ACTIVE"

    assert node.change(Transition.TRANSITION_ACTIVATE)
    assert node.ask() == ""
    assert not node.put("model", type=ParameterType.PARAMETER_STRING, string_value="other").successful

    running = node.ask_later("slow")
    eventually(lambda: node.status.busy, "a running request")
    waiting = node.ask_later("red")
    eventually(lambda: node.status.waiting, "a waiting request")
    assert node.change(Transition.TRANSITION_DEACTIVATE)
    eventually(lambda: running.done() and waiting.done(), "both refusals", 1.0)
    assert (running.result().code, waiting.result().code) == ("NOT_ACTIVE", "NOT_ACTIVE")
    assert node.ask() == "NOT_ACTIVE"

    assert node.change(Transition.TRANSITION_ACTIVATE)
    assert node.ask() == ""
    assert node.change(Transition.TRANSITION_DEACTIVATE)
    assert node.change(Transition.TRANSITION_CLEANUP)
    assert process.resident_mb < empty_mb + 20, "cleanup gives the memory of the model back"
    assert node.status.model_id == ""
    assert node.put("model", type=ParameterType.PARAMETER_STRING, string_value="other").successful
    assert node.change(Transition.TRANSITION_CONFIGURE)
    assert node.change(Transition.TRANSITION_ACTIVATE)
    assert node.ask() == ""
    assert node.change(Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert node.status.state == "finalized"


def test_everything_else_answers_while_the_model_loads_and_runs(
    spawn: Spawn, node: Node, ros: Any, eventually: Eventually
) -> None:
    """The executor never waits for the model: 3 s of loading and 1.5 s of inference hold nobody up."""
    spawn("tests/ros/color_node.py", params={"autostart": "false", "model": "large"})
    assert node.state == "unconfigured"
    request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE))
    client = ros.node.create_client(ChangeState, "/xsam/change_state")
    eventually(client.service_is_ready, "service")

    def answers() -> list[str]:
        """States, from two services, and whether parameters answer."""
        timeout = {"type": ParameterType.PARAMETER_DOUBLE, "double_value": 20.0}
        assert node.put("default_timeout_s", **timeout).successful
        get = GetParameters.Request(names=["queue_size"])
        assert ros.call(GetParameters, "/xsam/get_parameters", get).values[0].integer_value == 8
        return [node.state, node.status.state]

    configured = client.call_async(request)
    eventually(lambda: node.state == "configuring", "loading to begin", 2.0)
    assert answers() == ["configuring", "configuring"]
    assert not configured.done(), "all that was answered while the model was loading"
    eventually(configured.done, "the end of loading")
    assert configured.result().success
    assert node.change(Transition.TRANSITION_ACTIVATE)
    running = node.ask_later("stuck slow red")
    eventually(lambda: node.status.busy, "a running request")
    assert answers() == ["active", "active"]
    assert not running.done(), "and while it was running"
    assert node.change(Transition.TRANSITION_DEACTIVATE)
    eventually(running.done, "the refusal")
    assert running.result().code == "NOT_ACTIVE"
    assert node.change(Transition.TRANSITION_ACTIVATE)


def test_read_only_parameters_say_why_they_cannot_change(spawn: Spawn, node: Node) -> None:
    spawn("tests/ros/color_node.py")
    refused = node.put("autostart", type=ParameterType.PARAMETER_BOOL, bool_value=False)
    assert not refused.successful
    assert "read-only" in refused.reason
    too_long = node.put("track_lost_s", type=ParameterType.PARAMETER_DOUBLE, double_value=1e6)
    assert not too_long.successful
    assert "track_lost_s" in too_long.reason
    wrong_type = node.put("target_frame", type=ParameterType.PARAMETER_INTEGER, integer_value=1)
    assert not wrong_type.successful
    assert node.put("target_frame", type=ParameterType.PARAMETER_STRING, string_value="base_link").successful


def test_a_model_that_cannot_be_loaded(spawn: Spawn, node: Node, eventually: Eventually) -> None:
    """The node says why and waits to be told better, instead of dying or pretending to work."""
    process = spawn("tests/ros/color_node.py", params={"model": "missing"})
    eventually(lambda: node.status.last_error, "the error")
    assert "no checkpoint in missing" in node.status.last_error
    assert node.state == "unconfigured"
    assert node.ask() == "NOT_ACTIVE"
    assert "CHECKPOINT" in process.output
    assert node.put("model", type=ParameterType.PARAMETER_STRING, string_value="tiny").successful
    assert node.change(Transition.TRANSITION_CONFIGURE)
    assert node.status.last_error == ""
    assert node.change(Transition.TRANSITION_ACTIVATE)
    assert node.ask() == ""


def test_interrupted_while_the_model_runs(spawn: Spawn, node: Node, eventually: Eventually) -> None:
    process = spawn("tests/ros/color_node.py")
    eventually(lambda: node.status.state == "active", "the active state")
    node.ask_later("slow")
    eventually(lambda: node.status.busy, "a running request")
    process.interrupt()
    process.interrupt()  # from an impatient hand on Ctrl-C
    assert process.wait() == 0, process.output


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"queue_size": 0}, "queue_size"),
        ({"cameras": "['Not A Name']"}, "is not a camera name"),
        ({"dtype": "float3"}, "float32"),
    ],
)
def test_wrong_parameters_end_the_program_with_one_line(
    spawn: Spawn, params: dict[str, Any], words: str
) -> None:
    process = spawn("tests/ros/color_node.py", params=params, exit_code=2)
    assert process.wait() == 2
    assert words in process.output
    assert "Traceback" not in process.output


def test_streams_stop_before_waiting_requests_are_refused(ros: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a stream in the middle of a question reports the refusal as its failure, now and then."""
    overrides = [ParameterOverride("autostart", value=False), ParameterOverride("cameras", value=["front"])]
    node = SegmenterNode("alone", engine_factory=load, context=ros.context, parameter_overrides=overrides)
    streams_then: list[Any] = []
    refuse = ModelWorker.refuse

    def observed(worker: ModelWorker, error: XSamError) -> None:
        streams_then.append(node._stream_statistics())
        refuse(worker, error)

    monkeypatch.setattr(ModelWorker, "refuse", observed)
    try:
        assert node.trigger_configure() == node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        streams = node._streams
        assert streams is not None
        streams.start("front", StreamQuery.from_messages([messages.SegmentQuery(text="red")], 0.0))
        assert list(node._stream_statistics()) == ["front"]
        assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
        assert streams_then == [{}]
    finally:
        node.stop()
        node.destroy_node()
