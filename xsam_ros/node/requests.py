"""Questions about one image → answers with masks and places; what service, action and streams share."""

from __future__ import annotations

import functools
import inspect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from sensor_msgs.msg import Image

from xsam.errors import InvalidImageError, InvalidQueryError, ModelError, UnknownCameraError
from xsam.spatial.localize import locate_masks
from xsam.types.location import Location3D
from xsam.types.requests import Frame, Query, SegmentationResult, Segments
from xsam_ros.cameras.camera import CameraBuffer, CameraFrame
from xsam_ros.messages.queries import query_from_message
from xsam_ros.messages.results import result_to_message
from xsam_ros.msg import SegmentationResult as ResultMessage
from xsam_ros.msg import SegmentQuery, StageTiming
from xsam_ros.node.metrics import NodeStatistics
from xsam_ros.node.parameters import NodeParameters
from xsam_ros.node.transforms import Transforms
from xsam_ros.node.worker import ModelWorker, StageHook
from xsam_ros.publishers.camera import CameraPublishers

TextHook = Callable[[int, str], None]
"""Gets the number of a query and the text that its answer has so far."""

Refine = Callable[[int, SegmentationResult], SegmentationResult]
"""Gets the number of a query and its answer; gives the answer to send."""


class Engine(Protocol):
    """What the node needs of a model; `xsam.engine.XSam` is one.

    `segment` may also take `on_text`: it gets the index of a query and the text generated for it so far.
    """

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answers to all queries on one image."""

    source: CameraFrame
    results: list[SegmentationResult]
    messages: list[ResultMessage]
    stages_s: Mapping[str, float]  # from the request on, inference included


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What service, action and streams answer with."""

    answerer: Answerer
    worker: ModelWorker
    publishers: Mapping[str, CameraPublishers]  # by camera
    parameters: Callable[[], NodeParameters]
    statistics: NodeStatistics


