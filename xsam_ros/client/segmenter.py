"""`RosSegmenter`: a running segmenter node as an `xsam.segmenter.Segmenter`, for any Python program.

::

    from xsam import CameraRef, Query
    from xsam_ros.client import RosSegmenter

    with RosSegmenter("/xsam") as segmenter:
        result = segmenter.segment(CameraRef(name="camera"), [Query(text="the red mug")], deadline_s=10.0)[0]

`start_stream` repeats the same queries on each new frame and iterates over the results;
`segment_with_progress` reports the progress of a long request and can cancel it. In asyncio programs, use
`await asyncio.to_thread(segmenter.segment, ...)`.

The client has its own ROS context, node and thread. It works in programs that do not use ROS otherwise, and
it never runs, blocks or waits for somebody else's executor.
"""

from __future__ import annotations

import atexit
import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import rclpy
from rclpy.action import ActionClient  # type: ignore[attr-defined]
from rclpy.client import Client
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from xsam.errors import (
    DeadlineExceededError,
    InvalidOptionError,
    InvalidQueryError,
    ModelError,
    NoFrameError,
    RequestCancelledError,
    SegmenterUnavailableError,
    error_for_code,
)
from xsam.types.deadline import Deadline, StageHook, TextHook
from xsam.types.requests import CameraRef, Frame, Query, SegmentationResult
from xsam_ros.action import Segment as SegmentAction
from xsam_ros.client.goal import Goal, ProgressHook, progress_hook
from xsam_ros.client.stream import ResultStream
from xsam_ros.client.watch import NodeWatch
from xsam_ros.messages.frames import image_from_frame
from xsam_ros.messages.queries import query_to_message
from xsam_ros.messages.results import raise_for_response, result_from_message
from xsam_ros.messages.text import require_sendable
from xsam_ros.runtime.qos import ACTION_QOS, SERVICE_QOS
from xsam_ros.runtime.rclpy_workarounds import call_in_executor, spin
from xsam_ros.srv import GetStatus, Segment, SetStreamQuery

_POLL_S = 0.01
_RETRY_S = 0.05
_CHECK_S = 0.1
_STATUS_RETRY_S = 3.0
_LONGEST_TIMEOUT_S = 1e6  # a message cannot ask for an infinite time
_client_numbers = itertools.count(1)


