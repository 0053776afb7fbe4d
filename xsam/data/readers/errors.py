"""What a user must have on disk for a data set, and the error that says what is missing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from xsam.errors import DatasetError, MissingDataError, RecordError

__all__ = ["DatasetError", "Layout", "MissingDataError", "RecordError", "missing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a user must have on disk for a data set, and where it comes from."""

    dataset: str
    folders: str
    published: str


def missing(path: Path, layout: Layout) -> MissingDataError:
    """The error for a file or folder that is not there."""
    return MissingDataError(
        f"{layout.dataset}: {path} does not exist",
        hint=f"expected: {layout.folders}; published at {layout.published}",
    )
