"""A stream of this client in the node: its lease is renewed, and its end is noticed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]

from xsam.errors import SegmenterUnavailableError, StreamEndedError, XSamError
from xsam.types.deadline import Deadline
from xsam_ros.client.connection import NodeConnection
from xsam_ros.messages.streams import StreamEnd
from xsam_ros.msg import StreamStatus
from xsam_ros.runtime.qos import STREAM_STATUS_QOS
from xsam_ros.srv import SetStreamQuery

_PERIOD_S = 1.0
_RESPONSE_S = 3.0
"""A renewal without a response after so long is sent again."""

_SILENT_S = 2.5
"""A node that has not responded for so long may be gone, and after `_LOST_S` it is."""

_LOST_S = 10.0
_ABSENT_S = 1.5
"""A node that is not in the ROS graph for so long has left it."""


class StreamLease:
    """Renews the lease of a stream once a second, in the client's thread, until the stream ends."""

    def __init__(
        self, connection: NodeConnection, request: SetStreamQuery.Request, response: SetStreamQuery.Response
    ) -> None:
        """Begin to renew.

        Args:
            connection: of the client.
            request: that started the stream.
            response: to that request.
        """
        self.camera: str = request.camera
        self.stream_id: str = request.stream_id
        self.lease_s: float = request.lease_s
        self.on_end: Callable[[], None] = lambda: None
        self._connection = connection
        self._renewal = SetStreamQuery.Request(
            camera=request.camera,
            owner=request.owner,
            stream_id=request.stream_id,
            lease_s=request.lease_s,
            renew=True,
        )
        self._status: StreamStatus = response.stream
        self._lost_s = max(_RESPONSE_S, min(self.lease_s or _LOST_S, _LOST_S))
        self._heard_s = self._present_s = time.monotonic()
        self._sent_s = 0.0
        self._future: Any = None
        self._lock = threading.Lock()
        self._end: StreamEndedError | None = None
        node = connection.node
        self._subscription = node.create_subscription(
            StreamStatus, response.stream_topic, self._on_status, STREAM_STATUS_QOS
        )
        self._timer = node.create_timer(
            min(_PERIOD_S, self.lease_s / 4 or _PERIOD_S),
            self._renew,
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )

    @property
    def ended(self) -> StreamEndedError | None:
        """Why the stream has ended; None while it runs."""
        return self._end

    def end(self, reason: StreamEnd, message: str) -> None:
        """Note that the stream has ended, and stop to renew it; the first reason counts."""
        with self._lock:
            if self._end is not None:
                return
            self._end = StreamEndedError(message, reason=reason.name)
            node, client, future = self._connection.node, self._connection.set_stream, self._future
            self._future = None
        node.destroy_timer(self._timer)
        node.destroy_subscription(self._subscription)
        if future is not None:
            client.remove_pending_request(future)
        self.on_end()

    def why_no_result(self, deadline: Deadline) -> XSamError:
        """Return the error for a reader that has waited until its deadline."""
        silent_s = time.monotonic() - self._heard_s
        if silent_s > _SILENT_S:
            return SegmenterUnavailableError(
                f"node {self._connection.node_name!r} has not responded for {silent_s:.1f} s",
                hint="it has probably crashed; look at its log",
            )
        error = deadline.error()
        if self._status.last_error:
            error = type(error)(f"{error.message}: {self._status.last_error}")
        return error

    def _renew(self) -> None:
        now_s = time.monotonic()
        client, node_name = self._connection.set_stream, self._connection.node_name
        if client.service_is_ready():
            self._present_s = now_s
        elif now_s - self._present_s > _ABSENT_S:
            self.end(StreamEnd.NODE_LOST, f"node {node_name!r} vanished")
            return
        if now_s - self._heard_s > self._lost_s:
            silent_s = now_s - self._heard_s
            self.end(StreamEnd.NODE_LOST, f"node {node_name!r} vanished: no response for {silent_s:.0f} s")
            return
        with self._lock:
            if self._end is not None:
                return
            if self._future is not None:
                if now_s - self._sent_s < _RESPONSE_S:
                    return
                client.remove_pending_request(self._future)
            self._sent_s = now_s
            future = self._future = client.call_async(self._renewal)
        future.add_done_callback(self._on_renewed)

    def _on_renewed(self, future: Any) -> None:
        self._heard_s = time.monotonic()
        self._future = None
        response = future.result()
        if response.status == SetStreamQuery.Response.STATUS_RENEWED:
            self._status = response.stream
        elif response.code == StreamEndedError.code:
            self.end(StreamEnd.of(response.stream), response.message)
        else:  # another node, which does not know the stream
            self.end(StreamEnd.NODE_LOST, f"the node was restarted: {response.message}")

    def _on_status(self, status: StreamStatus) -> None:
        if status.stream_id == self.stream_id:
            self._status = status
            if not status.running:
                self.end(StreamEnd.of(status), f"the stream has ended: {status.end_message}")
