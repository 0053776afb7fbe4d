"""Presence: whether a model tells what is there from what is not, and counts what it sees."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

FALSE_ALARMS = (0.01, 0.05, 0.10)
"""Shares of present things reported "not found" at which the share of rejected absent things is given."""


@dataclass(slots=True)
class PresenceScorer:
    """Accumulates answers about present and absent things."""

    scores: dict[bool, list[float]] = field(default_factory=lambda: {True: [], False: []})
    believed: dict[bool, list[bool]] = field(default_factory=lambda: {True: [], False: []})
    near_misses: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    exact_counts: list[bool] = field(default_factory=list)
    count_errors: list[int] = field(default_factory=list)

    def add_score(self, score: float, *, present: bool) -> None:
        """Add the best score for a phrase, before any threshold."""
        self.scores[present].append(score)

    def add_answer(self, believed: bool, *, present: bool, near_miss: str = "") -> None:
        """Add an answer.

        Args:
            believed: the answer is "found", not "unsure".
            present: something matches.
            near_miss: kind of a phrase that nothing matches, but almost; these count by themselves.
        """
        if near_miss:
            self.near_misses[near_miss].append(believed)
        else:
            self.believed[present].append(believed)

    def add_count(self, found: int, true: int) -> None:
        """Add the number of objects found of a category."""
        self.exact_counts.append(found == true)
        self.count_errors.append(abs(found - true))

    def results(self) -> dict[str, float | None]:
        """Compute all scores; those for which nothing was added are left out."""
        found: dict[str, float | None] = {}
        present, absent = (np.array(self.scores[key]) for key in (True, False))
        if len(present) and len(absent):
            found["presence_auc"] = area_under_roc(present, absent)
            for share in FALSE_ALARMS:
                found[f"absent_rejected_at_{round(100 * share):02}"] = rejected_at(present, absent, share)
        if self.believed[True] and self.believed[False]:
            found["presence_mcc"] = matthews(
                hits=sum(self.believed[True]),
                misses=len(self.believed[True]) - sum(self.believed[True]),
                false_alarms=sum(self.believed[False]),
                rejections=len(self.believed[False]) - sum(self.believed[False]),
            )
        if self.near_misses:
            flags = [flag for kind in self.near_misses.values() for flag in kind]
            found["near_miss_believed"] = float(np.mean(flags))
            found |= {f"{kind}_believed": float(np.mean(value)) for kind, value in self.near_misses.items()}
        if self.exact_counts:
            found["count_exact"] = float(np.mean(self.exact_counts))
            found["count_mae"] = float(np.mean(self.count_errors))
        return found


def area_under_roc(present: np.ndarray, absent: np.ndarray) -> float:
    """Return the chance that a present thing scores higher than an absent one; ties count half."""
    higher = (present[:, None] > absent[None]).mean()
    return float(higher + 0.5 * (present[:, None] == absent[None]).mean())


def rejected_at(present: np.ndarray, absent: np.ndarray, false_alarm: float) -> float:
    """Return the share of absent things below the highest threshold that rejects so few present ones.

    Args:
        present: scores (N,) of present things.
        absent: scores (M,) of absent things.
        false_alarm: largest share of the present things that may lie below the threshold.
    """
    allowed = math.floor(false_alarm * len(present))
    threshold = np.sort(present)[allowed]
    return float((absent < threshold).mean())


def matthews(*, hits: int, misses: int, false_alarms: int, rejections: int) -> float:
    """Return Matthews' correlation coefficient; 0 if all answers or all truths are alike."""
    product = (hits + false_alarms) * (hits + misses) * (rejections + false_alarms) * (rejections + misses)
    return (hits * rejections - misses * false_alarms) / math.sqrt(product) if product else 0.0
