"""One stream: segments the newest frame of a camera again and again, while no request needs the model."""

from __future__ import annotations

import math
import statistics
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from xsam.errors import NoFrameError, NotActiveError, XSamError
from xsam.spatial.tracking import InstanceTracker
from xsam.types.deadline import Deadline, StageHook
from xsam.types.requests import SegmentationResult
from xsam.worker import Job
from xsam_ros.cameras.camera import CameraBuffer, CameraFrame
from xsam_ros.node.memory import StreamSessions
from xsam_ros.node.metrics import StreamStatistics
from xsam_ros.node.requests import FrameResults, NodeContext
from xsam_ros.node.stream_query import StreamQuery, shortened

_POLL_S = 0.1
_WINDOW = 30
"""Number of frames that rate and latency are computed from."""
_RETRY_S = 0.05
_DEPTH_WAIT_S = 0.01
_STOP_S = 1.0
_SILENT_S = 2.0
"""A camera without frames for so long is a reason to name."""

_MAX_TRACK_ID = 2**31
_MAX_ERROR_CHARS = 1000


class TrackIds:
    """Track ids that are unique among all queries of a stream; each query has its own tracker."""

    def __init__(self, queries: int, *, max_lost_s: float, after: int = 0) -> None:
        """Start without tracks.

        Args:
            queries: number of queries.
            max_lost_s: how long an object may be out of sight and keep its id.
            after: all ids are larger than this.
        """
        first = after // queries + 1
        self._trackers = [InstanceTracker(max_lost_s=max_lost_s, first_id=first) for _ in range(queries)]

    @property
    def largest(self) -> int:
        """Upper bound of all ids so far."""
        return max(tracker.next_id for tracker in self._trackers) * len(self._trackers)

    def add_to(self, index: int, result: SegmentationResult) -> SegmentationResult:
        """Return the result of the query at `index` with track ids."""
        own = self._trackers[index].update(
            result.segments, stamp_s=result.stamp_ns * 1e-9, keyframe_ns=result.keyframe_ns
        )
        ids = np.where(own > 0, (own.astype(np.int64) - 1) * len(self._trackers) + index + 1, 0)
        return replace(result, segments=replace(result.segments, track_ids=ids.astype(np.uint32)))


class Lease:
    """The time that the owner of a stream has left; it is counted by the node, which may stand still."""

    def __init__(self, lease_s: float = 0.0) -> None:
        """Begin a lease of some seconds; 0 = without end."""
        self.lease_s = lease_s
        self.left_s = lease_s

    @property
    def is_over(self) -> bool:
        return self.lease_s > 0.0 and self.left_s <= 0.0

    def renew(self) -> None:
        """Begin again."""
        self.left_s = self.lease_s

    def elapse(self, seconds: float) -> None:
        """Count down."""
        self.left_s = max(0.0, self.left_s - seconds)


