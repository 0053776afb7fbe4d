"""Requests for one image: checked at once, run in the model's thread, published to subscribers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from sensor_msgs.msg import Image

from xsam.errors import XSamError
from xsam.types.deadline import Deadline, StageHook, TextHook
from xsam.worker import Job
from xsam_ros.cameras.camera import CameraFrame
from xsam_ros.messages.frames import frame_from_image
from xsam_ros.messages.queries import check_elements
from xsam_ros.node.requests import FrameResults, NodeContext, parse_queries, seconds


class SegmentRequest(Protocol):
    """The fields that a request of the service and a goal of the action share."""

    camera: str
    image: Image
    queries: list[Any]
    max_age_s: float
    timeout_s: float


def _ignore_stage(_: str) -> None:
    pass


class SegmentService:
    """Turns requests into jobs of the worker."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context

    def submit(
        self,
        request: SegmentRequest,
        on_done: Callable[[FrameResults | XSamError], None],
        *,
        on_stage: StageHook = _ignore_stage,
        on_text: TextHook | None = None,
        on_queue_position: Callable[[int], None] | None = None,
    ) -> Job[FrameResults]:
        """Queue a request.

        Args:
            request: of the service or the action.
            on_done: gets the outcome, once, in any thread; must return quickly.
            on_stage: called between stages, in the model's thread; may raise to end the request.
            on_text: called with the index of a query and its text so far, in the model's thread.
            on_queue_position: called with the number of requests ahead, when that changes.

        Raises:
            RequestRefusedError: the queue is full, the node is not active, or the request has an error that
                shows without the image. `on_done` is not called.
        """
        try:
            return self._submit(request, on_done, on_stage, on_text, on_queue_position)
        except XSamError as error:
            self._context.statistics.count_request(error.code)
            raise

    def cancel(self, job: Job[FrameResults], error: XSamError) -> None:
        """End a request; the model stops at its next stage."""
        self._context.worker.cancel(job, error)

    def _submit(
        self,
        request: SegmentRequest,
        on_done: Callable[[FrameResults | XSamError], None],
        on_stage: StageHook,
        on_text: TextHook | None,
        on_queue_position: Callable[[int], None] | None,
    ) -> Job[FrameResults]:
        context = self._context
        parameters = context.parameters()
        timeout_s = seconds("timeout_s", request.timeout_s) or parameters.default_timeout_s
        max_age_s = seconds("max_age_s", request.max_age_s) or parameters.max_frame_age_s
        camera = context.handler.requested_camera(request.camera, request.image)
        check_elements(request.queries)
        context.handler.check_query_count(len(request.queries))
        deadline = Deadline(min(timeout_s, parameters.max_timeout_s))
        submitted_s = time.monotonic()

        def work(check: StageHook) -> FrameResults:
            def begin(stage: str) -> None:
                check(stage)
                on_stage(stage)

            begin("image")
            started_s = time.monotonic()
            if camera is None:
                notes: list[str] = []
                frame = frame_from_image(request.image, max_side_px=parameters.max_image_side_px, notes=notes)
                source = CameraFrame(frame=frame, header=request.image.header, notes=tuple(notes))
            else:
                source = camera.newest_frame(max_age_s=max_age_s, max_side_px=parameters.max_image_side_px)
            before_s = {"queue": started_s - submitted_s, "image": time.monotonic() - started_s}
            return context.handler.segment(
                source,
                parse_queries(request.queries, image_hw=source.frame.image_hw),
                deadline=deadline,
                on_stage=begin,
                before_s=before_s,
                on_text=on_text,
                sessions=None if camera is None else context.handler.memory.request_sessions(camera.name),
            )

        def report(outcome: FrameResults | XSamError) -> None:
            if isinstance(outcome, XSamError):
                context.statistics.count_request(outcome.code)
            else:
                context.statistics.count_request("")
                context.statistics.add_times(outcome.stages_s)
            on_done(outcome)

        return context.worker.submit(
            work, report, deadline=deadline, on_success=self._publish, on_queue_position=on_queue_position
        )

    def _publish(self, frame_results: FrameResults) -> None:
        frame = frame_results.source.frame
        publishers = self._context.publishers.get(frame.camera)
        if publishers is not None:
            segments = [result.segments for result in frame_results.results]
            publishers.publish(frame, frame_results.messages, segments)
