"""The one interface to segmentation, and a fake of it for tests.

The in-process engine (`XSam`), the ROS client (`xsam_ros.client.RosSegmenter`), the lazy loader of
the agent tools and `FakeSegmenter` all implement `Segmenter`; one contract test runs against each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from xsam.errors import InvalidQueryError, UnknownCameraError
from xsam.types.deadline import Deadline, StageHook, TextHook
from xsam.types.masks import BoolMask, MaskRle, box_of_mask
from xsam.types.requests import CameraRef, Frame, Query, SegmentationResult, Segments, Status, Task, Timing


@runtime_checkable
class Segmenter(Protocol):
    """Anything that segments a frame by queries."""

    def segment(
        self,
        source: Frame | CameraRef,
        queries: Sequence[Query],
        *,
        deadline_s: float,
        on_stage: StageHook | None = None,
        on_text: TextHook | None = None,
    ) -> list[SegmentationResult]:
        """Segment one frame by every query.

        Args:
            source: a frame, or a camera whose newest frame is used.
            queries: at least one.
            deadline_s: seconds from now until the caller gives up; covers everything.
            on_stage: called with the name of each stage; may raise to end the request.
            on_text: called with a query's index and its generated text so far; may raise.

        Returns:
            One result per query, in order. A query that is invalid by itself gives a REFUSED result and
            does not affect the others.

        Raises:
            RequestRefusedError: the whole request is refused (no queries, unknown camera, no or stale
                frame, queue full, deadline, not active).
            ModelError: inference failed for the whole request.
        """
        ...


class Engine(Segmenter, Protocol):
    """A segmenter that holds the model itself, as the ROS node needs it."""

    @property
    def model_id(self) -> str:
        """Identifier of the model, for results and status."""
        ...

    def segment(
        self,
        source: Frame | CameraRef,
        queries: Sequence[Query],
        *,
        deadline_s: float,
        on_stage: StageHook | None = None,
        on_text: TextHook | None = None,
        keep_frame: bool = True,
    ) -> list[SegmentationResult]:
        """See `Segmenter.segment`.

        Args:
            source: as there.
            queries: as there.
            deadline_s: as there.
            on_stage: as there.
            on_text: as there.
            keep_frame: whether further requests for the frame are likely. False, as in streams: keep what is
                computed from the frame alone only until another frame is computed.
        """
        ...

    def warm_up(self) -> None:
        """Run once, so that the first request is not slower than the others."""
        ...

    def close(self) -> None:
        """Release the memory; later calls raise `ModelError`."""
        ...


@runtime_checkable
class FrameSegmenter(Segmenter, Protocol):
    """A segmenter with cameras of its own that also gives their frames, such as the client of a ROS node."""

    @property
    def gives_frames(self) -> bool:
        """Whether frames may be asked for; False leaves it at `segment`."""
        ...

    @property
    def look_up_transform(self) -> Callable[[str, str, int], NDArray[np.float64] | None] | None:
        """(target frame, source frame, stamp in ns) → (4, 4) matrix, or None; None without transforms."""
        ...

    def newest_frame(self, camera: str) -> Frame:
        """Return the newest frame of one of the segmenter's cameras.

        Raises:
            XSamError: unknown camera, or no frame in time.
        """
        ...

    def segment_with_frame(
        self, source: CameraRef, queries: Sequence[Query], *, deadline_s: float
    ) -> tuple[list[SegmentationResult], Frame | None]:
        """Segment the newest frame of a camera, and return that very frame with the results.

        The results are those of `Segmenter.segment`; the frame is None where its pixels are not available,
        and a note of the results says why.
        """
        ...

    def clock_ns(self) -> int:
        """Return the time in nanoseconds by the clock of the stamps."""
        ...


class Session(Protocol):
    """One query on the frames of one video, each of which is answered with regard to earlier ones.

    The model may remember them (see `VideoEngine`), or masks are carried from keyframes to the frames after
    them (see `xsam.video`). A step that ends early leaves the session as it was: the frame counts as dropped.
    Not for several threads at once.
    """

    @property
    def query(self) -> Query: ...

    @property
    def frame_count(self) -> int:
        """Number of frames since the beginning of the video."""
        ...

    @property
    def nbytes(self) -> int:
        """Memory that it takes, bytes."""
        ...

    def step(
        self, source: Frame, *, deadline_s: float | None = None, on_stage: StageHook | None = None
    ) -> SegmentationResult:
        """Segment the next frame.

        Args:
            source: the frame.
            deadline_s: seconds from now; None = no limit.
            on_stage: called between stages of the model; may raise to end the step.

        Raises:
            XSamError: the frame has no result.
        """
        ...

    def fork(self) -> Session:
        """Return a session that goes on from here by itself, such as for a look ahead; it shares the past."""
        ...

    def refresh(self) -> None:
        """Read the query again together with the next frame; does nothing for visual prompts."""
        ...

    def reset(self) -> None:
        """Forget the video: the next frame is the first of another one."""
        ...


class VideoEngine(Engine, Protocol):
    """An engine whose model may remember earlier frames; engines need not be one, see `video_engine`."""

    @property
    def has_memory(self) -> bool:
        """False if the model that is loaded has no memory; the other members then raise `ModelError`."""
        ...

    def session_nbytes(self, query: Query) -> int:
        """Return the most bytes that a session of a query will take, before it takes any."""
        ...

    def open_session(self, query: Query, *, refresh_every: int, late_s: float) -> Session:
        """Begin to follow what a query names through the frames of one video.

        Args:
            query: what to segment; visual prompts belong to the first frame.
            refresh_every: frames after which the query is read again together with the newest frame; 0 reads
                it with the first frame only.
            late_s: a frame that is older than the newest one by at most this, by its stamp, is segmented and
                not remembered; one that is still older begins another video.

        Raises:
            InvalidQueryError: the query has no session, because its answer is generated text.
        """
        ...

    def segment(
        self,
        source: Frame | CameraRef,
        queries: Sequence[Query | Session],
        *,
        deadline_s: float,
        on_stage: StageHook | None = None,
        on_text: TextHook | None = None,
        keep_frame: bool = True,
    ) -> list[SegmentationResult]:
        """See `Engine.segment`; for a session, the frame is the next one of its video."""
        ...


def check_video_query(query: Query) -> None:
    """Raise `InvalidQueryError` for a query whose answer is generated: it has no masks to follow."""
    if query.explain or query.resolved_task() in (Task.CHAT, Task.GROUNDED_CONVERSATION):
        raise InvalidQueryError(
            "a video session segments, it does not generate text",
            hint="segment one frame with this query, then open a session for what it names",
        )


def video_engine(segmenter: Segmenter) -> VideoEngine | None:
    """Return a segmenter as a `VideoEngine`; None if its model has no memory of earlier frames."""
    return cast(VideoEngine, segmenter) if getattr(segmenter, "has_memory", False) else None


class FakeSegmenter:
    """A segmenter with given masks, for tests of code that uses one.

    It keeps the contract (validation, typed refusals, deadlines) and matches a phrase or category to a mask
    by equality of the lower-case text without its leading article.
    """

    def __init__(
        self,
        masks_by_label: Mapping[str, Sequence[BoolMask]],
        *,
        frames: Mapping[str, Frame] | None = None,
        delay_s: float = 0.0,
    ) -> None:
        self._masks_by_label = {_bare(label): tuple(masks) for label, masks in masks_by_label.items()}
        self._frames = dict(frames or {})
        self._delay_s = delay_s

    def segment(
        self,
        source: Frame | CameraRef,
        queries: Sequence[Query],
        *,
        deadline_s: float,
        on_stage: StageHook | None = None,
        on_text: TextHook | None = None,
        keep_frame: bool = True,
    ) -> list[SegmentationResult]:
        """See `Engine.segment`; the one stage is "inference", no text is generated, and no frame is kept."""
        if not queries:
            raise InvalidQueryError("no queries were given")
        deadline = Deadline(deadline_s)
        if on_stage is not None:
            on_stage("inference")
        if deadline.remaining_s <= self._delay_s:
            raise deadline.error()
        if isinstance(source, CameraRef):
            if source.name not in self._frames:
                known = ", ".join(sorted(self._frames)) or "none"
                raise UnknownCameraError(f"unknown camera {source.name!r}; configured: {known}")
            frame = self._frames[source.name]
        else:
            frame = source
        time.sleep(self._delay_s)
        return [self._result(frame, query) for query in queries]

    def _result(self, frame: Frame, query: Query) -> SegmentationResult:
        try:
            query.validate(frame.image_hw)
        except InvalidQueryError as error:
            return SegmentationResult.from_error(error, query, frame)
        labels = (query.thing_classes + query.stuff_classes) or (query.text,)
        found = [
            (index, label, mask)
            for index, label in enumerate(labels)
            for mask in self._masks_by_label.get(_bare(label), ())
            if mask.shape == frame.image_hw
        ]
        if query.prompts:
            found = [
                (0, label, mask)
                for label, masks in self._masks_by_label.items()
                for mask in masks
                if mask.shape == frame.image_hw and _touches(mask, query)
            ]
        found = found[: query.max_instances]
        return SegmentationResult(
            status=Status.FOUND if found else Status.NOT_FOUND,
            message="" if found else f"nothing matches {', '.join(map(repr, labels))}",
            query=query,
            segments=Segments(
                image_hw=frame.image_hw,
                masks=tuple(MaskRle.encode(mask) for _, _, mask in found),
                labels=tuple(label for _, label, _ in found),
                label_indices=np.array([index for index, _, _ in found], np.int32),
                scores=np.full(len(found), 0.9, np.float32),
                boxes_xyxy=np.array([box_of_mask(mask) for _, _, mask in found], np.float32).reshape(-1, 4),
            ),
            model_id="fake",
            camera=frame.camera,
            frame_id=frame.frame_id,
            stamp_ns=frame.stamp_ns,
            timing=Timing(stages_s={"inference": self._delay_s}),
        )


def _bare(label: str) -> str:
    words = label.lower().split()
    return " ".join(words[1:] if words[:1] in (["the"], ["a"], ["an"]) else words)


def _touches(mask: BoolMask, query: Query) -> bool:
    for prompt in query.prompts:
        if not prompt.positive:
            continue
        if prompt.points_xy is not None:
            columns, rows = prompt.points_xy.astype(int).T
            if mask[rows, columns].any():
                return True
        elif prompt.box_xyxy is not None:
            x_min, y_min, x_max, y_max = (max(0, round(v)) for v in prompt.box_xyxy)
            if mask[y_min:y_max, x_min:x_max].any():
                return True
        elif prompt.mask is not None and (mask & prompt.mask).any():
            return True
    return False
