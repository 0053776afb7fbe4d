"""A buffer of the last messages of one topic, still serialized, with statistics for diagnostics."""

from __future__ import annotations

import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

_RATE_MESSAGES = 30
"""How many of the last arrivals the rate is averaged over."""


def peek_stamp_ns(serialized: bytes) -> int | None:
    """Read the stamp of a serialized message that begins with a `std_msgs/Header`; None if there is none.

    The first two bytes name the encoding (DDS-XTypes, 7.6.3.1.2): plain CDR, version 1 or 2, big or little
    endian. Seconds and nanoseconds follow at byte 4. Reading them takes a microsecond; deserializing an
    image would copy it.
    """
    if len(serialized) < 12 or serialized[0] != 0 or serialized[1] not in (0, 1, 6, 7):
        return None
    seconds, nanoseconds = struct.unpack_from("<iI" if serialized[1] & 1 else ">iI", serialized, 4)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instant:
    """A moment by a monotonic clock and by the node's clock."""

    monotonic_s: float  # `time.monotonic()`
    clock_ns: int  # node clock
    simulated: bool = False  # the node clock is simulated time (`use_sim_time`)

    def since(self, earlier: Instant) -> float:
        """Return the seconds since an earlier moment: simulated ones if time is simulated, else real ones.

        Simulated time may run slowly, stand still, and jump back. After a jump back, and before the first
        message on /clock, real seconds are all there is.
        """
        elapsed_s = (self.clock_ns - earlier.clock_ns) * 1e-9
        if self.simulated and earlier.clock_ns and elapsed_s >= 0.0:
            return elapsed_s
        return self.monotonic_s - earlier.monotonic_s


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BufferedMessage:
    """A serialized message and when it arrived."""

    serialized: bytes
    sequence: int  # 1, 2, ... per topic
    stamp_ns: int | None  # None = not readable
    arrived: Instant

    @property
    def monotonic_s(self) -> float:
        """`time.monotonic()` on arrival."""
        return self.arrived.monotonic_s

    @property
    def delay_s(self) -> float:
        """Seconds from the stamp to the arrival; negative for a stamp in the future, 0 without a stamp."""
        return (self.arrived.clock_ns - self.stamp_ns) * 1e-9 if self.stamp_ns else 0.0

    def age_s(self, now: Instant, *, by_stamp: bool = True) -> float:
        """Return the seconds since the stamp, or since arrival if that is longer.

        Args:
            now: the present moment.
            by_stamp: the stamp is by the node's clock; False = count from arrival.
        """
        since_arrival_s = now.since(self.arrived)
        return since_arrival_s + max(0.0, self.delay_s) if by_stamp else since_arrival_s


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicStatistics:
    """Message counts, rate and QoS problems of one topic."""

    topic: str  # fully qualified
    received: int  # messages since the node was activated
    received_bytes: int
    lost: int  # messages that the middleware reported as lost
    rate_hz: float  # over the last messages, falling when they stop; NaN with fewer than two
    age_s: float  # since the newest message arrived, see `Instant.since`; NaN without one
    held: int  # messages in the buffer
    held_bytes: int
    incompatible_qos: str  # QoS policies on which publishers are incompatible, as "RELIABILITY"; "" = none
    incompatible_publishers: int  # publishers refused for that reason since the node was activated
    problem: str = ""  # what is wrong with the publishers, and what to do


