"""What robots ask of a fleet, and how it went: the same for a real fleet and a simulated one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

OK = "OK"


@dataclass(frozen=True, slots=True, kw_only=True)
class RobotLoad:
    """Robots that each look at a new frame regularly, and ask about it several times, one after the other."""

    robots: int
    hz: float  # frames per second and robot
    prompts: int  # about each frame
    deadline_s: float  # of each prompt
    seconds: float

    @property
    def offered(self) -> float:
        """Prompts per second."""
        return self.robots * self.hz * self.prompts


@dataclass(slots=True)
class Outcomes:
    """How prompts ended."""

    codes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)  # of those that were answered in time
    asked_by_id: int = 0
    sent_again: int = 0  # of those: the frame was not where the prompt went

    def add(self, code: str, took_s: float, deadline_s: float) -> None:
        """Note a prompt."""
        if code == OK and took_s > deadline_s:
            code = "late"
        self.codes[code] += 1
        if code == OK:
            self.seconds.append(took_s)

    def report(self) -> dict[str, Any]:
        """Return goodput, latency and hit rate."""
        total = sum(self.codes.values())
        return {
            "goodput": round(self.codes[OK] / max(1, total), 3),
            "p50_ms": _ms(self.seconds, 50),
            "p99_ms": _ms(self.seconds, 99),
            "hit_rate": round(1 - self.sent_again / max(1, self.asked_by_id), 4),
            "prompts": total,
            "codes": dict(self.codes),
        }


def _ms(seconds: Sequence[float], percentile: float) -> float:
    return round(1000 * float(np.percentile(seconds, percentile)), 1) if seconds else float("nan")
