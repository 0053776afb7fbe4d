"""The newest image of each camera, kept as it came; only an image that is used gets decoded."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from xsam.errors import NoFrameError, StaleFrameError
from xsam.structures import Frame
from xsam_ros.conversions import frame_from_image, stamp_ns

_MAX_DELAY_S = 60.0
"""A stamp further from the node's clock than this is of another clock and says nothing about the age."""


def image_qos(kind: str) -> QoSProfile:
    """Quality of service for image subscriptions: only the newest, by default whatever the driver offers."""
    reliable = kind == "reliable"
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arrival:
    serialized: bytes
    monotonic_s: float
    clock_ns: int  # of the node, when it arrived


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraFrame:
    """A decoded frame and the header it came with."""

    frame: Frame
    header: Header


class CameraSlot:
    """Newest image of one camera. `store` is called by the subscription, the rest by anybody."""

    def __init__(self, name: str, topic: str, *, clock_ns: Callable[[], int]) -> None:
        self.name = name
        self.topic = topic
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._newest: _Arrival | None = None
        self._frames = 0
        self._arrivals_s: deque[float] = deque(maxlen=30)

    def store(self, serialized: bytes) -> None:
        """Keep a serialised `sensor_msgs/Image`; nothing else happens in the subscription's callback."""
        now_s = time.monotonic()
        arrival = _Arrival(serialized=serialized, monotonic_s=now_s, clock_ns=self._clock_ns())
        with self._lock:
            self._newest = arrival
            self._frames += 1
            self._arrivals_s.append(now_s)

    def clear(self) -> None:
        """Forget everything that arrived."""
        with self._lock:
            self._newest = None
            self._frames = 0
            self._arrivals_s.clear()

    @property
    def frames(self) -> int:
        """Images since the last `clear`."""
        with self._lock:
            return self._frames

    @property
    def age_s(self) -> float:
        """Seconds since the newest image arrived; NaN without one."""
        with self._lock:
            newest = self._newest
        return float("nan") if newest is None else time.monotonic() - newest.monotonic_s

    @property
    def rate_hz(self) -> float:
        """Mean rate of the last images; NaN with fewer than two."""
        with self._lock:
            arrivals_s = tuple(self._arrivals_s)
        span_s = arrivals_s[-1] - arrivals_s[0] if len(arrivals_s) > 1 else 0.0
        return (len(arrivals_s) - 1) / span_s if span_s > 0 else float("nan")

    def newest_frame(self, *, max_age_s: float, max_side_px: int) -> CameraFrame:
        """Decode the newest image.

        Its age counts from its stamp if stamp and node clock plausibly agree, else from its arrival.

        Raises:
            NoFrameError: nothing has arrived.
            StaleFrameError: the newest image is older than `max_age_s`.
            InvalidImageError: it cannot be read.
        """
        with self._lock:
            newest = self._newest
        if newest is None:
            raise NoFrameError(f"camera {self.name!r} has not delivered a frame on {self.topic} yet")
        since_arrival_s = time.monotonic() - newest.monotonic_s
        self._check_age(since_arrival_s, max_age_s)
        message: Image = deserialize_message(newest.serialized, Image)
        delay_s = (newest.clock_ns - stamp_ns(message.header.stamp)) * 1e-9
        if 0.0 < delay_s < _MAX_DELAY_S:
            self._check_age(since_arrival_s + delay_s, max_age_s)
        frame = frame_from_image(message, camera=self.name, max_side_px=max_side_px)
        return CameraFrame(frame=frame, header=message.header)

    def _check_age(self, age_s: float, max_age_s: float) -> None:
        if age_s > max_age_s:
            raise StaleFrameError(
                f"the newest frame of camera {self.name!r} is {age_s:.2f} s old, "
                f"at most {max_age_s:.2f} s are allowed"
            )
