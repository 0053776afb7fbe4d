"""Requests of `~/segment`: checked at once, answered in the model's thread, published to who listens."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sensor_msgs.msg import Image

from xsam.errors import InvalidQueryError, ModelError, UnknownCameraError, XSamError
from xsam.structures import Frame, Query, SegmentationResult
from xsam_ros.camera import CameraFrame, CameraSlot
from xsam_ros.conversions import error_to_response, frame_from_image, query_from_message, result_to_message
from xsam_ros.msg import SegmentQuery, StageTiming
from xsam_ros.outputs import CameraOutputs
from xsam_ros.parameters import NodeParameters
from xsam_ros.srv import Segment
from xsam_ros.worker import Job, ModelWorker, StageHook


class Engine(Protocol):
    """What the node needs of a model; `xsam.engine.XSam` is one."""

    @property
    def model_id(self) -> str: ...

    def segment(
        self,
        frame: Frame,
        queries: Sequence[Query],
        *,
        deadline_s: float,
        on_stage: Callable[[str], None] | None = None,
    ) -> list[SegmentationResult]:
        """Answer the queries; `on_stage` is called between stages and may raise to stop it."""
        ...

    def warm_up(self) -> None:
        """Run once, so that the first request is not slower than the others."""
        ...

    def close(self) -> None:
        """Free the memory."""
        ...


class Counts:
    """Requests by how they ended, since the node was started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.answered = 0
        self.refused = 0
        self.failed = 0

    def add(self, response: Segment.Response) -> None:
        """Count a response."""
        with self._lock:
            if response.status == Segment.Response.STATUS_ANSWERED:
                self.answered += 1
            elif response.status == Segment.Response.STATUS_REFUSED:
                self.refused += 1
            else:
                self.failed += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    response: Segment.Response
    source: CameraFrame
    results: list[SegmentationResult]


class SegmentService:
    """Turns requests into jobs of the worker and answers into responses."""

    def __init__(
        self,
        *,
        engine: Engine,
        worker: ModelWorker,
        cameras: Mapping[str, CameraSlot],
        outputs: Mapping[str, CameraOutputs],
        parameters: Callable[[], NodeParameters],
    ) -> None:
        self._engine = engine
        self._worker = worker
        self._cameras = cameras
        self._outputs = outputs
        self._parameters = parameters

    def submit(self, request: Segment.Request, on_done: Callable[[Segment.Response], None]) -> Job[_Answer]:
        """Queue a request; `on_done` gets the response, whatever happens to the request from here on.

        Raises:
            RequestRefusedError: what can be said at once: queue full, not active, and mistakes that
                show without the image.
        """
        parameters = self._parameters()
        deadline_s = _timeout_s(request, parameters)
        max_age_s = _seconds("max_age_s", request.max_age_s) or parameters.max_frame_age_s
        camera = self._checked_camera(request)
        if not request.queries:
            raise InvalidQueryError("no queries were given")
        if len(request.queries) > parameters.max_queries:
            raise InvalidQueryError(
                f"{len(request.queries)} queries, at most {parameters.max_queries} are allowed"
            )
        submitted_s = time.monotonic()

        def work(on_stage: StageHook) -> _Answer:
            waited_s = time.monotonic() - submitted_s
            if camera is None:
                frame = frame_from_image(request.image, max_side_px=parameters.max_image_side_px)
                source = CameraFrame(frame=frame, header=request.image.header)
            else:
                source = camera.newest_frame(max_age_s=max_age_s, max_side_px=parameters.max_image_side_px)
            decoded_s = time.monotonic() - submitted_s - waited_s
            before = {"queue": waited_s, "image": decoded_s}
            remaining_s = submitted_s + deadline_s - time.monotonic()
            return self._answer(source, request.queries, remaining_s, on_stage, before)

        def report(outcome: _Answer | XSamError) -> None:
            if isinstance(outcome, XSamError):
                on_done(error_to_response(outcome, Segment.Response()))
            else:
                on_done(outcome.response)

        return self._worker.submit(work, report, deadline_s=deadline_s, afterwards=self._publish)

    def _checked_camera(self, request: Segment.Request) -> CameraSlot | None:
        """The camera that is asked for; None when an image came along."""
        known = ", ".join(self._cameras) or "none"
        if request.camera and not _is_empty(request.image):
            raise InvalidQueryError("give a camera or an image, not both")
        if not request.camera:
            if _is_empty(request.image):
                raise InvalidQueryError(f"give a camera or an image; configured cameras: {known}")
            return None
        camera = self._cameras.get(request.camera)
        if camera is None:
            raise UnknownCameraError(f"unknown camera {request.camera[:64]!r}; configured: {known}")
        return camera

    def _answer(
        self,
        source: CameraFrame,
        messages: Sequence[SegmentQuery],
        remaining_s: float,
        on_stage: StageHook,
        before: Mapping[str, float],
    ) -> _Answer:
        """Answer the valid queries on one frame; the others become REFUSED results in their places."""
        frame = source.frame
        outcomes: list[SegmentationResult | None] = []
        valid: list[Query] = []
        for message in messages:
            try:
                query = query_from_message(message, image_hw=frame.image_hw)
                query.validate(frame.image_hw)
            except InvalidQueryError as error:
                outcomes.append(SegmentationResult.from_error(error, Query(), frame))
            else:
                outcomes.append(None)
                valid.append(query)
        answers = []
        if valid:
            on_stage("inference")
            answers = self._engine.segment(frame, valid, deadline_s=remaining_s, on_stage=on_stage)
            if len(answers) != len(valid):
                raise ModelError(f"the model gave {len(answers)} answers to {len(valid)} queries")
        on_stage("response")
        remaining = iter(answers)
        results = [next(remaining) if outcome is None else outcome for outcome in outcomes]
        response = Segment.Response(status=Segment.Response.STATUS_ANSWERED)
        first_id = 1
        timing = [StageTiming(stage=stage, seconds=seconds) for stage, seconds in before.items()]
        for message, result in zip(messages, results, strict=True):
            answer = result_to_message(result, header=source.header, query=message, first_id=first_id)
            answer.camera = frame.camera
            answer.timing = [*timing, *answer.timing]
            response.results.append(answer)
            first_id += len(result)
        return _Answer(response=response, source=source, results=results)

    def _publish(self, answer: _Answer) -> None:
        outputs = self._outputs.get(answer.source.frame.camera)
        if outputs is not None:
            segments = [result.segments for result in answer.results]
            outputs.publish(answer.source.frame, answer.response.results, segments)


def _timeout_s(request: Segment.Request, parameters: NodeParameters) -> float:
    timeout_s = _seconds("timeout_s", request.timeout_s) or parameters.default_timeout_s
    return min(timeout_s, parameters.max_timeout_s)


def _seconds(field: str, value: float) -> float:
    if not math.isfinite(value) or value < 0.0:
        raise InvalidQueryError(
            f"{field} must be 0 (the default) or a positive number of seconds, got {value}"
        )
    return float(value)


def _is_empty(image: Image) -> bool:
    """No image was given, as opposed to a broken one: every field is as it was created."""
    return not (image.height or image.width or image.step or image.encoding or len(image.data))
