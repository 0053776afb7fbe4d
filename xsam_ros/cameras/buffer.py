"""The last messages of one topic, kept serialized, and what diagnostics want to know about them."""

from __future__ import annotations

import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

MAX_DELAY_S = 60.0
"""A stamp further from the node's clock than this is of another clock and says nothing about the age."""

_RATE_ARRIVALS = 30


def peek_stamp_ns(serialized: bytes) -> int | None:
    """The stamp of a serialized message that begins with a `std_msgs/Header`; None if there is none.

    Two of the first four bytes name the encoding (DDS-XTypes, 7.6.3.1.2): plain CDR, version 1 or 2, big or
    little endian. The seconds and nanoseconds follow. That takes a microsecond; deserializing an image copies
    it.
    """
    if len(serialized) < 12 or serialized[0] != 0 or serialized[1] not in (0, 1, 6, 7):
        return None
    seconds, nanoseconds = struct.unpack_from("<iI" if serialized[1] & 1 else ">iI", serialized, 4)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Arrival:
    """One message as it came."""

    serialized: bytes
    sequence: int  # 1, 2, ... on its topic
    stamp_ns: int | None  # None: not readable
    monotonic_s: float  # when it arrived
    clock_ns: int  # of the node, when it arrived

    def age_s(self, now_s: float) -> float:
        """Seconds since its stamp if stamp and node clock plausibly agree, else since its arrival.

        Args:
            now_s: `time.monotonic()`.
        """
        since_arrival_s = now_s - self.monotonic_s
        if self.stamp_ns is None:
            return since_arrival_s
        delay_s = (self.clock_ns - self.stamp_ns) * 1e-9
        return since_arrival_s + delay_s if 0.0 < delay_s < MAX_DELAY_S else since_arrival_s


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicStatistics:
    """How one topic is doing."""

    topic: str  # fully qualified
    received: int  # messages since the node was activated
    received_bytes: int
    lost: int  # messages that the middleware says were lost on the way
    rate_hz: float  # of the last messages, falling when they stop; NaN with fewer than two
    age_s: float  # since the newest arrived, by a monotonic clock; NaN without one
    held: int  # messages kept
    held_bytes: int
    incompatible_qos: str  # policies that publishers offer incompatibly, for example "RELIABILITY"; "" = none
    incompatible_publishers: int  # offers that were refused for it since the node was activated


class TopicStream:
    """Keeps the messages of a topic up to a total size and an age, and always the newest.

    `store` is called by the subscription, the rest by anybody.
    """

    def __init__(
        self, topic: str, *, clock_ns: Callable[[], int], keep_s: float = 0.0, max_bytes: int = 0
    ) -> None:
        """Without `keep_s` and `max_bytes` only the newest message is kept."""
        self.topic = topic
        self._clock_ns = clock_ns
        self._keep_s = keep_s
        self._max_bytes = max_bytes
        self._changed = threading.Condition()
        self._sequence = 0
        self._reset()

    def _reset(self) -> None:
        self._ring: deque[Arrival] = deque()
        self._ring_bytes = 0
        self._arrivals_s: deque[float] = deque(maxlen=_RATE_ARRIVALS)
        self._received = 0
        self._received_bytes = 0
        self._lost = 0
        self._incompatible: dict[str, None] = {}  # a set that keeps its order
        self._incompatible_publishers = 0

    def store(self, serialized: bytes) -> None:
        """Keep a serialized message; nothing else happens in the subscription's callback."""
        now_s = time.monotonic()
        clock_ns = self._clock_ns()
        stamp_ns = peek_stamp_ns(serialized)
        with self._changed:
            self._sequence += 1
            arrival = Arrival(
                serialized=serialized,
                sequence=self._sequence,
                stamp_ns=stamp_ns,
                monotonic_s=now_s,
                clock_ns=clock_ns,
            )
            self._ring.append(arrival)
            self._ring_bytes += len(serialized)
            while len(self._ring) > 1 and (
                self._ring_bytes > self._max_bytes or now_s - self._ring[0].monotonic_s > self._keep_s
            ):
                self._ring_bytes -= len(self._ring.popleft().serialized)
            self._received += 1
            self._received_bytes += len(serialized)
            self._arrivals_s.append(now_s)
            self._changed.notify_all()

    def report_lost(self, count: int) -> None:
        """The middleware says that so many messages were lost."""
        with self._changed:
            self._lost += count

    def report_incompatible(self, policy: str, count: int) -> None:
        """So many publishers were refused, the last one because of this policy of its quality of service."""
        with self._changed:
            self._incompatible[policy] = None
            self._incompatible_publishers += count

    def clear(self) -> None:
        """Forget messages and statistics; sequence numbers go on."""
        with self._changed:
            self._reset()

    def recent(self) -> tuple[Arrival, ...]:
        """The messages that are kept, newest first."""
        with self._changed:
            return tuple(reversed(self._ring))

    def newest(self) -> Arrival | None:
        """The newest message."""
        with self._changed:
            return self._ring[-1] if self._ring else None

    def wait_newer(self, sequence: int, *, timeout_s: float) -> bool:
        """Wait until a message with a higher sequence number has come; False when it did not in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._sequence > sequence and bool(self._ring), timeout_s)

    def statistics(self) -> TopicStatistics:
        """What happened since the last `clear`."""
        now_s = time.monotonic()
        with self._changed:
            newest = self._ring[-1] if self._ring else None
            return TopicStatistics(
                topic=self.topic,
                received=self._received,
                received_bytes=self._received_bytes,
                lost=self._lost,
                rate_hz=_rate_hz(tuple(self._arrivals_s), now_s),
                age_s=float("nan") if newest is None else now_s - newest.monotonic_s,
                held=len(self._ring),
                held_bytes=self._ring_bytes,
                incompatible_qos=", ".join(self._incompatible),
                incompatible_publishers=self._incompatible_publishers,
            )


def _rate_hz(arrivals_s: tuple[float, ...], now_s: float) -> float:
    """Mean rate of the arrivals; silence counts once it is longer than two of their intervals."""
    intervals = len(arrivals_s) - 1
    span_s = arrivals_s[-1] - arrivals_s[0] if intervals > 0 else 0.0
    if span_s <= 0.0:
        return float("nan")
    if now_s - arrivals_s[-1] > 2 * span_s / intervals:
        span_s = now_s - arrivals_s[0]
    return intervals / span_s
