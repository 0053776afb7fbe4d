"""`RosSegmenter`: a running segmenter node as a `xsam.segmenter.Segmenter`, for any Python program.

::

    from xsam import CameraRef, Query
    from xsam_ros.client import RosSegmenter

    with RosSegmenter("/xsam") as segmenter:
        result = segmenter.segment(CameraRef(name="camera"), [Query(text="the red mug")], deadline_s=10.0)[0]

`start_stream` asks the same again and again and iterates over the answers; `segment_with_progress` tells
how a long answer comes along.

It brings its own ROS context, node and thread, so it works in programs that know nothing of ROS, and
it never runs, blocks or waits for an executor of somebody else.
"""

from __future__ import annotations

import asyncio
import atexit
import itertools
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
    InvalidQueryError,
    ModelError,
    NoFrameError,
    SegmenterUnavailableError,
    error_for_code,
)
from xsam.types.requests import CameraRef, Frame, Query, SegmentationResult
from xsam_ros.action import Segment as SegmentAction
from xsam_ros.client.deadline import Limit
from xsam_ros.client.goal import Goal, Progress
from xsam_ros.client.stream import ResultStream
from xsam_ros.messages.frames import image_from_frame
from xsam_ros.messages.queries import query_to_message
from xsam_ros.messages.results import raise_for_response, result_from_message
from xsam_ros.messages.text import require_sendable
from xsam_ros.runtime.qos import ACTION_QOS, SERVICE_QOS
from xsam_ros.runtime.spin import spin
from xsam_ros.srv import GetStatus, Segment, SetStreamQuery

_POLL_S = 0.01
_RETRY_S = 0.05
_CHECK_S = 0.1
_FOREVER_S = 1e6  # a message cannot ask for an infinite time
_numbers = itertools.count(1)


