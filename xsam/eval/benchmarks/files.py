"""Find the files of a benchmark below one folder, in the layouts in which they are commonly kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from xsam.errors import MissingDataError


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFolder:
    """The folder that holds a benchmark, and the folder of its images if that is elsewhere.

    Attributes:
        root: the folder.
        images: None = below the root.
        benchmark: name of the benchmark, for error messages.
        expected: the expected files, for error messages.
    """

    root: Path
    images: Path | None
    benchmark: str
    expected: str

    def find(self, *candidates: str) -> Path:
        """Return the first of these paths that exists, relative to the root.

        Raises:
            MissingDataError: none of them does.
        """
        for candidate in candidates:
            path = self.root / candidate
            if path.exists():
                return path
        others = f", nor {' or '.join(candidates[1:])}" if candidates[1:] else ""
        raise MissingDataError(
            f"{self.benchmark}: {self.root} has no {candidates[0]}{others}",
            hint=f"expected in the folder: {self.expected}",
        )

    def find_images(self, *candidates: str) -> Path:
        """Return the folder of the images: the given one, or the first of these that exists below the root.

        Raises:
            MissingDataError: there is no such folder.
        """
        if self.images is None:
            return self.find(*candidates)
        if not self.images.is_dir():
            raise MissingDataError(
                f"{self.benchmark}: there is no folder {self.images}",
                hint=f"expected in it: the images of {candidates[0]}",
            )
        return self.images
