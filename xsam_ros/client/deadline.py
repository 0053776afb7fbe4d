"""The moment at which a caller of the client gives up."""

from __future__ import annotations

import threading
import time

from xsam.errors import DeadlineExceededError, RequestCancelledError


class Limit:
    """A deadline, and the fact that the caller has given up before it."""

    def __init__(self, allowed_s: float) -> None:
        self.allowed_s = allowed_s
        self.until = time.monotonic() + allowed_s
        self.given_up = threading.Event()

    @property
    def remaining_s(self) -> float:
        """Seconds left, not negative."""
        return max(0.0, self.until - time.monotonic())

    def error(self) -> DeadlineExceededError:
        """What the caller is told when the time is up."""
        return DeadlineExceededError(f"no answer within {self.allowed_s:.2f} s")

    def wait(self, pause_s: float) -> None:
        """Sleep a little; raise if the caller has given up."""
        if self.given_up.wait(min(pause_s, self.remaining_s)):
            raise RequestCancelledError("the caller gave up")

    def check(self) -> None:
        """Raise if the time is up or the caller has given up."""
        self.wait(0.0)
        if self.remaining_s <= 0.0:
            raise self.error()
