"""Queries on one image → results with masks and locations; shared by service, action and streams."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from sensor_msgs.msg import Image

from xsam.errors import InvalidImageError, InvalidQueryError, ModelError, UnknownCameraError
from xsam.segmenter import Engine, Session
from xsam.spatial.localize import locate_masks
from xsam.types.deadline import Deadline, StageHook, TextHook
from xsam.types.location import Location3D
from xsam.types.requests import Query, SegmentationResult, Segments
from xsam.worker import ModelWorker
from xsam_ros.cameras.camera import CameraBuffer, CameraFrame
from xsam_ros.cameras.transforms import Transforms
from xsam_ros.messages.queries import query_from_message
from xsam_ros.messages.results import result_to_message
from xsam_ros.msg import SegmentationResult as ResultMessage
from xsam_ros.msg import SegmentQuery, StageTiming
from xsam_ros.node.memory import SessionBudget
from xsam_ros.node.metrics import NodeStatistics
from xsam_ros.node.parameters import NodeParameters
from xsam_ros.publishers.camera import CameraPublishers

_MAX_MASK_PIXELS = 256_000_000
"""Most pixels of all mask prompts of a request together, at one byte each once they are decoded: a message
of a few bytes can describe any of them."""


class QuerySessions(Protocol):
    """What is given to the engine for a query: the query itself, or a session."""

    def of(self, index: int, query: Query) -> Query | Session: ...

    def notes(self, index: int) -> tuple[str, ...]:
        """Return what the results of a query have to say about its session."""
        ...


RefineHook = Callable[[int, SegmentationResult], SegmentationResult]
"""Gets the index of a query and its result; returns the result to send."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedQuery:
    """A query message, parsed once."""

    message: SegmentQuery  # echoed in the result
    query: Query | InvalidQueryError  # the error of a message that could not be parsed


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameResults:
    """The results of all queries on one frame."""

    source: CameraFrame
    results: list[SegmentationResult]
    messages: list[ResultMessage]
    stages_s: Mapping[str, float]  # seconds by stage, from the request on


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeContext:
    """The parts of a configured node that service, action and streams share."""

    handler: RequestHandler
    worker: ModelWorker
    publishers: Mapping[str, CameraPublishers]  # by camera
    parameters: Callable[[], NodeParameters]
    statistics: NodeStatistics


