"""What can go wrong with a data set on disk.

::

    XSamError
    └── DatasetError            DATASET           wrong option, damaged file, nothing to read
        ├── MissingDataError    DATASET_MISSING   a file or folder is not there
        └── RecordError         DATASET_RECORD    one record of a file is malformed
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from xsam.errors import XSamError


class DatasetError(XSamError):
    """A data set cannot be read: wrong option, damaged file, nothing usable in it."""

    code = "DATASET"


class MissingDataError(DatasetError):
    """A file or folder of a data set is not where it was looked for."""

    code = "DATASET_MISSING"


class RecordError(DatasetError):
    """A record of a data set is malformed; the message names the file and the record."""

    code = "DATASET_RECORD"


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
