"""`RosSegmenter`: a running segmenter node as an `xsam.segmenter.Segmenter`, for any Python program.

::

    from xsam import CameraRef, Query
    from xsam_ros.client import RosSegmenter

    with RosSegmenter("/xsam") as segmenter:
        result = segmenter.segment(CameraRef(name="camera"), [Query(text="the red mug")], deadline_s=10.0)[0]

`start_stream` repeats the same queries on each new frame and iterates over the results;
`segment_with_progress` reports the progress of a long request and can cancel it. In asyncio programs, use
`await asyncio.to_thread(segmenter.segment, ...)`. `newest_frame` and `segment_with_frame` also give the
pixels, from the topics that the node itself names.

The client has its own ROS context, node and thread. It works in programs that do not use ROS otherwise, and
it never runs, blocks or waits for somebody else's executor.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.context import Context

from xsam.errors import (
    CameraUnavailableError,
    DeadlineExceededError,
    InvalidImageError,
    InvalidOptionError,
    InvalidQueryError,
    ModelError,
    NoFrameError,
)
from xsam.types.deadline import Deadline, StageHook, TextHook
from xsam.types.requests import CameraRef, Frame, Query, SegmentationResult
from xsam_ros.action import Segment as SegmentAction
from xsam_ros.cameras.transforms import transforms_available
from xsam_ros.client.cameras import CameraFeeds, FrameHold
from xsam_ros.client.connection import NodeConnection
from xsam_ros.client.goal import ProgressHook, progress_hook
from xsam_ros.client.stream import ResultStream
from xsam_ros.client.streams import ClientStreams
from xsam_ros.client.transforms import ClientTransforms
from xsam_ros.messages.frames import image_from_frame
from xsam_ros.messages.queries import query_to_message
from xsam_ros.messages.results import raise_for_response, result_from_message
from xsam_ros.messages.text import require_sendable
from xsam_ros.srv import GetStatus, Segment, SetStreamQuery

_RETRY_S = 0.05


class RosSegmenter:
    """A segmenter that uses a node's services and its action.

    Thread-safe. Close it, or use it in a `with` block.
    """

    def __init__(
        self,
        node: str = "/xsam",
        *,
        frame_wait_s: float = 2.0,
        owner: str = "",
        with_frames: bool = True,
        context: Context | None = None,
    ) -> None:
        """Start the background thread; does not wait for the node.

        Args:
            node: full name of the segmenter node.
            frame_wait_s: how long a request may wait for the first frame of a camera, within its deadline.
            owner: name of the owner of this client's streams, which others read; "" = that of the program.
            with_frames: whether the agent tools may use the pixels of the cameras, which then come to this
                program, too; without them, pictures and the tools that need pixels are not offered.
            context: an initialized context to use, for example in tests; it is not shut down.
        """
        self.gives_frames = with_frames
        self.node_name = "/" + node.strip("/")
        self._frame_wait_s = frame_wait_s
        self._connection = NodeConnection(self.node_name, context=context)
        self._streams = ClientStreams(self._connection, owner=owner)
        self._feeds = CameraFeeds(self._connection)
        self._transforms = ClientTransforms(self._connection.node)

    def __enter__(self) -> RosSegmenter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the streams that have a lease, end the thread and leave ROS. May be called more than once."""
        self._streams.close()
        self._feeds.close()
        self._transforms.close()
        self._connection.close()

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

    def segment_with_frame(
        self, source: CameraRef, queries: Sequence[Query], *, deadline_s: float
    ) -> tuple[list[SegmentationResult], Frame | None]:
        """Segment the newest frame of a camera, and return that very frame with the results.

        The node segments its own copy, so locations and publications are as always. The frame is the image
        with the same stamp on the topic that the node names, with depth and intrinsics where the node has
        them and the depth is registered already.

        Args:
            source: camera of the node.
            queries: as for `segment`.
            deadline_s: covers discovery, frame and inference.

        Returns:
            The results, and their frame; None if it did not reach this client, then a note of the results
            says so.

        Raises:
            XSamError: as for `segment`.
        """
        deadline = _deadline(deadline_s)
        self._transforms.listen()
        feed = self._feeds.open(source.name, deadline)
        feed.wait_first(min(self._frame_wait_s, deadline.remaining_s), again=False)
        hold = FrameHold(feed)
        results = self._with_first_frame(
            lambda: self._segment_by_action(source, queries, deadline, progress_hook(hold.on_stage, None)),
            deadline,
        )
        try:
            frame, reason = hold.frame(results[0].stamp_ns), "it did not arrive"
        except InvalidImageError as error:
            frame, reason = None, error.message
        if frame is not None and all(result.segments.image_hw == frame.image_hw for result in results):
            return results, frame
        self._feeds.forget(source.name)
        note = f"the pixels of this image are not known here: {reason}"
        return [replace(result, notes=(*result.notes, note)) for result in results], None

    def newest_frame(self, camera: str, *, max_age_s: float = 5.0, deadline_s: float = 5.0) -> Frame:
        """Return the newest frame of one of the node's cameras, with its stamp.

        Args:
            camera: configured name; the node says which topic that is.
            max_age_s: an older frame is refused.
            deadline_s: covers discovery and, after a pause, the first image.

        Raises:
            UnknownCameraError: the node has no such camera.
            NoFrameError: none arrived in time.
            StaleFrameError: the newest one is too old.
            InvalidImageError: it cannot be decoded.
            SegmenterUnavailableError, DeadlineExceededError: the node did not respond.
        """
        deadline = _deadline(deadline_s)
        feed = self._feeds.open(require_sendable("camera", camera), deadline)
        feed.wait_first(deadline.remaining_s)
        try:
            return feed.newest(max_age_s=_deadline(max_age_s).allowed_s or 0.0)
        except CameraUnavailableError:
            self._feeds.forget(camera)  # the node may have been configured anew, with other topics
            raise

    @property
    def look_up_transform(self) -> Callable[[str, str, int], NDArray[np.float64] | None] | None:
        """A function for transforms by TF; None where TF is not installed.

        It takes target frame, source frame and stamp in ns, and returns the (4, 4) matrix of points from
        source to target, None if there is no transform at that time.
        """
        return self._transforms.look_up if transforms_available() else None

    def clock_ns(self) -> int:
        """Return the time in ns by the clock of the image stamps: simulated time once the node has it."""
        return int(self._connection.node.get_clock().now().nanoseconds)

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
        propagate: bool = False,
        wait_s: float = 10.0,
        deadline_s: float = 5.0,
        lease_s: float = 10.0,
        replace: bool = False,
    ) -> ResultStream:
        """Run the queries on the newest frame of a camera again and again.

        Args:
            camera: configured name; it has at most one stream.
            queries: at least one.
            rate_hz: highest rate of results; 0 = as fast as the model can, or the camera with `propagate`.
            propagate: the model segments keyframes only, and their masks are carried along in between;
                `SegmentationResult.carried` says so.
            wait_s: how long the iteration waits for the next result.
            deadline_s: for the node to start the stream; lost requests are sent again.
            lease_s: the node ends the stream when it has not heard of this client for so long, 1 to 86400.
                The client keeps it up until the stream is stopped or the client closed. 0 = the stream
                outlives the client.
            replace: end the stream that the camera has, also this client's own; its owner is told.

        Raises:
            StreamTakenError: the camera has a stream already, and `replace` is false; names its owner.
            InvalidQueryError, UnknownCameraError, NotActiveError, SegmenterUnavailableError,
            DeadlineExceededError.
        """
        if not queries:
            raise InvalidQueryError("no queries were given; stop_stream ends a stream")
        request = SetStreamQuery.Request(
            camera=require_sendable("camera", camera),
            rate_hz=float(rate_hz),
            propagate=bool(propagate),
            lease_s=float(lease_s),
            replace=bool(replace),
        )
        request.queries = [query_to_message(query) for query in queries]
        return self._streams.start(request, queries, wait_s=wait_s, deadline=_deadline(deadline_s))

    def stop_stream(self, camera: str, *, replace: bool = False, deadline_s: float = 5.0) -> None:
        """End this client's stream of a camera; do nothing if none is running.

        Args:
            camera: configured name.
            replace: also end the stream of another owner, who is told.
            deadline_s: for the node to stop it.

        Raises:
            StreamTakenError: the stream is another owner's, and `replace` is false.
            UnknownCameraError, NotActiveError, SegmenterUnavailableError, DeadlineExceededError.
        """
        request = SetStreamQuery.Request(camera=require_sendable("camera", camera), replace=bool(replace))
        self._streams.stop(request, _deadline(deadline_s))

    def status(self, *, deadline_s: float = 5.0) -> GetStatus.Response:
        """Return the status of the node and its cameras.

        Raises:
            SegmenterUnavailableError: the node was not found within the deadline, or does not respond.
            DeadlineExceededError: it did not respond in time, and the deadline is short.
        """
        response: GetStatus.Response = self._connection.call(
            self._connection.get_status, GetStatus.Request(), _deadline(deadline_s)
        )
        return response

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
        response = self._connection.call(self._connection.segment, request, deadline)
        return _results(response, source, queries)

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
        result = self._connection.send_goal(request, deadline, on_progress, cancel=cancel)
        return _results(result, source, queries)


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