class RequestHandler:
    """Runs queries on a frame and makes messages of the results. `segment` runs in the model's thread."""

    def __init__(
        self,
        engine: Engine,
        transforms: Transforms,
        cameras: Mapping[str, CameraBuffer],
        parameters: Callable[[], NodeParameters],
    ) -> None:
        self.memory = SessionBudget(engine, parameters)
        self._engine = engine
        self._transforms = transforms
        self._cameras = cameras
        self._parameters = parameters

    def check_query_count(self, count: int) -> None:
        """Raise `InvalidQueryError` for no queries, or more than the parameter `max_queries` allows."""
        if not count:
            raise InvalidQueryError("no queries were given")
        max_queries = self._parameters().max_queries
        if count > max_queries:
            raise InvalidQueryError(f"{count} queries were given, at most {max_queries} are allowed")

    def camera(self, name: str) -> CameraBuffer:
        """Return a configured camera.

        Raises:
            UnknownCameraError: there is none of that name.
        """
        buffer = self._cameras.get(name)
        if buffer is None:
            known = ", ".join(self._cameras) or "none"
            raise UnknownCameraError(f"unknown camera {name[:64]!r}; configured: {known}")
        return buffer

    def requested_camera(self, name: str, image: Image) -> CameraBuffer | None:
        """Return the camera of a request, or None for a request that brings its image along.

        Raises:
            InvalidQueryError: the request has both or neither.
            UnknownCameraError: there is no camera of that name.
        """
        if name and not is_empty(image):
            raise InvalidQueryError("give a camera or an image, not both")
        if not name and is_empty(image):
            known = ", ".join(self._cameras) or "none"
            raise InvalidQueryError(f"give a camera or an image; configured cameras: {known}")
        return self.camera(name) if name else None

    def segment(
        self,
        source: CameraFrame,
        queries: Sequence[ParsedQuery],
        *,
        deadline: Deadline,
        on_stage: StageHook,
        before_s: Mapping[str, float],
        on_text: TextHook | None = None,
        refine: RefineHook = lambda _, result: result,
        stream_id: str = "",
        keep_frame: bool = True,
        sessions: QuerySessions | None = None,
    ) -> FrameResults:
        """Run the queries on one frame; a query that could not be parsed gives a REFUSED result at its index.

        Args:
            source: the frame.
            queries: at least one.
            deadline: of the request.
            on_stage: called between stages; may raise.
            before_s: seconds by stage before this call, for the timing in the results.
            on_text: called with the index of a query and its generated text so far.
            refine: changes a result before it becomes a message, for example to add track ids.
            stream_id: of the stream that the results belong to.
            keep_frame: see `Engine.segment`.
            sessions: of the stream, whose next frame this is, or what a request may use of them.
        """
        segmented = self.ask(
            source,
            queries,
            deadline=deadline,
            on_stage=on_stage,
            on_text=on_text,
            keep_frame=keep_frame,
            sessions=sessions,
        )
        on_stage("location")
        return self.complete(
            source,
            queries,
            segmented,
            before_s=before_s,
            on_stage=on_stage,
            refine=refine,
            stream_id=stream_id,
        )

    def ask(
        self,
        source: CameraFrame,
        queries: Sequence[ParsedQuery],
        *,
        deadline: Deadline,
        on_stage: StageHook,
        on_text: TextHook | None = None,
        keep_frame: bool = True,
        sessions: QuerySessions | None = None,
    ) -> dict[int, SegmentationResult]:
        """Return what the model says to the queries that could be parsed, by index; see `segment`."""
        indices = [i for i, parsed in enumerate(queries) if isinstance(parsed.query, Query)]
        if not indices:
            return {}
        on_stage("inference")
        valid: list[Any] = [parsed.query for parsed in queries if isinstance(parsed.query, Query)]
        if sessions is not None:  # sessions go to an engine that has given them
            valid = [sessions.of(index, query) for index, query in zip(indices, valid, strict=True)]
        segmented = self._engine.segment(
            source.frame,
            valid,
            deadline_s=deadline.remaining_s,
            on_stage=on_stage,
            on_text=None if on_text is None else lambda index, text: on_text(indices[index], text),
            keep_frame=keep_frame,
        )
        if len(segmented) != len(indices):
            raise ModelError(f"the model returned {len(segmented)} results for {len(indices)} queries")
        notes = (lambda _: ()) if sessions is None else sessions.notes
        return {
            index: result.with_notes(notes(index)) for index, result in zip(indices, segmented, strict=True)
        }

    def complete(
        self,
        source: CameraFrame,
        queries: Sequence[ParsedQuery],
        segmented: Mapping[int, SegmentationResult],
        *,
        before_s: Mapping[str, float],
        on_stage: StageHook = lambda _: None,
        refine: RefineHook = lambda _, result: result,
        stream_id: str = "",
    ) -> FrameResults:
        """Add locations to results, and make messages of them.

        Args:
            source: the frame that they are about.
            queries: all; a query that could not be parsed gives a REFUSED result at its index.
            segmented: results of the others, by index.
            before_s: seconds by stage before.
            on_stage: called between stages; may raise.
            refine: see `segment`.
            stream_id: see there.
        """
        by_index = {index: self._with_locations(source, result) for index, result in segmented.items()}
        stages_s = next(
            (result.timing.stages_s for result in by_index.values() if result.timing.stages_s), {}
        )
        on_stage("response")
        for index, parsed in enumerate(queries):
            if isinstance(parsed.query, InvalidQueryError):
                by_index[index] = SegmentationResult.from_error(parsed.query, Query(), source.frame)
        results = [
            replace(refined, notes=(*refined.notes, *source.notes))
            for refined in (refine(index, by_index[index]) for index in range(len(queries)))
        ]
        return FrameResults(
            source=source,
            results=results,
            messages=self._messages(source, queries, results, before_s, stream_id),
            stages_s={**before_s, **stages_s},
        )

    def _with_locations(self, source: CameraFrame, result: SegmentationResult) -> SegmentationResult:
        """Return the result with a location for every segment, or the reason why there is none."""
        segments = result.segments
        if not len(segments):
            return result
        started_s = time.monotonic()
        try:
            locations = self._transforms.relocate(
                _locations(source, segments), source.header, self._parameters().target_frame
            )
        except Exception as error:  # a problem with locations never costs the masks
            reason = f"the location cannot be computed: {type(error).__name__}: {error}"
            locations = _all_unknown(len(segments), reason)
        located = replace(result, segments=replace(segments, locations=locations))
        if source.frame.depth_m is None:
            return located
        return located.with_timing({**result.timing.stages_s, "location": time.monotonic() - started_s})

    @staticmethod
    def _messages(
        source: CameraFrame,
        queries: Sequence[ParsedQuery],
        results: Sequence[SegmentationResult],
        before_s: Mapping[str, float],
        stream_id: str,
    ) -> list[ResultMessage]:
        before = [StageTiming(stage=stage, seconds=seconds) for stage, seconds in before_s.items()]
        first_id = 1
        messages = []
        for parsed, result in zip(queries, results, strict=True):
            message = result_to_message(result, header=source.header, query=parsed.message, first_id=first_id)
            message.camera = source.frame.camera
            message.stream_id = stream_id
            message.timing = [*before, *message.timing]
            messages.append(message)
            first_id += len(result)
        return messages


