"""Requests for one image: checked at once, answered in the model's thread, published to who listens."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from sensor_msgs.msg import Image

from xsam.errors import XSamError
from xsam_ros.cameras.camera import CameraFrame
from xsam_ros.messages.frames import frame_from_image
from xsam_ros.node.requests import Answer, Serving, TextHook, seconds
from xsam_ros.node.worker import Job, StageHook


class Request(Protocol):
    """The fields that a request of the service and a goal of the action share."""

    camera: str
    image: Image
    queries: list[Any]
    max_age_s: float
    timeout_s: float


def _nothing(_: str) -> None:
    pass


class SegmentService:
    """Turns requests into jobs of the worker."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def submit(
        self,
        request: Request,
        on_done: Callable[[Answer | XSamError], None],
        *,
        on_stage: StageHook = _nothing,
        on_text: TextHook | None = None,
        on_moved: Callable[[int], None] | None = None,
    ) -> Job[Answer]:
        """Queue a request; `on_done` gets its outcome, once, whatever happens to it from here on.

        Args:
            request: of service or action.
            on_done: called in any thread; must be quick.
            on_stage: called between stages, in the model's thread; may raise to end the request.
            on_text: called with the number of a query and its text so far, in the model's thread.
            on_moved: called with the number of requests that go first, when that changes.

        Raises:
            RequestRefusedError: what can be said at once: queue full, not active, and mistakes that
                show without the image.
        """
        try:
            return self._submit(request, on_done, on_stage, on_text, on_moved)
        except XSamError as error:
            self._serving.statistics.count_request(error.code)
            raise

    def cancel(self, job: Job[Answer], error: XSamError) -> None:
        """End a request; the model stops at its next stage."""
        self._serving.worker.cancel(job, error)

    def _submit(
        self,
        request: Request,
        on_done: Callable[[Answer | XSamError], None],
        on_stage: StageHook,
        on_text: TextHook | None,
        on_moved: Callable[[int], None] | None,
    ) -> Job[Answer]:
        parameters = self._serving.parameters()
        timeout_s = seconds("timeout_s", request.timeout_s) or parameters.default_timeout_s
        deadline_s = min(timeout_s, parameters.max_timeout_s)
        max_age_s = seconds("max_age_s", request.max_age_s) or parameters.max_frame_age_s
        camera = self._serving.answerer.checked_camera(request.camera, request.image)
        self._serving.answerer.check_queries(request.queries)
        submitted_s = time.monotonic()

        def work(check: StageHook) -> Answer:
            def between(stage: str) -> None:
                check(stage)
                on_stage(stage)

            between("image")
            started_s = time.monotonic()
            if camera is None:
                frame = frame_from_image(request.image, max_side_px=parameters.max_image_side_px)
                source = CameraFrame(frame=frame, header=request.image.header)
            else:
                source = camera.newest_frame(max_age_s=max_age_s, max_side_px=parameters.max_image_side_px)
            return self._serving.answerer.answer(
                source,
                request.queries,
                remaining_s=submitted_s + deadline_s - time.monotonic(),
                on_stage=between,
                before_s={"queue": started_s - submitted_s, "image": time.monotonic() - started_s},
                on_text=on_text,
            )

        def report(outcome: Answer | XSamError) -> None:
            if isinstance(outcome, XSamError):
                self._serving.statistics.count_request(outcome.code)
            else:
                self._serving.statistics.count_request("")
                self._serving.statistics.add_times(outcome.stages_s)
            on_done(outcome)

        return self._serving.worker.submit(
            work, report, deadline_s=deadline_s, afterwards=self._publish, on_moved=on_moved
        )

    def _publish(self, answer: Answer) -> None:
        publishers = self._serving.publishers.get(answer.source.frame.camera)
        if publishers is not None:
            segments = [result.segments for result in answer.results]
            publishers.publish(answer.source.frame, answer.messages, segments)
