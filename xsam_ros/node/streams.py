"""Continuous segmentation of the newest frame of a camera, while no request needs the model."""

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

from xsam.errors import NotActiveError, XSamError
from xsam.spatial.tracking import InstanceTracker
from xsam.types.deadline import Deadline, StageHook
from xsam.types.requests import SegmentationResult
from xsam_ros.cameras.camera import CameraBuffer
from xsam_ros.node.metrics import StreamStatistics
from xsam_ros.node.requests import FrameResults, NodeContext
from xsam_ros.node.stream_query import StreamQuery, shortened
from xsam_ros.node.worker import Job

_POLL_S = 0.1
_WINDOW = 30
"""Number of frames that rate and latency are computed from."""
_RETRY_S = 0.05
_DEPTH_WAIT_S = 0.01
_STOP_S = 1.0
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
        own = self._trackers[index].update(result.segments, stamp_s=result.stamp_ns * 1e-9)
        ids = np.where(own > 0, (own.astype(np.int64) - 1) * len(self._trackers) + index + 1, 0)
        return replace(result, segments=replace(result.segments, track_ids=ids.astype(np.uint32)))


class CameraStream:
    """The stream of one camera, with a thread of its own that waits for frames and results."""

    def __init__(
        self,
        buffer: CameraBuffer,
        query: StreamQuery,
        context: NodeContext,
        *,
        first_track_id: int = 1,
        log_error: Callable[[str], None],
    ) -> None:
        self.query = query
        self._buffer = buffer
        self._context = context
        self._log_error = log_error
        self._tracks = TrackIds(
            len(query), max_lost_s=context.parameters().track_lost_s, after=first_track_id - 1
        )
        self._finished_s: deque[float] = deque(maxlen=_WINDOW)  # on the monotonic clock
        self._latencies_s: deque[float] = deque(maxlen=_WINDOW)
        self._stopping = threading.Event()
        self._answers = self._dropped = self._refused = 0
        self._last_error = ""
        self._sequence = 0
        self._arrived_s = 0.0
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
            last_error=shortened(self._last_error, _MAX_ERROR_CHARS),
        )

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
            source = self._buffer.newest_frame(
                max_age_s=parameters.max_frame_age_s, max_side_px=parameters.max_image_side_px
            )
            if source.sequence <= self._sequence:
                return None  # the newer image has no depth yet, which is worth the wait
            if self._sequence:
                self._dropped += max(0, source.sequence - self._sequence - 1)
            self._sequence = source.sequence
            self._arrived_s = self._arrival_s(source.sequence, started_s)
            return context.handler.segment(
                source,
                self.query.parsed(source.frame.image_hw),
                deadline=deadline,
                on_stage=on_stage,
                before_s={"queue": started_s - submitted_s, "image": time.monotonic() - started_s},
                refine=self._tracks.add_to,
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
        self._answers += 1
        self._last_error = ""
        self._finished_s.append(time.monotonic())
        self._latencies_s.append(time.monotonic() - self._arrived_s)
        context.statistics.add_times(outcome.stages_s)

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


class Streams:
    """The streams of all cameras, at most one per camera."""

    def __init__(self, context: NodeContext, *, log_error: Callable[[str], None]) -> None:
        self._context = context
        self._log_error = log_error
        self._lock = threading.Lock()
        self._streams: dict[str, CameraStream] = {}
        self._first_track_id: dict[str, int] = {}

    def start(self, camera: str, query: StreamQuery) -> bool:
        """Start or change the stream of a camera.

        Returns:
            True if one was running before.

        Raises:
            UnknownCameraError: there is no such camera.
            InvalidQueryError: too many queries; a running stream is left as it is.
        """
        buffer = self._context.handler.camera(camera)
        self._context.handler.check_query_count(len(query))
        with self._lock:
            was_running = self._stop(camera)
            self._streams[camera] = CameraStream(
                buffer,
                query,
                self._context,
                first_track_id=self._first_track_id.get(camera, 1),
                log_error=self._log_error,
            )
        return was_running

    def stop(self, camera: str) -> bool:
        """Stop the stream of a camera; return whether one was running.

        Raises:
            UnknownCameraError: there is no such camera.
        """
        self._context.handler.camera(camera)
        with self._lock:
            return self._stop(camera)

    def stop_all(self) -> None:
        """Stop every stream."""
        with self._lock:
            for camera in list(self._streams):
                self._stop(camera)

    def statistics(self) -> dict[str, StreamStatistics]:
        """Return the statistics of the running streams, by camera."""
        return {camera: stream.statistics() for camera, stream in list(self._streams.items())}

    def _stop(self, camera: str) -> bool:
        stream = self._streams.pop(camera, None)
        if stream is None:
            return False
        stream.stop()
        self._first_track_id[camera] = stream.next_track_id
        return True


def _rate_hz(times_s: Sequence[float]) -> float:
    """Return the mean rate of the given times, falling once they stop; NaN for fewer than two."""
    if len(times_s) < 2:
        return math.nan
    usual_s = (times_s[-1] - times_s[0]) / (len(times_s) - 1)
    since_s = time.monotonic() - times_s[-1]
    return 1.0 / max(since_s if since_s > 2 * usual_s else usual_s, 1e-9)