def parse_queries(
    messages: Sequence[SegmentQuery], *, image_hw: tuple[int, int] | None = None
) -> tuple[ParsedQuery, ...]:
    """Parse query messages; a message that cannot be parsed keeps its error.

    Args:
        messages: as they came.
        image_hw: (H, W) of the image; a mask prompt of another size is not even decoded.
    """
    parsed = []
    room_px = _MAX_MASK_PIXELS
    for message in messages:
        query: Query | InvalidQueryError
        try:
            room_px -= _mask_pixels(message, image_hw)
            if room_px < 0:
                raise InvalidQueryError(
                    f"the mask prompts have over {_MAX_MASK_PIXELS // 1_000_000} million pixels together",
                    hint="send fewer masks at a time, or boxes",
                )
            query = query_from_message(message, image_hw=image_hw)
        except InvalidQueryError as error:
            query = error.with_traceback(None)
        parsed.append(ParsedQuery(message=message, query=query))
    return tuple(parsed)


def _mask_pixels(message: SegmentQuery, image_hw: tuple[int, int] | None) -> int:
    """Return the number of pixels that the masks of a query have once they are decoded."""
    masks = [prompt.mask for prompt in message.prompts if len(prompt.mask.counts)]
    if image_hw is not None:
        masks = [mask for mask in masks if (mask.height, mask.width) == image_hw]  # others are never decoded
    return sum(int(mask.height) * int(mask.width) for mask in masks)


def _locations(source: CameraFrame, segments: Segments) -> tuple[Location3D | None, ...]:
    """Return the locations of the segments in the frame of the image."""
    frame = source.frame
    unknown = functools.partial(_all_unknown, len(segments))
    if frame.depth_m is None:
        return unknown(source.no_depth_reason)
    if frame.intrinsics is None:
        return unknown(source.no_intrinsics_reason)
    try:
        locations = locate_masks(
            segments.masks,
            frame.depth_m,
            frame.intrinsics,
            calibrated_hw=frame.image_hw,
            lens=frame.lens,
            doubt=None if source.depth_view is None else source.depth_view.doubt,
        )
    except InvalidImageError as error:
        return unknown(error.message)
    return tuple(replace(location, frame_id=source.header.frame_id) for location in locations)


def _all_unknown(count: int, reason: str) -> tuple[Location3D | None, ...]:
    return (Location3D.unknown(reason) if reason else None,) * count


def seconds(field: str, value: float) -> float:
    """Return a time from a request, where 0 stands for the node's default.

    Raises:
        InvalidQueryError: it is negative or not finite.
    """
    if not math.isfinite(value) or value < 0.0:
        raise InvalidQueryError(
            f"{field} must be 0 (the default) or a positive number of seconds, got {value}"
        )
    return float(value)


def is_empty(image: Image) -> bool:
    """Return whether no image was given: every field has its initial value. A broken image is not empty."""
    return not (image.height or image.width or image.step or image.encoding or len(image.data))