class CameraStream:
    """The stream of one camera, with a thread of its own that waits for frames and results."""

    def __init__(
        self,
        buffer: CameraBuffer,
        query: StreamQuery,
        context: NodeContext,
        *,
        stream_id: str,
        owner: str,
        lease: Lease,
        gives_way: bool = False,
        first_track_id: int = 1,
        sessions: StreamSessions | None = None,
        log_error: Callable[[str], None],
    ) -> None:
        self.query = query
        self.stream_id = stream_id
        self.owner = owner
        self.lease = lease
        self.gives_way = gives_way
        self._buffer = buffer
        self._context = context
        self._log_error = log_error
        self._tracks = TrackIds(
            len(query), max_lost_s=context.parameters().track_lost_s, after=first_track_id - 1
        )
        self._sessions = sessions if sessions is not None else StreamSessions()
        self._finished_s: deque[float] = deque(maxlen=_WINDOW)  # on the monotonic clock
        self._latencies_s: deque[float] = deque(maxlen=_WINDOW)
        self._stopping = threading.Event()
        self._answers = self._dropped = self._refused = self._keyframes = 0
        self._last_error = ""
        self._sequence = 0
        self._started_s = self._arrived_s = time.monotonic()
        self._job: Job[FrameResults | None] | None = None  # the one that has not ended
        self._thread = threading.Thread(target=self._run, name=f"xsam_stream_{buffer.name}", daemon=True)
        self._thread.start()

    @property
    def next_track_id(self) -> int:
        """Lowest id that is larger than all track ids of this stream; 1 after an overflow."""
        return self._tracks.largest + 1 if self._tracks.largest < _MAX_TRACK_ID else 1

    def stop(self) -> None:
        """Start no more frames. The model stops at its next stage; this does not wait for it."""
        self._stopping.set()
        job = self._job
        if job is not None:
            self._context.worker.cancel(job, NotActiveError("the stream was stopped"))
        self._sessions.close()
        self._thread.join(_STOP_S)

    def statistics(self) -> StreamStatistics:
        """Return the current statistics."""
        latencies_s = list(self._latencies_s)
        return StreamStatistics(
            running=self._thread.is_alive() and not self._stopping.is_set(),
            queries=self.query.descriptions,
            requested_hz=self.query.rate_hz,
            rate_hz=_rate_hz(list(self._finished_s)),
            latency_s=statistics.median(latencies_s) if latencies_s else math.nan,
            answers=self._answers,
            dropped=self._dropped,
            refused=self._refused,
            last_error=shortened(self._last_error or self._no_frame_reason(), _MAX_ERROR_CHARS),
            stream_id=self.stream_id,
            owner=self.owner,
            age_s=time.monotonic() - self._started_s,
            lease_s=self.lease.lease_s,
            lease_left_s=self.lease.left_s,
            memory=self._sessions.statistics(),
            propagate=self.query.propagate,
            keyframes=self._keyframes,
        )

    def _no_frame_reason(self) -> str:
        """Return why there is nothing to segment, "" if frames come."""
        newest = self._buffer.image.newest()
        silent_s = time.monotonic() - (self._started_s if newest is None else newest.monotonic_s)
        if silent_s < _SILENT_S:
            return ""
        return f"{NoFrameError.code}: no frame on {self._buffer.image.topic} for {silent_s:.1f} s"

    def _run(self) -> None:
        try:
            self._segment_frames()
        except Exception as error:  # the thread ends; status and log must say so
            self._last_error = f"the stream has ended: {type(error).__name__}: {error}"
            self._log_error(f"stream of camera {self._buffer.name}:\n{traceback.format_exc()}")

    def _segment_frames(self) -> None:
        period_s = 1.0 / self.query.rate_hz if self.query.rate_hz > 0.0 else 0.0
        due_s = time.monotonic()
        while not self._stopping.wait(max(0.0, due_s - time.monotonic())):
            if not self._buffer.wait_newer(self._sequence, timeout_s=_POLL_S):
                continue
            due_s = max(due_s + period_s, time.monotonic())  # a slow frame is not made up for
            try:
                self._segment_frame()
            except XSamError as error:
                if self._stopping.is_set():
                    return  # it was stopped; that is not a failure
                self._note_error(error)
                due_s = max(due_s, time.monotonic() + _RETRY_S)
            except Exception as error:  # one bad frame must not end the stream; it is reported
                self._log_error(f"stream of camera {self._buffer.name}: {type(error).__name__}: {error}")
                self._last_error = str(error)
                due_s = max(due_s, time.monotonic() + _RETRY_S)

    def _segment_frame(self) -> None:
        """Submit one frame, and wait until it is segmented or refused."""
        ended = threading.Event()
        outcomes: list[FrameResults | XSamError | None] = []
        context, parameters = self._context, self._context.parameters()
        deadline = Deadline(parameters.default_timeout_s)
        submitted_s = time.monotonic()

        def work(on_stage: StageHook) -> FrameResults | None:
            on_stage("image")
            started_s = time.monotonic()
            source = self._next_frame(started_s)
            if source is None:
                return None
            return context.handler.segment(
                source,
                self.query.parsed(source.frame.image_hw),
                deadline=deadline,
                on_stage=on_stage,
                before_s={"queue": started_s - submitted_s, "image": time.monotonic() - started_s},
                refine=self._tracks.add_to,
                stream_id=self.stream_id,
                keep_frame=False,
                sessions=self._sessions,
            )

        def on_done(outcome: FrameResults | XSamError | None) -> None:
            outcomes.append(outcome)
            ended.set()

        job = self._job = context.worker.submit(
            work, on_done, deadline=deadline, on_success=self._publish, background=True
        )
        if self._stopping.is_set():  # `stop` may have read `_job` before it was set
            context.worker.cancel(job, NotActiveError("the stream was stopped"))
        ended.wait(deadline.remaining_s + 1.0)  # the worker ends every job at its deadline
        self._job = None  # it holds an image and its results, and the next frame may be long in coming
        outcome = outcomes[0] if outcomes else deadline.error(job.stage)
        if isinstance(outcome, XSamError):
            raise outcome
        if outcome is None:
            self._stopping.wait(_DEPTH_WAIT_S)
            return
        self._keyframes += 1
        self._count(outcome)

    def _count(self, outcome: FrameResults) -> None:
        """Count a frame that has results."""
        self._answers += 1
        self._last_error = ""
        self._finished_s.append(time.monotonic())
        self._latencies_s.append(time.monotonic() - self._arrived_s)
        self._context.statistics.add_times(outcome.stages_s)

    def _next_frame(self, started_s: float) -> CameraFrame | None:
        """Decode the newest image; None if a newer one has no depth yet, for which it is worth to wait."""
        parameters = self._context.parameters()
        source = self._buffer.newest_frame(
            max_age_s=parameters.max_frame_age_s, max_side_px=parameters.max_image_side_px
        )
        if source.sequence <= self._sequence:
            return None
        if self._sequence:
            self._dropped += max(0, source.sequence - self._sequence - 1)
        self._sequence = source.sequence
        self._arrived_s = self._arrival_s(source.sequence, started_s)
        return source

    def _arrival_s(self, sequence: int, default_s: float) -> float:
        """Return when an image arrived, on the monotonic clock."""
        arrivals_s = (item.monotonic_s for item in self._buffer.image.recent() if item.sequence == sequence)
        return next(arrivals_s, default_s)

    def _publish(self, frame_results: FrameResults | None) -> None:
        publishers = self._context.publishers.get(self._buffer.name)
        if frame_results is None or publishers is None:
            return
        segments = [result.segments for result in frame_results.results]
        publishers.publish(frame_results.source.frame, frame_results.messages, segments)

    def _note_error(self, error: XSamError) -> None:
        """Count a refused frame; log its error unless the last one had the same code."""
        self._refused += 1
        if error.code != self._last_error.partition(":")[0]:
            self._log_error(f"stream of camera {self._buffer.name}: {error.code}: {error.message}")
        self._last_error = f"{error.code}: {error.message}"


def _rate_hz(times_s: Sequence[float]) -> float:
    """Return the mean rate of the given times, falling once they stop; NaN for fewer than two."""
    if len(times_s) < 2:
        return math.nan
    usual_s = (times_s[-1] - times_s[0]) / (len(times_s) - 1)
    since_s = time.monotonic() - times_s[-1]
    return 1.0 / max(since_s if since_s > 2 * usual_s else usual_s, 1e-9)
