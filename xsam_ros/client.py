"""`RosSegmenter`: a running segmenter node as a `xsam.segmenter.Segmenter`, for any Python program.

::

    from xsam import CameraRef, Query
    from xsam_ros.client import RosSegmenter

    with RosSegmenter("/xsam") as segmenter:
        result = segmenter.segment(CameraRef(name="camera"), [Query(text="the red mug")], deadline_s=10.0)[0]

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
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import rclpy
from rclpy.client import Client
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from xsam.errors import (
    DeadlineExceededError,
    ModelError,
    NoFrameError,
    RequestCancelledError,
    SegmenterUnavailableError,
)
from xsam.structures import CameraRef, Frame, Query, SegmentationResult
from xsam_ros.conversions import (
    image_from_frame,
    query_to_message,
    raise_for_response,
    result_from_message,
    sendable,
)
from xsam_ros.srv import GetStatus, Segment

_POLL_S = 0.01
_RETRY_S = 0.05
_CHECK_S = 0.1
_FOREVER_S = 1e6  # a message cannot ask for an infinite time
_numbers = itertools.count(1)


class RosSegmenter:
    """Asks a segmenter node over its services. Thread-safe; close it, or use it in a `with` block."""

    def __init__(
        self, node: str = "/xsam", *, frame_wait_s: float = 2.0, context: Context | None = None
    ) -> None:
        """Start the background thread; nothing is waited for.

        Args:
            node: full name of the segmenter node.
            frame_wait_s: how long a request may wait for the first frame of a camera, within its deadline.
            context: an initialised context to use, for example of a test; it is not shut down.
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
        self._segment = self._node.create_client(Segment, f"{self.node_name}/segment")
        self._get_status = self._node.create_client(GetStatus, f"{self.node_name}/get_status")
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._spin, name="xsam_ros_client", daemon=True)
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
        self._node.destroy_node()
        if self._owns_context:
            self._context.try_shutdown()

    def segment(
        self, source: Frame | CameraRef, queries: Sequence[Query], *, deadline_s: float
    ) -> list[SegmentationResult]:
        """See `xsam.segmenter.Segmenter.segment`; the deadline covers discovery, frame and inference."""
        return self._segment_by(_Limit(deadline_s), source, queries)

    async def segment_async(
        self, source: Frame | CameraRef, queries: Sequence[Query], *, deadline_s: float
    ) -> list[SegmentationResult]:
        """The same for asyncio programs; cancelling the task gives the request up."""
        limit = _Limit(deadline_s)
        try:
            return await asyncio.to_thread(self._segment_by, limit, source, queries)
        finally:
            limit.given_up.set()

    def status(self, *, deadline_s: float = 5.0) -> GetStatus.Response:
        """What the node is doing, its cameras among it.

        Raises:
            SegmenterUnavailableError: no such node within the deadline.
            DeadlineExceededError: it did not answer in time.
        """
        response: GetStatus.Response = self._call(self._get_status, GetStatus.Request(), _Limit(deadline_s))
        return response

    def _segment_by(
        self, limit: _Limit, source: Frame | CameraRef, queries: Sequence[Query]
    ) -> list[SegmentationResult]:
        request = Segment.Request(queries=[query_to_message(query) for query in queries])
        if isinstance(source, Frame):
            request.image = image_from_frame(source)
        else:
            request.camera = sendable("camera", source.name)
            if source.max_age_s is not None:
                request.max_age_s = float(source.max_age_s) or 1e-9  # 0 would mean the node's own limit
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
        if len(response.results) != len(queries):
            raise ModelError(f"the node gave {len(response.results)} answers to {len(queries)} queries")
        if isinstance(source, Frame):
            for result in response.results:
                result.camera = source.camera
        return [
            result_from_message(result, query=query)
            for result, query in zip(response.results, queries, strict=True)
        ]

    def _call(self, client: Client, request: Any, limit: _Limit) -> Any:
        """Wait for the service, call it, wait for the response; all within the same limit."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("a call in the client's own thread would wait for itself")
        while not (self._closing.is_set() or client.service_is_ready()):
            if limit.remaining_s <= 0.0:
                raise SegmenterUnavailableError(f"no node {self.node_name!r} within {limit.allowed_s:.2f} s")
            limit.wait(_POLL_S)
        if self._closing.is_set():
            raise SegmenterUnavailableError("the client is closed", hint="")
        remaining_s = limit.remaining_s
        if remaining_s <= 0.0:
            raise limit.error()
        if isinstance(request, Segment.Request):
            request.timeout_s = float(min(remaining_s, _FOREVER_S))
        answered = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: answered.set())
        try:
            while not answered.wait(min(limit.remaining_s, _CHECK_S)):
                limit.check()
                if self._closing.is_set():
                    raise SegmenterUnavailableError("the client was closed", hint="")
            return future.result()
        finally:
            if not answered.is_set():
                client.remove_pending_request(future)

    def _spin(self) -> None:
        while not self._closing.is_set() and self._context.ok():
            try:
                self._executor.spin_once(timeout_sec=0.1)
            except ExternalShutdownException:
                return


class _Limit:
    """The moment at which a caller gives up, or the fact that it has."""

    def __init__(self, allowed_s: float) -> None:
        self.allowed_s = allowed_s
        self.until = time.monotonic() + allowed_s
        self.given_up = threading.Event()

    @property
    def remaining_s(self) -> float:
        """Seconds left, not negative."""
        return max(0.0, self.until - time.monotonic())

    def error(self) -> DeadlineExceededError:
        return DeadlineExceededError(f"no answer within {self.allowed_s:.2f} s")

    def wait(self, pause_s: float) -> None:
        """Sleep a little; raise if the caller has given up."""
        if self.given_up.wait(min(pause_s, self.remaining_s)):
            raise RequestCancelledError("the caller gave up")

    def check(self) -> None:
        """Raise if the time is up or the caller has given up."""
        self.wait(0.0)
        if self.remaining_s <= 0.0:
            raise self.error()
