"""A `Session` that asks the model about keyframes only."""

from __future__ import annotations

import copy
import time

from xsam.segmenter import Engine, Session, check_video_query, video_engine
from xsam.types.deadline import StageHook
from xsam.types.requests import Frame, Query, SegmentationResult, Segments, Status
from xsam.video.motion import CameraMotion
from xsam.video.propagation import Propagation, PropagationOptions

NO_LIMIT_S = 1e9


def open_propagation(
    engine: Engine,
    query: Query,
    options: PropagationOptions | None = None,
    *,
    motion: CameraMotion | None = None,
    refresh_every: int = 30,
    late_s: float = 1.0,
) -> PropagatingSession:
    """Follow what a query names through the frames of one video, with a model that sees few of them.

    Args:
        engine: segments the keyframes; if its model has a memory of earlier frames, with that.
        query: what to segment; visual prompts belong to the first frame.
        options: when the model is asked.
        motion: shared by the sessions about one video; None = this is the only one.
        refresh_every: see `VideoEngine.open_session`.
        late_s: see there.

    Raises:
        InvalidQueryError: the query is invalid, or its answer would be generated text.
    """
    query.validate()
    check_video_query(query)
    video = video_engine(engine)
    inner = None if video is None else video.open_session(query, refresh_every=refresh_every, late_s=late_s)
    return PropagatingSession(engine, query, options, motion=motion, inner=inner)


class PropagatingSession:
    """One query on the frames of one video: the model segments keyframes, their masks are carried in between.

    What visual prompts point at is in the first frame. A model without memory is asked about later keyframes
    with the masks that the objects have there by then.
    """

    def __init__(
        self,
        engine: Engine,
        query: Query,
        options: PropagationOptions | None = None,
        *,
        motion: CameraMotion | None = None,
        inner: Session | None = None,
    ) -> None:
        self._engine = engine
        self._motion = motion or CameraMotion()
        self._inner = inner
        self._propagation = Propagation(query, options)
        self._steps = 0

    @property
    def query(self) -> Query:
        return self._propagation.query

    @property
    def frame_count(self) -> int:
        """Number of frames since the beginning of the video."""
        return self._steps

    @property
    def nbytes(self) -> int:
        """Memory of the last keyframe and of the model's session, bytes."""
        return self._propagation.nbytes + (0 if self._inner is None else self._inner.nbytes)

    def step(
        self, source: Frame, *, deadline_s: float | None = None, on_stage: StageHook | None = None
    ) -> SegmentationResult:
        """See `Session.step`; `SegmentationResult.carried` says whether the frame is a keyframe."""
        started_s = time.perf_counter()
        motion = self._motion.advance(source)
        self._propagation.advance(source, self._motion.gray, motion)
        if self._propagation.due:
            result = self._segment(source, deadline_s, on_stage)
            self._propagation.hold()
            self._propagation.correct(result)
        else:
            carried = self._propagation.result()
            assert carried is not None
            result = carried.with_timing({"propagate": time.perf_counter() - started_s})
        self._steps += 1
        return result

    def _segment(
        self, frame: Frame, deadline_s: float | None, on_stage: StageHook | None
    ) -> SegmentationResult:
        if self._inner is not None:
            return self._inner.step(frame, deadline_s=deadline_s, on_stage=on_stage)
        asked = self._propagation.keyframe_query()
        if asked is None:
            return out_of_view(self.query, frame)
        limit_s = NO_LIMIT_S if deadline_s is None else deadline_s
        answer = self._engine.segment(
            frame, [asked], deadline_s=limit_s, on_stage=on_stage, keep_frame=False
        )[0]
        return self._propagation.as_asked(answer)

    def fork(self) -> PropagatingSession:
        """See `Session.fork`."""
        other = copy.copy(self)
        other._motion = self._motion.fork()
        other._propagation = copy.copy(self._propagation)  # what it holds never changes, it is replaced
        other._inner = None if self._inner is None else self._inner.fork()
        return other

    def refresh(self) -> None:
        """Make the next frame a keyframe, in which the model reads the query again."""
        self._propagation.want()
        if self._inner is not None:
            self._inner.refresh()

    def reset(self) -> None:
        """Forget the video."""
        self._steps = 0
        self._propagation.reset()
        if self._inner is not None:
            self._inner.reset()


def out_of_view(query: Query, frame: Frame) -> SegmentationResult:
    """Return the result for a frame in which nothing of what was pointed at is in view any more."""
    return SegmentationResult(
        status=Status.NOT_FOUND,
        query=query,
        segments=Segments(image_hw=frame.image_hw),
        message="what was pointed at has gone out of view",
        hint="point at it again",
        camera=frame.camera,
        frame_id=frame.frame_id,
        stamp_ns=frame.stamp_ns,
    )
