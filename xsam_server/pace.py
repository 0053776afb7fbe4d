"""How long the model takes of late, and which requests can therefore not be answered in time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from xsam.errors import QueueFullError
from xsam.types.deadline import Deadline

_CAUTION = 1.25  # calls differ: an answer that comes just too late has cost a whole call
_RECENT_CALLS = 16


class Pace:
    """Measures the turns of requests in the model's thread; others may ask at any time."""

    def __init__(self) -> None:
        self._turn_s: float | None = None  # about how long those that wait do so for each request ahead
        self._last_ended_s = 0.0  # when the model had answered the request before
        self._calls_s: deque[float] = deque(maxlen=_RECENT_CALLS)

    @contextmanager
    def turn(self, submitted_s: float) -> Iterator[None]:
        """Measure the turn of a request that was queued at this time of `time.monotonic`.

        A turn is from the end of the one before, or from an empty queue, to the answer. The time of the
        engine alone is less than that, and a queue that is admitted by it is always late.
        """
        began_s = time.monotonic()
        turn_began_s = max(submitted_s, self._last_ended_s)
        try:
            yield
            ended_s = time.monotonic()
            self._calls_s.append(ended_s - began_s)
            took_s = ended_s - turn_began_s
            self._turn_s = took_s if self._turn_s is None else self._turn_s + 0.2 * (took_s - self._turn_s)
        finally:
            self._last_ended_s = time.monotonic()

    def wait_s(self, waiting: int) -> float:
        """Return about how long those that wait, and the one that runs, will take."""
        return (self._turn_s or 0.0) * (waiting + 0.5)

    def check_wait(self, waiting: int, deadline: Deadline) -> None:
        """Refuse a request that would wait in vain: it would only make others late as well.

        Args:
            waiting: requests ahead of it, besides the one that runs.
            deadline: of the request.

        Raises:
            QueueFullError: its deadline will pass before the model has answered.
        """
        needed_s = _CAUTION * (self.wait_s(waiting) + (self._turn_s or 0.0))
        if waiting and needed_s > deadline.remaining_s:
            raise QueueFullError(
                f"with {waiting} requests ahead the answer would take about {needed_s:.2g} s, and the"
                f" deadline is in {deadline.remaining_s:.2g} s"
            )

    def check_start(self, behind: int, deadline: Deadline) -> None:
        """Refuse to start what no recent call was fast enough for, while others wait for the model.

        When nobody waits it may try: else nothing would be measured any more after some slow calls.

        Args:
            behind: requests that wait behind it.
            deadline: of the request.

        Raises:
            DeadlineExceededError: the model would work in vain.
        """
        if behind and self._calls_s and deadline.remaining_s < min(self._calls_s):
            raise deadline.error("queue")