class TopicBuffer:
    """The messages of one topic up to a total size and an age; the newest one is always kept.

    Thread-safe: the subscription calls `store`, any thread may call the rest.
    """

    def __init__(
        self,
        topic: str,
        *,
        clock_ns: Callable[[], int],
        is_simulated: Callable[[], bool] = lambda: False,
        keep_s: float = 0.0,
        max_bytes: int = 0,
    ) -> None:
        """Create an empty buffer; without `keep_s` and `max_bytes` it keeps only the newest message.

        Args:
            topic: fully qualified.
            clock_ns: returns the time of the node clock.
            is_simulated: returns whether the node clock is simulated time.
            keep_s: how long messages are kept, see `Instant.since`.
            max_bytes: how much is kept.
        """
        self.topic = topic
        self._clock_ns = clock_ns
        self._is_simulated = is_simulated
        self._keep_s = keep_s
        self._max_bytes = max_bytes
        self._explain: Callable[[int], str] = lambda received: ""
        self._changed = threading.Condition()
        self._sequence = 0
        self._reset()

    def _reset(self) -> None:
        self._messages: deque[BufferedMessage] = deque()
        self._held_bytes = 0
        self._arrivals_s: deque[float] = deque(maxlen=_RATE_MESSAGES)
        self._received = 0
        self._received_bytes = 0
        self._lost = 0
        self._incompatible: dict[str, None] = {}  # a set that keeps its order
        self._incompatible_publishers = 0

    def now(self) -> Instant:
        """Return the present moment."""
        return Instant(
            monotonic_s=time.monotonic(), clock_ns=self._clock_ns(), simulated=self._is_simulated()
        )

    def store(self, serialized: bytes) -> None:
        """Add a serialized message; this is all the subscription's callback does."""
        now = self.now()
        stamp_ns = peek_stamp_ns(serialized)
        with self._changed:
            self._sequence += 1
            message = BufferedMessage(
                serialized=serialized,
                sequence=self._sequence,
                stamp_ns=stamp_ns,
                arrived=now,
            )
            self._messages.append(message)
            self._held_bytes += len(serialized)
            while len(self._messages) > 1 and (
                self._held_bytes > self._max_bytes or self._is_outdated(self._messages[0].arrived, now)
            ):
                self._held_bytes -= len(self._messages.popleft().serialized)
            self._received += 1
            self._received_bytes += len(serialized)
            self._arrivals_s.append(now.monotonic_s)
            self._changed.notify_all()

    def _is_outdated(self, arrived: Instant, now: Instant) -> bool:
        """Tell whether a message is too old, or from before simulated time jumped back."""
        return now.since(arrived) > self._keep_s or (now.simulated and arrived.clock_ns > now.clock_ns)

    def explain_with(self, explain: Callable[[int], str]) -> None:
        """Set what returns the problem with the publishers; it gets the number of received messages."""
        self._explain = explain

    def report_lost(self, count: int) -> None:
        """Count messages that the middleware reported as lost."""
        with self._changed:
            self._lost += count

    def report_incompatible(self, policy: str, count: int) -> None:
        """Count publishers that the middleware refused, the last one because of this QoS policy."""
        with self._changed:
            self._incompatible[policy] = None
            self._incompatible_publishers += count

    def clear(self) -> None:
        """Drop messages and statistics; sequence numbers continue."""
        with self._changed:
            self._reset()

    def recent(self) -> tuple[BufferedMessage, ...]:
        """Return the buffered messages, newest first."""
        with self._changed:
            return tuple(reversed(self._messages))

    def newest(self) -> BufferedMessage | None:
        """Return the newest message, None if there is none."""
        with self._changed:
            return self._messages[-1] if self._messages else None

    def wait_newer(self, sequence: int, *, timeout_s: float) -> bool:
        """Wait for a message with a higher sequence number; return whether it came in time."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._sequence > sequence and bool(self._messages), timeout_s
            )

    def statistics(self) -> TopicStatistics:
        """Return the statistics since the last `clear`."""
        now = self.now()
        problem = self._explain(self._received)  # asks the ROS graph, so not while a message may arrive
        with self._changed:
            newest = self._messages[-1] if self._messages else None
            return TopicStatistics(
                topic=self.topic,
                received=self._received,
                received_bytes=self._received_bytes,
                lost=self._lost,
                rate_hz=_rate_hz(tuple(self._arrivals_s), now.monotonic_s),
                age_s=float("nan") if newest is None else now.since(newest.arrived),
                held=len(self._messages),
                held_bytes=self._held_bytes,
                incompatible_qos=", ".join(self._incompatible),
                incompatible_publishers=self._incompatible_publishers,
                problem=problem,
            )


def _rate_hz(arrivals_s: tuple[float, ...], now_s: float) -> float:
    """Return the mean rate; silence counts once it is longer than two mean intervals."""
    intervals = len(arrivals_s) - 1
    span_s = arrivals_s[-1] - arrivals_s[0] if intervals > 0 else 0.0
    if span_s <= 0.0:
        return float("nan")
    if now_s - arrivals_s[-1] > 2 * span_s / intervals:
        span_s = now_s - arrivals_s[0]
    return intervals / span_s
