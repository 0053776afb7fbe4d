"""Stages of a request: their names, their times, and the deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from xsam.errors import DeadlineExceededError

StageHook = Callable[[str], None]


class RequestClock:
    """Names and times the stages of a request and keeps its deadline."""

    def __init__(self, deadline_s: float | None, on_stage: StageHook | None) -> None:
        self._start = time.monotonic()
        self._deadline_s = deadline_s
        self._hook = on_stage
        self._current: tuple[str, float] | None = None
        self._spent: dict[str, float] = {}

    def remaining_s(self) -> float:
        """Seconds left; −1 (for ever, as `Lock.acquire` reads it) without a deadline."""
        if self._deadline_s is None:
            return -1.0
        left_s = self._start + self._deadline_s - time.monotonic()
        return min(max(0.0, left_s), threading.TIMEOUT_MAX)

    def check(self) -> None:
        """Raise `DeadlineExceededError` when the time is over."""
        if self._deadline_s is not None and self.remaining_s() <= 0:
            stage = f" in stage {self._current[0]!r}" if self._current else ""
            raise DeadlineExceededError(f"no answer within {self._deadline_s:.3f} s{stage}")

    def begin(self, stage: str) -> None:
        """End the stage before, look at the deadline, announce the next stage."""
        self._close()
        self.check()
        if self._hook is not None:
            self._hook(stage)
        self._current = (stage, time.monotonic())

    def finish(self) -> dict[str, float]:
        """End the last stage; seconds spent in each."""
        self._close()
        self.check()
        return self._spent

    def _close(self) -> None:
        if self._current is not None:
            stage, since = self._current
            self._spent[stage] = self._spent.get(stage, 0.0) + time.monotonic() - since
            self._current = None
