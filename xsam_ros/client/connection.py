"""A client's connection to the segmenter node: a ROS node and thread of its own, calls with a deadline."""

from __future__ import annotations

import atexit
import itertools
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import rclpy
from rcl_interfaces.srv import GetParameters
from rclpy.action import ActionClient  # type: ignore[attr-defined]
from rclpy.client import Client
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from xsam.errors import DeadlineExceededError, RequestCancelledError, SegmenterUnavailableError
from xsam.types.deadline import Deadline
from xsam_ros.action import Segment as SegmentAction
from xsam_ros.client.goal import Goal, ProgressHook
from xsam_ros.client.watch import NodeWatch
from xsam_ros.runtime.qos import ACTION_QOS, SERVICE_QOS
from xsam_ros.runtime.rclpy_workarounds import call_in_executor, spin
from xsam_ros.srv import GetStatus, Segment, SetStreamQuery

_POLL_S = 0.01
_CHECK_S = 0.1
_ATTEMPT_S = 3.0
_PROMPT_S = 1.0
"""A node that runs responds to everything but a segmentation in less than a second."""

_LONGEST_TIMEOUT_S = 1e6  # a message cannot ask for an infinite time
_client_numbers = itertools.count(1)


class NodeConnection:
    """Services and action of the segmenter node, called from any thread but the client's own."""

    def __init__(self, node_name: str, *, context: Context | None) -> None:
        """Start the background thread; does not wait for the node.

        Args:
            node_name: full name of the segmenter node.
            context: an initialized context to use; it is not shut down. None = make one.
        """
        self.node_name = node_name
        self._owns_context = context is None
        self._context = Context() if context is None else context
        if self._owns_context:
            rclpy.init(args=[], context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node(
            f"xsam_client_{os.getpid()}_{next(_client_numbers)}",
            context=self._context,
            use_global_arguments=False,
            start_parameter_services=False,
            enable_rosout=False,
        )
        self.segment = self._client(Segment, "segment")
        self.get_status = self._client(GetStatus, "get_status")
        self.set_stream = self._client(SetStreamQuery, "set_stream_query")
        self.get_parameters = self._client(GetParameters, "get_parameters")
        self._action = ActionClient(self.node, SegmentAction, f"{node_name}/segment", **ACTION_QOS)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._closing = threading.Event()
        self._thread = threading.Thread(
            target=lambda: spin(self._executor, until=self._closing.is_set),
            name="xsam_ros_client",
            daemon=True,
        )
        self._thread.start()
        atexit.register(self.close)  # a thread inside ROS when the interpreter exits aborts the process

    @property
    def closed(self) -> bool:
        return self._closing.is_set()

    @property
    def in_own_thread(self) -> bool:
        """True in a callback of this client, which must not wait for the node."""
        return threading.current_thread() is self._thread

    def close(self) -> None:
        """End the thread and leave ROS. May be called more than once."""
        if self._closing.is_set():
            return
        self._closing.set()
        atexit.unregister(self.close)
        if self._context.ok():
            self._executor.wake()
        self._thread.join(timeout=5.0)
        self._executor.shutdown(timeout_sec=1.0)
        self._action.destroy()
        self.node.destroy_node()
        if self._owns_context:
            self._context.try_shutdown()

    def call(self, client: Client, request: Any, deadline: Deadline) -> Any:
        """Wait for the service, call it and wait for the response, all within the deadline.

        What the node has lost is sent again. That is safe: a segmentation changes nothing, and a stream has
        an id that the caller chose.

        Raises:
            SegmenterUnavailableError: the node was not found, has vanished, or does not respond.
            DeadlineExceededError: the segmentation did not end in time.
        """
        segments = isinstance(request, Segment.Request)
        while True:
            self._wait_for_server(client.service_is_ready, deadline)
            watch = attempt = None
            if segments:
                request.timeout_s = timeout_s(deadline)
                watch = NodeWatch(self.get_status, self.node_name)
            else:
                attempt = Deadline(min(deadline.remaining_s, _ATTEMPT_S))
            done = threading.Event()
            future = client.call_async(request)
            future.add_done_callback(lambda _, done=done: done.set())
            try:
                if self._wait_until(done, deadline, watch=watch, attempt=attempt):
                    return future.result()
            except DeadlineExceededError:
                if segments or (deadline.allowed_s or 0.0) < _PROMPT_S:
                    raise
                raise SegmenterUnavailableError(
                    f"node {self.node_name!r} did not respond within {deadline.allowed_s:.3g} s",
                    hint="it has probably crashed; look at its log, and try again once it runs",
                ) from None
            finally:
                if watch is not None:
                    watch.close()
                if not done.is_set():
                    client.remove_pending_request(future)

    def send_goal(
        self,
        request: SegmentAction.Goal,
        deadline: Deadline,
        on_progress: ProgressHook,
        *,
        cancel: threading.Event | None = None,
    ) -> SegmentAction.Result:
        """Send a goal of the action and wait for its result, all within the deadline.

        Raises:
            RequestCancelledError: `cancel` was set.
            SegmenterUnavailableError: the node was not found, has vanished, or was restarted.
            DeadlineExceededError: the goal did not end in time.
        """
        self._wait_for_server(self._action.server_is_ready, deadline, cancel)
        request.timeout_s = timeout_s(deadline)
        goal = Goal(self._action, request, on_progress)
        call_in_executor(self._executor, goal.send)
        watch = NodeWatch(self.get_status, self.node_name)
        try:
            if not self._wait_until(goal.ended, deadline, cancel, watch):
                raise SegmenterUnavailableError(
                    f"node {self.node_name!r} does not have the goal any more; it was probably restarted",
                    hint="send the request again",
                )
        finally:
            watch.close()
            if not goal.ended.is_set():
                call_in_executor(self._executor, goal.cancel)
        return goal.result()

    def _client(self, service_type: type[Any], name: str) -> Client:
        return self.node.create_client(service_type, f"{self.node_name}/{name}", qos_profile=SERVICE_QOS)

    def _wait_for_server(
        self, is_ready: Callable[[], bool], deadline: Deadline, cancel: threading.Event | None = None
    ) -> None:
        """Wait until the node is discovered."""
        if self.in_own_thread:
            raise RuntimeError("a call from a callback of this client would wait for itself")
        while not (self._closing.is_set() or is_ready()):
            if deadline.expired:
                raise SegmenterUnavailableError(
                    f"node {self.node_name!r} was not found within {deadline.allowed_s or 0.0:.3g} s"
                )
            _check_cancelled(cancel)
            time.sleep(min(_POLL_S, deadline.remaining_s))
        if self._closing.is_set():
            raise SegmenterUnavailableError("the client is closed", hint="")
        _check_cancelled(cancel)
        deadline.check()

    def _wait_until(
        self,
        event: threading.Event,
        deadline: Deadline,
        cancel: threading.Event | None = None,
        watch: NodeWatch | None = None,
        attempt: Deadline | None = None,
    ) -> bool:
        """Wait for an event; return False if the node has lost the request, or the attempt took too long."""
        while not event.wait(min(deadline.remaining_s, _CHECK_S)):
            _check_cancelled(cancel)
            deadline.check()
            if self._closing.is_set():
                raise SegmenterUnavailableError("the client was closed", hint="")
            if (attempt is not None and attempt.expired) or (watch is not None and watch.lost()):
                return event.is_set()
        return True


def timeout_s(deadline: Deadline) -> float:
    """Return the time left as a request can carry it."""
    return float(min(deadline.remaining_s, _LONGEST_TIMEOUT_S))


def _check_cancelled(cancel: threading.Event | None) -> None:
    if cancel is not None and cancel.is_set():
        raise RequestCancelledError("the caller cancelled the request")
