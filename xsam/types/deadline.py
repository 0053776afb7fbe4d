"""The deadline of a request, and the hooks that report its progress. Shared by all segmenters."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from xsam.errors import DeadlineExceededError, InvalidQueryError

StageHook = Callable[[str], None]
"""Called with the name of each stage as it begins, and again while a long one lasts; may raise an `XSamError`
to end the request."""

TextHook = Callable[[int, str], None]
"""Called with a query's index and its text so far, without tags; may raise an `XSamError`."""


class Deadline:
    """The moment at which the caller of a request gives up, on the monotonic clock."""

    def __init__(self, allowed_s: float | None) -> None:
        """Start the clock.

        Args:
            allowed_s: seconds from now; None = no deadline.

        Raises:
            InvalidQueryError: it is not a number.
        """
        allowed_s = None if allowed_s is None else _seconds(allowed_s)
        self.allowed_s = allowed_s
        self._ends_s = None if allowed_s is None else time.monotonic() + allowed_s

    @property
    def remaining_s(self) -> float:
        """Seconds left, never negative; infinity without a deadline."""
        return float("inf") if self._ends_s is None else max(0.0, self._ends_s - time.monotonic())

    @property
    def timeout_s(self) -> float | None:
        """Seconds left, as `Event.wait` and `Future.result` take them; None without a deadline."""
        return None if self._ends_s is None else min(self.remaining_s, threading.TIMEOUT_MAX)

    @property
    def expired(self) -> bool:
        """True once no time is left."""
        return self._ends_s is not None and time.monotonic() >= self._ends_s

    def check(self, stage: str = "") -> None:
        """Raise the error of `error` if no time is left."""
        if self.expired:
            raise self.error(stage)

    def error(self, stage: str = "") -> DeadlineExceededError:
        """Return what to raise when the time is up; `stage` names what was running."""
        where = f" (stage: {stage})" if stage else ""
        return DeadlineExceededError(f"no answer within {self.allowed_s or 0.0:.3g} s{where}")


def _seconds(value: object) -> float:
    try:
        seconds = math.nan if isinstance(value, (bool, str)) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if math.isnan(seconds):
        raise InvalidQueryError(
            f"the deadline must be a number of seconds, got {value!r:.80}",
            hint="give a positive number, or None to wait as long as it takes",
        )
    return seconds
