"""A node under test, as its clients see it: services, lifecycle and parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.parameter import Parameter

import xsam_ros.msg as messages
from xsam_ros.messages.image_messages import image_from_array
from xsam_ros.srv import GetStatus, Segment, SetStreamQuery


class NodeClient:
    """Calls the services of the segmenter node `/xsam`."""

    def __init__(self, ros: Any) -> None:
        self._ros = ros

    @property
    def status(self) -> GetStatus.Response:
        return self._ros.call(GetStatus, "/xsam/get_status", GetStatus.Request(), again_after_s=5.0)

    @property
    def active(self) -> bool:
        return bool(self.status.state == "active")

    @property
    def idle(self) -> bool:
        """True if the model is not running and no request is waiting."""
        status = self.status
        return not status.busy and status.waiting == 0

    @property
    def state(self) -> str:
        """The lifecycle state, from the service of rclpy."""
        return str(self._ros.call(GetState, "/xsam/get_state", GetState.Request()).current_state.label)

    def change(self, transition: int) -> bool:
        """Request a lifecycle transition; return whether it succeeded."""
        request = ChangeState.Request(transition=Transition(id=transition))
        return bool(self._ros.call(ChangeState, "/xsam/change_state", request).success)

    def change_later(self, transition: int) -> Any:
        """Request a lifecycle transition; return the future of the response."""
        request = ChangeState.Request(transition=Transition(id=transition))
        return self._call_later(ChangeState, "/xsam/change_state", request)

    def set(self, name: str, value: Any) -> Any:
        """Set a parameter; return the result with `successful` and `reason`."""
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        return self._ros.call(SetParameters, "/xsam/set_parameters", request).results[0]

    def get_integer(self, name: str) -> int:
        """Return an integer parameter."""
        request = GetParameters.Request(names=[name])
        return int(self._ros.call(GetParameters, "/xsam/get_parameters", request).values[0].integer_value)

    def segment(self, text: str = "red", **fields: Any) -> Segment.Response:
        """Segment by a text; without an image or a camera, segment a red image."""
        return self._ros.call(Segment, "/xsam/segment", _segment_request(text, fields))

    def segment_later(self, text: str, **fields: Any) -> Any:
        """Send the request of `segment`; return the future of the response."""
        return self._call_later(Segment, "/xsam/segment", _segment_request(text, fields))

    def set_stream(self, *texts: str, camera: str = "front", rate_hz: float = 0.0) -> SetStreamQuery.Response:
        """Start, change or (without texts) stop a stream."""
        queries = [messages.SegmentQuery(text=text) for text in texts]
        return self.set_stream_queries(queries, camera=camera, rate_hz=rate_hz)

    def set_stream_queries(
        self,
        queries: list[messages.SegmentQuery],
        *,
        camera: str = "front",
        rate_hz: float = 0.0,
        propagate: bool = False,
    ) -> SetStreamQuery.Response:
        """Start, change or (without queries) stop a stream."""
        request = SetStreamQuery.Request(camera=camera, rate_hz=rate_hz, queries=queries, propagate=propagate)
        return self._ros.call(SetStreamQuery, "/xsam/set_stream_query", request)

    def stream_status(self, camera: str = "front") -> messages.StreamStatus:
        return next(item for item in self.status.cameras if item.name == camera).stream

    def _call_later(self, service_type: Any, name: str, request: Any) -> Any:
        client = self._ros.node.create_client(service_type, name)
        assert client.wait_for_service(30.0)
        return client.call_async(request)


def _segment_request(text: str, fields: dict[str, Any]) -> Segment.Request:
    if "image" not in fields and "camera" not in fields:
        fields["image"] = image_from_array(np.full((24, 32, 3), (255, 0, 0), np.uint8), "rgb8")
    return Segment.Request(queries=[messages.SegmentQuery(text=text)], **fields)