class RosSegmenter:
    """A segmenter that uses a node's services and its action.

    Thread-safe. Close it, or use it in a `with` block.
    """

    def __init__(
        self, node: str = "/xsam", *, frame_wait_s: float = 2.0, context: Context | None = None
    ) -> None:
        """Start the background thread; does not wait for the node.

        Args:
            node: full name of the segmenter node.
            frame_wait_s: how long a request may wait for the first frame of a camera, within its deadline.
            context: an initialized context to use, for example in tests; it is not shut down.
        """
        self.node_name = "/" + node.strip("/")
        self._frame_wait_s = frame_wait_s
        self._owns_context = context is None
        self._context = Context() if context is None else context
        if self._owns_context:
            rclpy.init(args=[], context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node(
            f"xsam_client_{os.getpid()}_{next(_client_numbers)}",
            context=self._context,
            use_global_arguments=False,
            start_parameter_services=False,
            enable_rosout=False,
        )
        self._segment = self._client(Segment, "segment")
        self._get_status = self._client(GetStatus, "get_status")
        self._set_stream = self._client(SetStreamQuery, "set_stream_query")
        self._action = ActionClient(self._node, SegmentAction, f"{self.node_name}/segment", **ACTION_QOS)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._closing = threading.Event()
        self._thread = threading.Thread(
            target=lambda: spin(self._executor, until=self._closing.is_set),
            name="xsam_ros_client",
            daemon=True,
        )
        self._thread.start()
        atexit.register(self.close)  # a thread inside ROS when the interpreter exits aborts the process

    def __enter__(self) -> RosSegmenter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

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
        self._node.destroy_node()
        if self._owns_context:
            self._context.try_shutdown()

    def segment(
        self,
        source: Frame | CameraRef,
        queries: Sequence[Query],
        *,
        deadline_s: float,
        on_stage: StageHook | None = None,
        on_text: TextHook | None = None,
    ) -> list[SegmentationResult]:
        """See `xsam.segmenter.Segmenter.segment`; the deadline covers discovery, frame and inference.

        With a hook, the request goes over the action instead of the service. The stages are "request",
        "waiting" (in the node's queue) and the stages of the node. After "request", hooks are called in the
        client's thread and must return quickly.
        """
        deadline = _deadline(deadline_s)
        if on_stage is None and on_text is None:
            return self._with_first_frame(
                lambda: self._segment_by_service(source, queries, deadline), deadline
            )
        on_progress = progress_hook(on_stage, on_text)
        if on_stage is not None:
            on_stage("request")
        return self._with_first_frame(
            lambda: self._segment_by_action(source, queries, deadline, on_progress), deadline
        )

    def segment_with_progress(
        self,
        source: Frame | CameraRef,
        queries: Sequence[Query],
        *,
        deadline_s: float,
        on_progress: ProgressHook,
        cancel: threading.Event | None = None,
        preempt: bool = False,
    ) -> list[SegmentationResult]:
        """Segment over the node's action, which reports progress and stops when the caller gives up.

        Args:
            source: as for `segment`, but a camera must have delivered a frame.
            queries: as for `segment`.
            deadline_s: covers discovery, frame and inference.
            on_progress: called in the client's thread; must return quickly, may raise an `XSamError`.
            cancel: set it to cancel the request.
            preempt: end all goals that the node has accepted before, whoever sent them.

        Raises:
            RequestCancelledError: `cancel` was set, or another goal replaced this one.
            XSamError: as for `segment`.
        """
        return self._segment_by_action(
            source, queries, _deadline(deadline_s), on_progress, cancel=cancel, preempt=preempt
        )

    def start_stream(
        self,
        camera: str,
        queries: Sequence[Query],
        *,
        rate_hz: float = 0.0,
        wait_s: float = 10.0,
        deadline_s: float = 5.0,
    ) -> ResultStream:
        """Run the queries on the newest frame of a camera again and again, or change a running stream.

        Args:
            camera: configured name.
            queries: at least one.
            rate_hz: highest rate of results; 0 = as fast as the model can.
            wait_s: how long the iteration waits for the next result.
            deadline_s: for the node to start the stream.

        Raises:
            InvalidQueryError, UnknownCameraError, NotActiveError, SegmenterUnavailableError,
            DeadlineExceededError.
        """
        if not queries:
            raise InvalidQueryError("no queries were given; stop_stream ends a stream")
        request = SetStreamQuery.Request(camera=require_sendable("camera", camera), rate_hz=float(rate_hz))
        request.queries = [query_to_message(query) for query in queries]
        response = self._call(self._set_stream, request, _deadline(deadline_s))
        _raise_if_refused(response)
        return ResultStream(
            self._node,
            camera=camera,
            topic=response.result_topic,
            queries=queries,
            wait_s=wait_s,
            stop=lambda: self.stop_stream(camera),
        )

    def stop_stream(self, camera: str, *, deadline_s: float = 5.0) -> None:
        """End the stream of a camera; do nothing if none is running.

        Raises:
            UnknownCameraError, NotActiveError, SegmenterUnavailableError, DeadlineExceededError.
        """
        request = SetStreamQuery.Request(camera=require_sendable("camera", camera))
        _raise_if_refused(self._call(self._set_stream, request, _deadline(deadline_s)))

    def status(self, *, deadline_s: float = 5.0) -> GetStatus.Response:
        """Return the status of the node and its cameras.

        Raises:
            SegmenterUnavailableError: the node was not found within the deadline.
            DeadlineExceededError: it did not respond in time.
        """
        response: GetStatus.Response = self._call(
            self._get_status, GetStatus.Request(), _deadline(deadline_s)
        )
        return response

    def _client(self, service_type: type[Any], name: str) -> Client:
        return self._node.create_client(service_type, f"{self.node_name}/{name}", qos_profile=SERVICE_QOS)

    def _with_first_frame(
        self, segment: Callable[[], list[SegmentationResult]], deadline: Deadline
    ) -> list[SegmentationResult]:
        """Call `segment`, and again while its camera has not delivered a frame yet."""
        frame_deadline = Deadline(self._frame_wait_s)
        while True:
            try:
                return segment()
            except NoFrameError:
                if min(deadline.remaining_s, frame_deadline.remaining_s) <= _RETRY_S:
                    raise
            time.sleep(_RETRY_S)

    def _segment_by_service(
        self, source: Frame | CameraRef, queries: Sequence[Query], deadline: Deadline
    ) -> list[SegmentationResult]:
        request = _fill_request(Segment.Request(), source, queries)
        return _results(self._call(self._segment, request, deadline), source, queries)

    def _segment_by_action(
        self,
        source: Frame | CameraRef,
        queries: Sequence[Query],
        deadline: Deadline,
        on_progress: ProgressHook,
        *,
        cancel: threading.Event | None = None,
        preempt: bool = False,
    ) -> list[SegmentationResult]:
        request = _fill_request(SegmentAction.Goal(preempt=preempt), source, queries)
        self._wait_for_server(self._action.server_is_ready, deadline, cancel)
        request.timeout_s = _timeout_s(deadline)
        goal = Goal(self._action, request, on_progress)
        call_in_executor(self._executor, goal.send)
        watch = NodeWatch(self._get_status, self.node_name)
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
        return _results(goal.result(), source, queries)

    def _call(self, client: Client, request: Any, deadline: Deadline) -> Any:
        """Wait for the service, call it and wait for the response, all within the deadline.

        What the node has lost is sent again: a segmentation request, or a request for its status.
        """
        while True:
            self._wait_for_server(client.service_is_ready, deadline)
            watch, attempt = None, deadline
            if isinstance(request, GetStatus.Request):  # the node responds at once, or has crashed
                attempt = Deadline(min(deadline.remaining_s, _STATUS_RETRY_S))
            if isinstance(request, Segment.Request):
                request.timeout_s = _timeout_s(deadline)
                watch = NodeWatch(self._get_status, self.node_name)
            done = threading.Event()
            future = client.call_async(request)
            future.add_done_callback(lambda _, done=done: done.set())
            try:
                if self._wait_until(done, deadline, watch=watch, attempt=attempt):
                    return future.result()
            finally:
                if watch is not None:
                    watch.close()
                if not done.is_set():
                    client.remove_pending_request(future)

    def _wait_for_server(
        self, is_ready: Callable[[], bool], deadline: Deadline, cancel: threading.Event | None = None
    ) -> None:
        """Wait until the node is discovered."""
        if threading.current_thread() is self._thread:
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


def _check_cancelled(cancel: threading.Event | None) -> None:
    if cancel is not None and cancel.is_set():
        raise RequestCancelledError("the caller cancelled the request")


def _deadline(deadline_s: object) -> Deadline:
    """Start a deadline.

    Raises:
        InvalidOptionError: it is not a number of seconds.
        DeadlineExceededError: it leaves no time at all, which says nothing about the node.
    """
    if isinstance(deadline_s, bool) or not isinstance(deadline_s, (int, float)) or math.isnan(deadline_s):
        raise InvalidOptionError(f"deadline_s must be a number of seconds, got {deadline_s!r}")
    if deadline_s <= 0.0:
        raise DeadlineExceededError(f"deadline_s is {deadline_s:g}, which leaves no time")
    return Deadline(deadline_s)


def _timeout_s(deadline: Deadline) -> float:
    """Return the time left as a request can carry it."""
    return float(min(deadline.remaining_s, _LONGEST_TIMEOUT_S))


def _fill_request(request: Any, source: Frame | CameraRef, queries: Sequence[Query]) -> Any:
    """Fill in the fields that a request of the service and a goal of the action share."""
    request.queries = [query_to_message(query) for query in queries]
    if isinstance(source, Frame):
        request.image = image_from_frame(source)
    else:
        request.camera = require_sendable("camera", source.name)
        if source.max_age_s is not None:
            request.max_age_s = float(source.max_age_s) or 1e-9  # 0 would mean the node's default
    return request


def _results(
    response: Segment.Response | SegmentAction.Result, source: Frame | CameraRef, queries: Sequence[Query]
) -> list[SegmentationResult]:
    """Return the results in a response; raise the refusal or failure in it."""
    raise_for_response(response)
    if len(response.results) != len(queries):
        raise ModelError(f"the node returned {len(response.results)} results for {len(queries)} queries")
    if isinstance(source, Frame):
        for result in response.results:
            result.camera = source.camera
    return [
        result_from_message(result, query=query)
        for result, query in zip(response.results, queries, strict=True)
    ]


def _raise_if_refused(response: SetStreamQuery.Response) -> None:
    if response.code:
        raise error_for_code(response.code, response.message, hint=response.hint)
