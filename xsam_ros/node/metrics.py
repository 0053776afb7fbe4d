"""What the node has done so far, as numbers: for `~/get_status` and for `/diagnostics`."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from xsam.errors import REFUSAL_CODES

_KEPT = 512
"""Times kept for each stage: enough for a 99th percentile, and little memory however long the node runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStatistics:
    """The queue in front of the model."""

    waiting: int = 0  # requests
    size: int = 0  # how many may wait
    busy: bool = False  # the model is running


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStatistics:
    """Continuous segmentation of one camera."""

    running: bool = False
    queries: tuple[str, ...] = ()  # in words
    requested_hz: float = 0.0  # 0 = as many as the model can
    rate_hz: float = float("nan")  # of the last answers, falling when they stop; NaN with fewer than two
    latency_s: float = float("nan")  # arrival of a frame to its answer, median of the last ones; NaN without
    answers: int = 0
    dropped: int = 0  # frames that were passed over for newer ones
    refused: int = 0  # attempts that gave no answer
    last_error: str = ""  # of the last attempt; "" = it was answered


@dataclass(frozen=True, slots=True, kw_only=True)
class StatisticsSnapshot:
    """The numbers at one moment."""

    answered: int  # requests of the service and the action
    refused: int  # requests that were refused as a whole
    failed: int  # requests that failed as a whole
    by_code: Mapping[str, int]  # the refused and failed ones, for example {"QUEUE_FULL": 2}
    stages_s: Mapping[str, tuple[float, ...]]  # last times of each stage, oldest first; "total" is all of it
    queue: QueueStatistics = field(default_factory=QueueStatistics)
    streams: Mapping[str, StreamStatistics] = field(default_factory=dict)  # by camera


class NodeStatistics:
    """Counts requests and times answers, from the start of the node on. Thread-safe."""

    def __init__(
        self,
        *,
        queue: Callable[[], QueueStatistics] = QueueStatistics,
        streams: Callable[[], Mapping[str, StreamStatistics]] = dict,
    ) -> None:
        """Start at zero; `queue` and `streams` are asked for each snapshot."""
        self._queue = queue
        self._streams = streams
        self._lock = threading.Lock()
        self._answered = 0
        self._codes: Counter[str] = Counter()
        self._stages_s: dict[str, deque[float]] = {}

    def count_request(self, code: str) -> None:
        """A request of the service or the action has ended; "" = it was answered."""
        with self._lock:
            if code:
                self._codes[code] += 1
            else:
                self._answered += 1

    def add_times(self, stages_s: Mapping[str, float]) -> None:
        """A request or a frame of a stream was answered, and that took so many seconds by stage."""
        with self._lock:
            for stage, seconds in {**stages_s, "total": sum(stages_s.values())}.items():
                self._stages_s.setdefault(stage, deque(maxlen=_KEPT)).append(seconds)

    def snapshot(self) -> StatisticsSnapshot:
        """All numbers now."""
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