class Answerer:
    """Runs in the model's thread."""

    def __init__(
        self,
        engine: Engine,
        transforms: Transforms,
        cameras: Mapping[str, CameraBuffer],
        parameters: Callable[[], NodeParameters],
    ) -> None:
        self._engine = engine
        self._transforms = transforms
        self._cameras = cameras
        self._parameters = parameters
        self._takes_text = "on_text" in inspect.signature(engine.segment).parameters

    def check_queries(self, queries: Sequence[SegmentQuery]) -> None:
        """Refuse a number of queries that can't be answered."""
        if not queries:
            raise InvalidQueryError("no queries were given")
        most = self._parameters().max_queries
        if len(queries) > most:
            raise InvalidQueryError(f"{len(queries)} queries, at most {most} are allowed")

    def camera(self, name: str) -> CameraBuffer:
        """A configured camera.

        Raises:
            UnknownCameraError: there is none of that name.
        """
        buffer = self._cameras.get(name)
        if buffer is None:
            known = ", ".join(self._cameras) or "none"
            raise UnknownCameraError(f"unknown camera {name[:64]!r}; configured: {known}")
        return buffer

    def checked_camera(self, name: str, image: Image) -> CameraBuffer | None:
        """The camera that is asked for; None when an image came along."""
        if name and not is_empty(image):
            raise InvalidQueryError("give a camera or an image, not both")
        if not name and is_empty(image):
            known = ", ".join(self._cameras) or "none"
            raise InvalidQueryError(f"give a camera or an image; configured cameras: {known}")
        return self.camera(name) if name else None

    def answer(
        self,
        source: CameraFrame,
        queries: Sequence[SegmentQuery],
        *,
        remaining_s: float,
        on_stage: StageHook,
        before_s: Mapping[str, float],
        on_text: TextHook | None = None,
        refine: Refine = lambda _, result: result,
    ) -> Answer:
        """Answer the valid queries on one frame; the others become REFUSED results in their places.

        Args:
            source: the image.
            queries: at least one.
            remaining_s: time that is left.
            on_stage: called between stages; may raise.
            before_s: seconds by stage before this call, for the timing of the answers.
            on_text: gets the number of a query and its text so far, if the engine tells it.
            refine: changes an answer before it becomes a message, such as to add track ids.
        """
        frame = source.frame
        outcomes: list[SegmentationResult | None] = []
        valid: list[Query] = []
        numbers: list[int] = []  # of the valid ones
        for number, message in enumerate(queries):
            try:
                query = query_from_message(message, image_hw=frame.image_hw)
                query.validate(frame.image_hw)
            except InvalidQueryError as error:
                outcomes.append(SegmentationResult.from_error(error, Query(), frame))
            else:
                outcomes.append(None)
                valid.append(query)
                numbers.append(number)
        answers: list[SegmentationResult] = []
        if valid:
            on_stage("inference")
            extra: dict[str, Any] = {}
            if on_text is not None and self._takes_text:
                extra["on_text"] = lambda index, text: on_text(numbers[index], text)
            answers = self._engine.segment(frame, valid, deadline_s=remaining_s, on_stage=on_stage, **extra)
            if len(answers) != len(valid):
                raise ModelError(f"the model gave {len(answers)} answers to {len(valid)} queries")
        on_stage("location")
        answers = [self._located(source, result) for result in answers]
        on_stage("response")
        remaining = iter(answers)
        results = [
            refine(number, next(remaining) if outcome is None else outcome)
            for number, outcome in enumerate(outcomes)
        ]
        inference_s = dict(answers[0].timing.stages_s) if answers else {}
        return Answer(
            source=source,
            results=results,
            messages=self._messages(source, queries, results, before_s),
            stages_s={**before_s, **inference_s},
        )

    def _located(self, source: CameraFrame, result: SegmentationResult) -> SegmentationResult:
        """The answer with a place for every segment, or the reason why there is none."""
        segments = result.segments
        if not len(segments):
            return result
        started_s = time.monotonic()
        places: Sequence[Location3D | None] = _places(source, segments)
        target = self._parameters().target_frame
        places = self._transforms.relocate(places, source.header, target)
        located = replace(result, segments=replace(segments, locations=tuple(places)))
        if source.frame.depth_m is None:
            return located
        return located.with_timing({**result.timing.stages_s, "location": time.monotonic() - started_s})

    @staticmethod
    def _messages(
        source: CameraFrame,
        queries: Sequence[SegmentQuery],
        results: Sequence[SegmentationResult],
        before_s: Mapping[str, float],
    ) -> list[ResultMessage]:
        before = [StageTiming(stage=stage, seconds=seconds) for stage, seconds in before_s.items()]
        first_id = 1
        made = []
        for query, result in zip(queries, results, strict=True):
            message = result_to_message(result, header=source.header, query=query, first_id=first_id)
            message.camera = source.frame.camera
            message.notes = list(source.notes)
            message.timing = [*before, *message.timing]
            made.append(message)
            first_id += len(result)
        return made


def _places(source: CameraFrame, segments: Segments) -> tuple[Location3D | None, ...]:
    """In the frame of the image."""
    frame = source.frame
    unknown = functools.partial(_all_unknown, len(segments))
    if frame.depth_m is None:
        return unknown(source.no_depth_reason)
    if frame.intrinsics is None:
        return unknown(source.no_intrinsics_reason)
    try:
        places = locate_masks(segments.masks, frame.depth_m, frame.intrinsics, calibrated_hw=frame.image_hw)
    except InvalidImageError as error:
        return unknown(error.message)
    return tuple(replace(place, frame_id=source.header.frame_id) for place in places)


def _all_unknown(count: int, reason: str) -> tuple[Location3D | None, ...]:
    return (Location3D.unknown(reason) if reason else None,) * count


def seconds(field: str, value: float) -> float:
    """A time in a request: 0 means "the node's default".

    Raises:
        InvalidQueryError: it is negative or not finite.
    """
    if not math.isfinite(value) or value < 0.0:
        raise InvalidQueryError(
            f"{field} must be 0 (the default) or a positive number of seconds, got {value}"
        )
    return float(value)


def is_empty(image: Image) -> bool:
    """No image was given, as opposed to a broken one: every field is as it was created."""
    return not (image.height or image.width or image.step or image.encoding or len(image.data))
