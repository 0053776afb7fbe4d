"""Continuous segmentation: the newest frame of a camera, again and again, when no request wants the model."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from xsam.errors import InvalidQueryError, NotActiveError, XSamError
from xsam.spatial.tracking import InstanceTracker
from xsam.types.requests import SegmentationResult
from xsam_ros.cameras.camera import CameraBuffer
from xsam_ros.messages.queries import query_from_message
from xsam_ros.msg import SegmentQuery
from xsam_ros.node.metrics import StreamStatistics
from xsam_ros.node.requests import Answer, Serving
from xsam_ros.node.worker import Job, StageHook

_POLL_S = 0.1
_KEPT = 30
"""Answers that rate and latency are taken from."""
_RETRY_S = 0.05
_DEPTH_WAIT_S = 0.01
_STOP_S = 1.0
_MAX_TRACK_ID = 2**31


class TrackIds:
    """Ids that are unique among all queries of a stream, one tracker a query."""

    def __init__(self, queries: int, *, max_lost_s: float, after: int = 0) -> None:
        """Start without tracks.

        Args:
            queries: how many.
            max_lost_s: how long an object may be out of sight and keep its id.
            after: ids are larger than this.
        """
        first = after // queries + 1
        self._trackers = [InstanceTracker(max_lost_s=max_lost_s, first_id=first) for _ in range(queries)]

    @property
    def largest(self) -> int:
        """No id up to now is larger."""
        return max(tracker.next_id for tracker in self._trackers) * len(self._trackers)

    def add_to(self, number: int, result: SegmentationResult) -> SegmentationResult:
        """The answer to query `number` with track ids."""
        own = self._trackers[number].update(result.segments, stamp_s=result.stamp_ns * 1e-9)
        ids = np.where(own > 0, (own.astype(np.int64) - 1) * len(self._trackers) + number + 1, 0)
        return replace(result, segments=replace(result.segments, track_ids=ids.astype(np.uint32)))


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamQuery:
    """What a stream asks."""

    queries: Sequence[SegmentQuery]
    rate_hz: float  # at most; 0 = as many as the model can

    @classmethod
    def checked(cls, queries: Sequence[SegmentQuery], rate_hz: float) -> StreamQuery:
        """From a request.

        Raises:
            InvalidQueryError: a query cannot be asked of any image, or the rate is no rate.
        """
        if not math.isfinite(rate_hz) or rate_hz < 0.0:
            raise InvalidQueryError(f"rate_hz must be 0 (no limit) or positive, got {rate_hz}")
        for query in queries:
            query_from_message(query).validate()
        return cls(queries=tuple(queries), rate_hz=float(rate_hz))

    @property
    def words(self) -> tuple[str, ...]:
        """What is asked, for people."""
        return tuple(
            query.text
            or ", ".join([*query.thing_classes, *query.stuff_classes])
            or f"{len(query.prompts)} prompts"
            for query in self.queries
        )


class CameraStream:
    """The stream of one camera, with a thread of its own that waits for frames and answers."""

    def __init__(
        self,
        buffer: CameraBuffer,
        asked: StreamQuery,
        serving: Serving,
        *,
        first_track_id: int = 1,
        log_error: Callable[[str], None],
    ) -> None:
        self.asked = asked
        self._buffer = buffer
        self._serving = serving
        self._log_error = log_error
        self._tracks = TrackIds(
            len(asked.queries), max_lost_s=serving.parameters().track_lost_s, after=first_track_id - 1
        )
        self._answered_s: deque[float] = deque(maxlen=_KEPT)  # when
        self._latency_s: deque[float] = deque(maxlen=_KEPT)
        self._stopping = threading.Event()
        self._answers = self._dropped = self._refused = 0
        self._last_error = ""
        self._sequence = 0
        self._arrived_s = 0.0
        self._job: Job[Answer | None] | None = None  # the one that has not ended
        self._thread = threading.Thread(target=self._run, name=f"xsam_stream_{buffer.name}", daemon=True)
        self._thread.start()

    @property
    def next_track_id(self) -> int:
        """No track of this stream has this id or a larger one."""
        return self._tracks.largest + 1 if self._tracks.largest < _MAX_TRACK_ID else 1

    def stop(self) -> None:
        """Ask nothing any more. The model ends a running answer at its next stage; that is not waited for."""
        self._stopping.set()
        job = self._job
        if job is not None:
            self._serving.worker.cancel(job, NotActiveError("the stream was stopped"))
        self._thread.join(_STOP_S)

    def statistics(self) -> StreamStatistics:
        """How it is doing."""
        return StreamStatistics(
            running=not self._stopping.is_set(),
            queries=self.asked.words,
            requested_hz=self.asked.rate_hz,
            rate_hz=_rate_hz(list(self._answered_s)),
            latency_s=statistics.median(latency_s) if (latency_s := list(self._latency_s)) else math.nan,
            answers=self._answers,
            dropped=self._dropped,
            refused=self._refused,
            last_error=self._last_error,
        )

    def _run(self) -> None:
        period_s = 1.0 / self.asked.rate_hz if self.asked.rate_hz > 0.0 else 0.0
        due_s = time.monotonic()
        while not self._stopping.wait(max(0.0, due_s - time.monotonic())):
            if not self._buffer.wait_newer(self._sequence, timeout_s=_POLL_S):
                continue
            due_s = max(due_s + period_s, time.monotonic())  # a slow answer is not made up for
            try:
                self._ask()
            except XSamError as error:
                if self._stopping.is_set():
                    return  # it was told to stop; that is no failure
                self._note(error)
                due_s = max(due_s, time.monotonic() + _RETRY_S)
            except Exception as error:  # one bad frame must not end the stream; it is reported
                self._log_error(f"stream of camera {self._buffer.name}: {type(error).__name__}: {error}")
                self._last_error = str(error)
                due_s = max(due_s, time.monotonic() + _RETRY_S)

    def _ask(self) -> None:
        """Answer one frame, and wait until it is answered or refused."""
        ended = threading.Event()
        outcomes: list[Answer | XSamError | None] = []
        parameters = self._serving.parameters()
        deadline_s = parameters.default_timeout_s
        submitted_s = time.monotonic()

        def work(on_stage: StageHook) -> Answer | None:
            on_stage("image")
            started_s = time.monotonic()
            source = self._buffer.newest_frame(
                max_age_s=parameters.max_frame_age_s, max_side_px=parameters.max_image_side_px
            )
            if source.sequence <= self._sequence:
                return None  # the newer image has no depth yet: it is worth the wait
            if self._sequence:
                self._dropped += max(0, source.sequence - self._sequence - 1)
            self._sequence = source.sequence
            self._arrived_s = self._arrival_s(source.sequence, started_s)
            return self._serving.answerer.answer(
                source,
                self.asked.queries,
                remaining_s=submitted_s + deadline_s - time.monotonic(),
                on_stage=on_stage,
                before_s={"queue": started_s - submitted_s, "image": time.monotonic() - started_s},
                refine=self._tracks.add_to,
            )

        def on_done(outcome: Answer | XSamError | None) -> None:
            outcomes.append(outcome)
            ended.set()

        job = self._job = self._serving.worker.submit(
            work, on_done, deadline_s=deadline_s, afterwards=self._publish, background=True
        )
        if self._stopping.is_set():  # `stop` may have looked before the job was there
            self._serving.worker.cancel(job, NotActiveError("the stream was stopped"))
        ended.wait(deadline_s + 1.0)  # the worker ends every job at its deadline
        self._job = None  # it holds an image and its answer; the next one may be long in coming
        outcome = outcomes[0] if outcomes else job.deadline_error()
        if isinstance(outcome, XSamError):
            raise outcome
        if outcome is None:
            self._stopping.wait(_DEPTH_WAIT_S)
            return
        self._answers += 1
        self._last_error = ""
        self._answered_s.append(time.monotonic())
        self._latency_s.append(time.monotonic() - self._arrived_s)
        self._serving.statistics.add_times(outcome.stages_s)

    def _arrival_s(self, sequence: int, default_s: float) -> float:
        """When an image arrived, on the monotonic clock."""
        arrived_s = (item.monotonic_s for item in self._buffer.image.recent() if item.sequence == sequence)
        return next(arrived_s, default_s)

    def _publish(self, answer: Answer | None) -> None:
        publishers = self._serving.publishers.get(self._buffer.name)
        if answer is None or publishers is None:
            return
        segments = [result.segments for result in answer.results]
        publishers.publish(answer.source.frame, answer.messages, segments)

    def _note(self, error: XSamError) -> None:
        self._refused += 1
        if error.code != self._last_error.partition(":")[0]:
            self._log_error(f"stream of camera {self._buffer.name}: {error.code}: {error.message}")
        self._last_error = f"{error.code}: {error.message}"


class Streams:
    """The streams of all cameras, one each at most."""

    def __init__(self, serving: Serving, *, log_error: Callable[[str], None]) -> None:
        self._serving = serving
        self._log_error = log_error
        self._lock = threading.Lock()
        self._streams: dict[str, CameraStream] = {}
        self._first_track_id: dict[str, int] = {}

    def start(self, camera: str, asked: StreamQuery) -> bool:
        """Start or change the stream of a camera.

        Returns:
            Whether one was running.

        Raises:
            UnknownCameraError: no such camera.
            InvalidQueryError: the queries cannot be asked; a running stream is left as it is.
        """
        buffer = self._serving.answerer.camera(camera)
        self._serving.answerer.check_queries(asked.queries)
        with self._lock:
            before = self._stop(camera)
            self._streams[camera] = CameraStream(
                buffer,
                asked,
                self._serving,
                first_track_id=self._first_track_id.get(camera, 1),
                log_error=self._log_error,
            )
        return before

    def stop(self, camera: str) -> bool:
        """Stop the stream of a camera; says whether one was running.

        Raises:
            UnknownCameraError: no such camera.
        """
        self._serving.answerer.camera(camera)
        with self._lock:
            return self._stop(camera)

    def stop_all(self) -> None:
        """Stop every stream."""
        with self._lock:
            for camera in list(self._streams):
                self._stop(camera)

    def statistics(self) -> dict[str, StreamStatistics]:
        """How the running streams are doing, by camera."""
        return {camera: stream.statistics() for camera, stream in list(self._streams.items())}

    def _stop(self, camera: str) -> bool:
        stream = self._streams.pop(camera, None)
        if stream is None:
            return False
        stream.stop()
        self._first_track_id[camera] = stream.next_track_id
        return True


def _rate_hz(times_s: Sequence[float]) -> float:
    """Of the last occurrences, falling when they stop; NaN with fewer than two."""
    if len(times_s) < 2:
        return math.nan
    usual_s = (times_s[-1] - times_s[0]) / (len(times_s) - 1)
    since_s = time.monotonic() - times_s[-1]
    return 1.0 / max(since_s if since_s > 2 * usual_s else usual_s, 1e-9)
