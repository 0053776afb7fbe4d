"""Frames of the node's cameras in the client: the same topics, decoded with the same parameters.

The node says which topics a camera has; no name of a topic ever comes from a caller. A camera is subscribed
to when its frames are first needed, and no longer once nobody has needed them for a while.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from rcl_interfaces.srv import GetParameters
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]
from rclpy.parameter import Parameter, parameter_value_to_python

from xsam.errors import DeadlineExceededError, NoFrameError, UnknownCameraError
from xsam.types.deadline import Deadline
from xsam.types.requests import Frame
from xsam_ros.cameras.camera import CameraBuffer, CameraMessages, CameraTopics
from xsam_ros.cameras.parameters import CameraParameters
from xsam_ros.cameras.subscriptions import CameraSubscriptions
from xsam_ros.client.connection import NodeConnection
from xsam_ros.srv import GetStatus

_KEPT_S = 2.0  # images that arrived earlier are dropped, unless a request holds them
_UNUSED_S = 60.0
_CHECK_S = 10.0
_CLOCK_WAIT_S = 2.0
_POLL_S = 0.01
_HELD_STAGES = 3
"""Stages of a request at which the buffered messages are held: the node has taken one of them."""

_TAKEN = "inference"  # the stage that begins once the node has its frame


class CameraFeed:
    """The frames of one camera of the node."""

    def __init__(
        self,
        connection: NodeConnection,
        topics: CameraTopics,
        camera: str,
        parameters: CameraParameters,
        *,
        max_side_px: int,
    ) -> None:
        """Subscribe to the topics of the camera, which the node has resolved."""
        self.used_s = time.monotonic()
        self._has_waited = False
        self._max_side_px = max_side_px
        clock: Any = connection.node.get_clock()
        self._buffer = CameraBuffer(
            camera,
            topics,
            settings=lambda: parameters,
            clock_ns=lambda: int(clock.now().nanoseconds),
            is_simulated=lambda: bool(clock.ros_time_is_active),
            keep_s=_KEPT_S,
        )
        self._subscriptions = CameraSubscriptions(connection.node, self._buffer, parameters=parameters)

    def close(self) -> None:
        """Unsubscribe."""
        self._subscriptions.destroy()

    def wait_first(self, timeout_s: float, *, again: bool = True) -> bool:
        """Wait for the first image; return whether there is one.

        Args:
            timeout_s: how long.
            again: also wait if somebody has waited in vain before.
        """
        self.used_s = time.monotonic()
        timeout_s = timeout_s if again or not self._has_waited else 0.0
        self._has_waited = True
        return self._buffer.wait_newer(0, timeout_s=min(timeout_s, threading.TIMEOUT_MAX))

    def newest(self, *, max_age_s: float) -> Frame:
        """Return the newest frame, with its stamp; raises as `CameraBuffer.newest_frame`."""
        return self._buffer.newest_frame(max_age_s=max_age_s, max_side_px=self._max_side_px).frame

    def hold(self) -> CameraMessages:
        """Return what is buffered now."""
        return self._buffer.messages()

    def at(self, stamp_ns: int, held: Sequence[CameraMessages]) -> Frame | None:
        """Return the frame with this stamp; None if it did not arrive here, or cannot be told apart."""
        self.used_s = time.monotonic()
        found = self._buffer.frame_at(stamp_ns, held, max_side_px=self._max_side_px)
        return None if found is None else found.frame


class FrameHold:
    """The messages that a request holds: one of them becomes its frame."""

    def __init__(self, feed: CameraFeed) -> None:
        self._feed = feed
        self._held: list[CameraMessages] = []
        self._taken = False

    def on_stage(self, stage: str) -> None:
        """Hold what is buffered, for the first stages after the node has taken its frame."""
        self._taken = self._taken or stage == _TAKEN
        if self._taken and len(self._held) < _HELD_STAGES:
            self._held.append(self._feed.hold())

    def frame(self, stamp_ns: int) -> Frame | None:
        """Return the frame with this stamp, as `CameraFeed.at`."""
        return self._feed.at(stamp_ns, self._held)


class CameraFeeds:
    """The feeds of a client, opened and closed as they are needed. Thread-safe."""

    def __init__(self, connection: NodeConnection) -> None:
        """Begin without any subscription."""
        self._connection = connection
        self._feeds: dict[str, CameraFeed] = {}
        self._lock = threading.Lock()
        self._timer: Any = None

    def open(self, camera: str, deadline: Deadline) -> CameraFeed:
        """Return the feed of a camera; subscribes unless it is open already.

        Raises:
            UnknownCameraError: the node has no camera of that name.
            SegmenterUnavailableError: the node was not found, or does not respond.
            DeadlineExceededError: the node did not respond in time.
        """
        if not self._lock.acquire(timeout=min(deadline.remaining_s, threading.TIMEOUT_MAX)):
            raise DeadlineExceededError(f"the topics of camera {camera!r} were not known in time")
        try:
            feed = self._feeds.get(camera)
            if feed is None:
                feed = self._feeds[camera] = self._subscribe(camera, deadline)
                if self._timer is None:
                    steady = Clock(clock_type=ClockType.STEADY_TIME)
                    self._timer = self._connection.node.create_timer(
                        _CHECK_S, self._close_unused, clock=steady
                    )
            feed.used_s = time.monotonic()
            return feed
        finally:
            self._lock.release()

    def forget(self, camera: str) -> None:
        """Close a feed that did not deliver: the node may have been configured anew."""
        with self._lock:
            feed = self._feeds.pop(camera, None)
        if feed is not None:
            feed.close()

    def close(self) -> None:
        """Unsubscribe from everything."""
        for camera in list(self._feeds):
            self.forget(camera)
        if self._timer is not None:
            self._connection.node.destroy_timer(self._timer)

    def _close_unused(self) -> None:
        before_s = time.monotonic() - _UNUSED_S
        for camera, feed in list(self._feeds.items()):
            if feed.used_s < before_s:
                self.forget(camera)

    def _subscribe(self, camera: str, deadline: Deadline) -> CameraFeed:
        status = self._connection.call(self._connection.get_status, GetStatus.Request(), deadline)
        reported = next((item for item in status.cameras if item.name == camera), None)
        if reported is None:
            known = ", ".join(item.name for item in status.cameras) or "none"
            raise UnknownCameraError(f"unknown camera {camera[:64]!r}; configured: {known}")
        values = self._parameters(camera, deadline)
        max_side_px = int(values.pop("max_image_side_px"))
        if values.pop("use_sim_time"):
            self._use_simulated_time(deadline)
        parameters = CameraParameters(**values)
        # Depth that has to be registered stays in the node, which knows where that leaves gaps.
        depth = "" if parameters.depth_info_topic else reported.depth_topic
        topics = CameraTopics(image=reported.image_topic, depth=depth, info=reported.info_topic)
        return CameraFeed(self._connection, topics, camera, parameters, max_side_px=max_side_px)

    def _use_simulated_time(self, deadline: Deadline) -> None:
        """Take the time from /clock, and wait a little for it: until it comes, no age is known."""
        node = self._connection.node
        node.set_parameters([Parameter("use_sim_time", value=True)])
        wait = Deadline(min(deadline.remaining_s, _CLOCK_WAIT_S))
        while not (node.get_clock().now().nanoseconds or wait.expired):
            time.sleep(_POLL_S)

    def _parameters(self, camera: str, deadline: Deadline) -> dict[str, Any]:
        """Return the fields of `CameraParameters`, and what else is needed to read the camera's images."""
        rows = {row.name: f"{camera}.{row.name}" for row in fields(CameraParameters)}
        names = {**rows, "max_image_side_px": "max_image_side_px", "use_sim_time": "use_sim_time"}
        request = GetParameters.Request(names=list(names.values()))
        response = self._connection.call(self._connection.get_parameters, request, deadline)
        if len(response.values) != len(names):  # rclpy leaves all out if it does not know one of them
            raise NoFrameError(
                f"the node does not tell the parameters of camera {camera!r}",
                hint="node and client may be of different versions",
            )
        values = dict(zip(names, map(parameter_value_to_python, response.values), strict=True))
        for row in fields(CameraParameters):
            if isinstance(row.default, float):
                values[row.name] = float(values[row.name])
        return values
