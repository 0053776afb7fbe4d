"""A stream at the rate of its camera: the model segments keyframes, their masks are carried along in between.

A keyframe is asked about in the background, one at a time, while frames go on: its masks are carried from its
frame to the newest one when they come. Everything else happens in the stream's own thread.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xsam.errors import NotActiveError, XSamError
from xsam.segmenter import Session
from xsam.types.deadline import Deadline, StageHook
from xsam.types.requests import Query, SegmentationResult
from xsam.video.motion import CameraMotion
from xsam.video.propagation import Propagation, PropagationOptions
from xsam.video.session import out_of_view
from xsam.worker import Job
from xsam_ros.cameras.camera import CameraFrame
from xsam_ros.node.camera_stream import CameraStream
from xsam_ros.node.memory import StreamSessions
from xsam_ros.node.requests import ParsedQuery

_PATIENCE = 0.5
"""Share of the time between two frames that a keyframe is waited for, so that the masks of a fast model are
those of the frame itself."""

_MOST_PATIENCE_S = 0.1
_AFTER_ERROR_S = 0.5

Answers = Mapping[int, SegmentationResult]


@dataclass(slots=True, kw_only=True, eq=False)
class _Keyframe:
    """A frame that the model has been asked about."""

    deadline: Deadline
    ended: threading.Event
    job: Job[Answers] | None = None
    outcome: Answers | XSamError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _KeyframeSessions:
    """Gives the engine sessions, and in the place of queries without one what `Propagation` asks."""

    sessions: StreamSessions
    asked: Mapping[int, Query]  # by index of the query in the stream
    indices: Sequence[int]  # of those that are asked

    def of(self, index: int, query: Query) -> Query | Session:
        index = self.indices[index]
        session = self.sessions.of(index, query)
        return session if session is not query else self.asked.get(index, query)

    def notes(self, index: int) -> tuple[str, ...]:
        return self.sessions.notes(self.indices[index])


class PropagatingStream(CameraStream):
    """The stream of one camera, with results at the camera's rate."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """See `CameraStream`."""
        self._motion = CameraMotion()
        self._propagations: dict[int, Propagation] = {}  # by index of the query
        self._parsed: Sequence[ParsedQuery] = ()
        self._keyframe: _Keyframe | None = None
        self._asks_again_s = -math.inf  # on the monotonic clock
        self._frame_s = -math.inf  # when the last frame was begun
        super().__init__(*arguments, **options)

    def stop(self) -> None:
        """See `CameraStream.stop`."""
        self._stopping.set()
        keyframe = self._keyframe
        if keyframe is not None and keyframe.job is not None:
            self._context.worker.cancel(keyframe.job, NotActiveError("the stream was stopped"))
        super().stop()

    def _segment_frame(self) -> None:
        started_s = time.monotonic()
        source = self._next_frame(started_s)
        if source is None:
            self._stopping.wait(0.01)
            return
        period_s, self._frame_s = started_s - self._frame_s, started_s
        self._follow(source)
        error = self._take_answers()
        if self._keyframe is None and started_s >= self._asks_again_s and self._is_due():
            self._ask(source)
            nothing_yet = any(each.result() is None for each in self._propagations.values())
            self._await_answers(
                _MOST_PATIENCE_S if nothing_yet else min(_PATIENCE * period_s, _MOST_PATIENCE_S),
                though_late=nothing_yet,
            )
            error = self._take_answers() or error
        results = {index: each.result() for index, each in self._propagations.items()}
        if not self._stopping.is_set() and all(result is not None for result in results.values()):
            self._send(source, {i: r for i, r in results.items() if r is not None}, started_s)
        if error is not None:
            raise error

    def _follow(self, source: CameraFrame) -> None:
        """Carry the masks to the next frame."""
        frame = source.frame
        parsed = self.query.parsed(frame.image_hw)
        if parsed is not self._parsed:  # the first frame, or one of another size
            options = PropagationOptions(every=self._context.parameters().keyframe_frames)
            self._parsed = parsed
            self._propagations = {
                index: Propagation(item.query, options)
                for index, item in enumerate(parsed)
                if isinstance(item.query, Query)
            }
        motion = self._motion.advance(frame)
        for propagation in self._propagations.values():
            propagation.advance(frame, self._motion.gray, motion)

    def _is_due(self) -> bool:
        return any(propagation.due for propagation in self._propagations.values())

    def _ask(self, source: CameraFrame) -> None:
        """Ask the model about a frame, in the background."""
        asked: dict[int, Query] = {}
        for index, propagation in self._propagations.items():
            propagation.hold()
            query = propagation.keyframe_query()
            if query is None:
                propagation.correct(out_of_view(propagation.query, source.frame))
            else:
                asked[index] = query
        if not asked:
            return
        context, parsed = self._context, self._parsed
        deadline = Deadline(context.parameters().default_timeout_s)
        keyframe = self._keyframe = _Keyframe(deadline=deadline, ended=threading.Event())
        indices = list(asked)
        sessions = _KeyframeSessions(sessions=self._sessions, asked=asked, indices=indices)

        def work(on_stage: StageHook) -> Answers:
            answers = context.handler.ask(
                source,
                [parsed[index] for index in indices],
                deadline=deadline,
                on_stage=on_stage,
                keep_frame=False,
                sessions=sessions,
            )
            return {indices[place]: answer for place, answer in answers.items()}

        def on_done(outcome: Answers | XSamError) -> None:
            keyframe.outcome = outcome
            keyframe.ended.set()

        try:
            keyframe.job = context.worker.submit(work, on_done, deadline=deadline, background=True)
        except XSamError:
            self._give_up()
            raise
        if self._stopping.is_set():  # `stop` may have read `job` before it was set
            context.worker.cancel(keyframe.job, NotActiveError("the stream was stopped"))

    def _await_answers(self, seconds: float, *, though_late: bool) -> None:
        """Wait a little for the model, but not once a newer frame is there, unless `though_late`."""
        keyframe, until_s = self._keyframe, time.monotonic() + seconds
        while keyframe is not None and not keyframe.ended.is_set():
            left_s = until_s - time.monotonic()
            late = not though_late and self._buffer.wait_newer(self._sequence, timeout_s=0.0)
            if left_s <= 0.0 or late:
                return
            keyframe.ended.wait(min(left_s, 0.005))

    def _take_answers(self) -> XSamError | None:
        """Take over what the model has said meanwhile; return its error."""
        keyframe = self._keyframe
        if keyframe is None:
            return None
        if not keyframe.ended.is_set():
            if keyframe.deadline.remaining_s > 0.0:
                return None
            keyframe.outcome = keyframe.deadline.error("waiting")
        self._keyframe = None
        if isinstance(keyframe.outcome, XSamError):
            self._give_up()
            return keyframe.outcome
        self._keyframes += 1
        for index, answer in (keyframe.outcome or {}).items():
            propagation = self._propagations.get(index)
            if propagation is not None:
                propagation.correct(propagation.as_asked(answer))
        return None

    def _give_up(self) -> None:
        self._keyframe = None
        self._asks_again_s = time.monotonic() + _AFTER_ERROR_S
        for propagation in self._propagations.values():
            propagation.release()

    def _send(self, source: CameraFrame, results: Answers, started_s: float) -> None:
        """Publish the results of a frame."""
        propagate_s = time.monotonic() - started_s
        timed = {
            index: result if result.carried is None else result.with_timing({"propagate": propagate_s})
            for index, result in results.items()
        }
        outcome = self._context.handler.complete(
            source, self._parsed, timed, before_s={}, refine=self._tracks.add_to, stream_id=self.stream_id
        )
        self._publish(outcome)
        self._count(outcome)
