"""The categories of a run: those of the queries first, then others as they are found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from xsam.types.requests import Query


class LabelNumbers:
    """A number from 0 for each label, the same in every part of a run."""

    def __init__(self, queries: Sequence[Query]) -> None:
        self._numbers: dict[str, int] = {}
        for query in queries:
            for name in query.thing_classes + query.stuff_classes:
                self.number(name)

    @property
    def names(self) -> list[str]:
        """All labels, by their number."""
        return list(self._numbers)

    def number(self, label: str) -> int:
        """Return the number of a label; a new one gets the next."""
        return self._numbers.setdefault(label, len(self._numbers))

    def read(self, entries: Iterable[dict[str, Any]]) -> None:
        """Take over the labels in the lines of a journal."""
        for entry in entries:
            for result in entry.get("results", ()):
                for segment in result["segments"]:
                    self.number(segment["label"])


def is_answered(entry: dict[str, Any]) -> bool:
    """Return True if every query of a line of the journal was answered; see `SegmentedFrame.answered`."""
    return all(
        result["status"] in ("found", "unsure", "not_found")
        for result in entry.get("results", ({"status": ""},))
    )
