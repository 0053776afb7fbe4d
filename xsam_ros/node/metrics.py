"""Statistics of the node since it started, for `~/get_status` and `/diagnostics`."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from xsam.errors import REFUSAL_CODES
from xsam_ros.messages.streams import StreamEnd
from xsam_ros.node.memory import MemoryStatistics

_WINDOW = 512
"""Number of times kept for each stage: enough for a 99th percentile, and little memory however long the node
runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStatistics:
    """State of the queue in front of the model."""

    waiting: int = 0  # number of requests
    size: int = 0  # number of requests that may wait
    busy: bool = False  # the model is running


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStatistics:
    """Statistics of the stream of one camera."""

    running: bool = False
    queries: tuple[str, ...] = ()  # short descriptions
    requested_hz: float = 0.0  # 0 = as fast as the model can
    rate_hz: float = float("nan")  # of recent frames, falling when they stop; NaN for fewer than two
    latency_s: float = float("nan")  # from arrival of a frame to its results, recent median; NaN for none
    answers: int = 0  # frames with results
    dropped: int = 0  # frames that were skipped for newer ones
    refused: int = 0  # frames that were refused or failed
    last_error: str = ""  # why there are no results now; "" = there are
    stream_id: str = ""
    owner: str = ""
    age_s: float = 0.0  # since its start, or from its start to its end
    lease_s: float = 0.0  # 0 = no lease
    lease_left_s: float = 0.0
    end: StreamEnd = StreamEnd.NONE
    end_message: str = ""  # why it has ended
    memory: MemoryStatistics = field(default_factory=MemoryStatistics)
    propagate: bool = False  # masks are carried from keyframes to the frames after them
    keyframes: int = 0  # frames that the model has segmented


@dataclass(frozen=True, slots=True, kw_only=True)
class StatisticsSnapshot:
    """Statistics of the node at one moment."""

    answered: int  # requests of the service and the action with results
    refused: int  # requests that were refused as a whole
    failed: int  # requests that failed as a whole
    by_code: Mapping[str, int]  # refused and failed requests, for example {"QUEUE_FULL": 2}
    stages_s: Mapping[str, tuple[float, ...]]  # recent seconds of each stage and of "total", oldest first
    queue: QueueStatistics = field(default_factory=QueueStatistics)
    streams: Mapping[str, StreamStatistics] = field(default_factory=dict)  # by camera


class NodeStatistics:
    """Counter of requests and their times since the node started. Thread-safe."""

    def __init__(
        self,
        *,
        queue: Callable[[], QueueStatistics] = QueueStatistics,
        streams: Callable[[], Mapping[str, StreamStatistics]] = dict,
    ) -> None:
        """Start at zero; `queue` and `streams` are called for each snapshot."""
        self._queue = queue
        self._streams = streams
        self._lock = threading.Lock()
        self._answered = 0
        self._codes: Counter[str] = Counter()
        self._stages_s: dict[str, deque[float]] = {}

    def count_request(self, code: str) -> None:
        """Count a request of the service or the action by its error code; "" = it has results."""
        with self._lock:
            if code:
                self._codes[code] += 1
            else:
                self._answered += 1

    def add_times(self, stages_s: Mapping[str, float]) -> None:
        """Add the seconds by stage of a request, or of a frame of a stream, that has results."""
        with self._lock:
            for stage, seconds in {**stages_s, "total": sum(stages_s.values())}.items():
                self._stages_s.setdefault(stage, deque(maxlen=_WINDOW)).append(seconds)

    def snapshot(self) -> StatisticsSnapshot:
        """Return the current statistics."""
        queue, streams = self._queue(), dict(self._streams())
        with self._lock:
            codes = dict(self._codes)
            refused = sum(count for code, count in codes.items() if code in REFUSAL_CODES)
            return StatisticsSnapshot(
                answered=self._answered,
                refused=refused,
                failed=sum(codes.values()) - refused,
                by_code=codes,
                stages_s={stage: tuple(times) for stage, times in self._stages_s.items()},
                queue=queue,
                streams=streams,
            )
