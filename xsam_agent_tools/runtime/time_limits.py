"""Limits on durations and ages, and the age of an image."""

from __future__ import annotations

import math
from dataclasses import dataclass

from xsam.errors import StaleFrameError

_CLOCK_SLACK_S = 0.5  # a stamp further in the future comes from another clock


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLimits:
    """Bounds on durations and ages, in seconds; None = no bound."""

    deadline_s: float = 30.0  # of one tool call: frame, waiting for the model, inference
    frame_wait_s: float = 5.0  # for the frame of one camera where all are asked
    max_age_s: float | None = 5.0  # of a camera's newest frame when it is requested
    max_image_age_s: float | None = 120.0  # of an earlier image that is queried again
    max_position_age_s: float | None = 30.0  # of an image whose positions may drive an arm

    def __post_init__(self) -> None:
        for name in ("deadline_s", "frame_wait_s", "max_age_s", "max_image_age_s", "max_position_age_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if not math.isfinite(self.deadline_s):
            raise ValueError(
                f"deadline_s must be finite, or an agent may wait forever; got {self.deadline_s}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageAge:
    """Age of an image.

    Attributes:
        seconds: since the stamp or since arrival.
        from_arrival: the image has no stamp by a known clock, so `seconds` counts from its arrival.
    """

    seconds: float
    from_arrival: bool = False


def check_age(stamp_ns: int, now_ns: int, limit_s: float | None, subject: str) -> None:
    """Raise `StaleFrameError` if an image is older than a limit; `subject` names it in the message."""
    seconds = seconds_since(stamp_ns, now_ns)
    if seconds is not None and limit_s is not None and seconds > limit_s:
        raise StaleFrameError(
            f"{subject} is {seconds:.1f} s old, at most {limit_s:g} s is allowed",
            hint="the camera may have stopped; do not act on what it showed before",
        )


def seconds_since(stamp_ns: int, now_ns: int) -> float | None:
    """Return the seconds since a stamp; None without a stamp, or for one by another clock."""
    seconds = (now_ns - stamp_ns) / 1e9
    return None if stamp_ns <= 0 or seconds < -_CLOCK_SLACK_S else max(0.0, seconds)