class RosSegmenter:
    """Asks a segmenter node over its services and its action.

    Thread-safe. Close it, or use it in a `with` block.
    """

    def __init__(
        self, node: str = "/xsam", *, frame_wait_s: float = 2.0, context: Context | None = None
    ) -> None:
        """Start the background thread; nothing is waited for.

        Args:
            node: full name of the segmenter node.
            frame_wait_s: how long a request may wait for the first frame of a camera, within its deadline.
            context: an initialized context to use, for example of a test; it is not shut down.
        """
        self.node_name = "/" + node.strip("/")
        self._frame_wait_s = frame_wait_s
        self._owns_context = context is None
        self._context = Context() if context is None else context
        if self._owns_context:
            rclpy.init(args=[], context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node(
            f"xsam_client_{os.getpid()}_{next(_numbers)}",
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
        atexit.register(self.close)  # a thread inside ROS at the end of the interpreter aborts the process

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
        self, source: Frame | CameraRef, queries: Sequence[Query], *, deadline_s: float
    ) -> list[SegmentationResult]:
        """See `xsam.segmenter.Segmenter.segment`; the deadline covers discovery, frame and inference."""
        return self._segment_by(Limit(deadline_s), source, queries)

    async def segment_async(
        self, source: Frame | CameraRef, queries: Sequence[Query], *, deadline_s: float
    ) -> list[SegmentationResult]:
        """The same for asyncio programs; cancelling the task gives the request up."""
        limit = Limit(deadline_s)
        try:
            return await asyncio.to_thread(self._segment_by, limit, source, queries)
        finally:
            limit.given_up.set()

    def segment_with_progress(
        self,
        source: Frame | CameraRef,
        queries: Sequence[Query],
        *,
        deadline_s: float,
        on_progress: Callable[[Progress], None],
        cancel: threading.Event | None = None,
        preempt: bool = False,
    ) -> list[SegmentationResult]:
        """`segment` over the node's action: it tells how far it is, and stops when nobody waits any more.

        Args:
            source: as for `segment`; a camera has to have delivered a frame.
            queries: as for `segment`.
            deadline_s: covers discovery, frame and inference.
            on_progress: called in the client's thread; must be quick.
            cancel: set it to take the request back.
            preempt: end the goals that the node has accepted before, from whomever they are.

        Raises:
            RequestCancelledError: `cancel` was set, or another goal replaced this one.
            XSamError: as `segment`.
        """
        limit = Limit(deadline_s)
        if cancel is not None:
            limit.given_up = cancel
        request = _filled(SegmentAction.Goal(preempt=preempt), source, queries)
        self._wait_for(self._action.server_is_ready, limit)
        request.timeout_s = float(min(limit.remaining_s, _FOREVER_S))
        goal = Goal(self._action, request, on_progress)
        self._executor.create_task(goal.send)  # in the thread that gets the answers: rclpy does not lock here
        try:
            self._wait_until(goal.ended, limit)
        finally:
            if not goal.ended.is_set():
                self._executor.create_task(goal.cancel)
        return _results(goal.result(), source, queries)

    def start_stream(
        self,
        camera: str,
        queries: Sequence[Query],
        *,
        rate_hz: float = 0.0,
        wait_s: float = 10.0,
        deadline_s: float = 5.0,
    ) -> ResultStream:
        """Ask the same of every newest frame of a camera from now on, or change what is asked.

        Args:
            camera: configured name.
            queries: at least one.
            rate_hz: answers a second, at most; 0 = as many as the model can.
            wait_s: how long the iteration waits for the next answer.
            deadline_s: for the node to start it.

        Raises:
            InvalidQueryError, UnknownCameraError, NotActiveError, SegmenterUnavailableError,
            DeadlineExceededError.
        """
        if not queries:
            raise InvalidQueryError("no queries were given; stop_stream ends a stream")
        request = SetStreamQuery.Request(camera=require_sendable("camera", camera), rate_hz=float(rate_hz))
        request.queries = [query_to_message(query) for query in queries]
        response = self._call(self._set_stream, request, Limit(deadline_s))
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
        """End the stream of a camera; nothing happens when none runs.

        Raises:
            UnknownCameraError, NotActiveError, SegmenterUnavailableError, DeadlineExceededError.
        """
        request = SetStreamQuery.Request(camera=require_sendable("camera", camera))
        _raise_if_refused(self._call(self._set_stream, request, Limit(deadline_s)))

    def status(self, *, deadline_s: float = 5.0) -> GetStatus.Response:
        """What the node is doing, its cameras among it.

        Raises:
            SegmenterUnavailableError: no such node within the deadline.
            DeadlineExceededError: it did not answer in time.
        """
        response: GetStatus.Response = self._call(self._get_status, GetStatus.Request(), Limit(deadline_s))
        return response

    def _client(self, service_type: type[Any], name: str) -> Client:
        return self._node.create_client(service_type, f"{self.node_name}/{name}", qos_profile=SERVICE_QOS)

    def _segment_by(
        self, limit: Limit, source: Frame | CameraRef, queries: Sequence[Query]
    ) -> list[SegmentationResult]:
        request = _filled(Segment.Request(), source, queries)
        frame_until = time.monotonic() + self._frame_wait_s
        while True:
            response = self._call(self._segment, request, limit)
            try:
                raise_for_response(response)
                break
            except NoFrameError:
                if time.monotonic() + _RETRY_S >= min(frame_until, limit.until):
                    raise
            limit.wait(_RETRY_S)
        return _results(response, source, queries)

    def _call(self, client: Client, request: Any, limit: Limit) -> Any:
        """Wait for the service, call it, wait for the response; all within the same limit."""
        self._wait_for(client.service_is_ready, limit)
        if isinstance(request, Segment.Request):
            request.timeout_s = float(min(limit.remaining_s, _FOREVER_S))
        answered = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: answered.set())
        try:
            self._wait_until(answered, limit)
            return future.result()
        finally:
            if not answered.is_set():
                client.remove_pending_request(future)

    def _wait_for(self, is_ready: Callable[[], bool], limit: Limit) -> None:
        """Wait until the node is there."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("a call in the client's own thread would wait for itself")
        while not (self._closing.is_set() or is_ready()):
            if limit.remaining_s <= 0.0:
                raise SegmenterUnavailableError(f"no node {self.node_name!r} within {limit.allowed_s:.2f} s")
            limit.wait(_POLL_S)
        if self._closing.is_set():
            raise SegmenterUnavailableError("the client is closed", hint="")
        if limit.remaining_s <= 0.0:
            raise limit.error()

    def _wait_until(self, ended: threading.Event, limit: Limit) -> None:
        while not ended.wait(min(limit.remaining_s, _CHECK_S)):
            limit.check()
            if self._closing.is_set():
                raise SegmenterUnavailableError("the client was closed", hint="")


def _filled(request: Any, source: Frame | CameraRef, queries: Sequence[Query]) -> Any:
    """A request of the service or a goal of the action, with the fields that they share."""
    request.queries = [query_to_message(query) for query in queries]
    if isinstance(source, Frame):
        request.image = image_from_frame(source)
    else:
        request.camera = require_sendable("camera", source.name)
        if source.max_age_s is not None:
            request.max_age_s = float(source.max_age_s) or 1e-9  # 0 would mean the node's own limit
    return request


def _results(
    response: Segment.Response | SegmentAction.Result, source: Frame | CameraRef, queries: Sequence[Query]
) -> list[SegmentationResult]:
    """The answers in a response; raises the refusal or failure in it."""
    raise_for_response(response)
    if len(response.results) != len(queries):
        raise ModelError(f"the node gave {len(response.results)} answers to {len(queries)} queries")
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
