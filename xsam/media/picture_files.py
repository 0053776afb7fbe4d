"""Pictures on disk as a source: one file, or many as a sequence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from xsam.inference.images import read_image
from xsam.media.frames import NS_PER_S, SourceFrame
from xsam.media.options import DEFAULT_PICTURES_HZ
from xsam.types.requests import Frame


class PictureFiles:
    """Files as one sequence of frames; a file that cannot be read is a damaged frame."""

    def __init__(self, name: str, paths: Sequence[Path], *, rate_hz: float = DEFAULT_PICTURES_HZ) -> None:
        """Take files in the given order.

        Args:
            name: as the user named them.
            paths: at least one; they are opened when their turn comes.
            rate_hz: pictures per second, from which their stamps follow.
        """
        self.name = name
        self._paths = tuple(paths)
        self._names = distinct_names(self._paths)
        self._step_ns = round(NS_PER_S / rate_hz)

    @property
    def count(self) -> int:
        return len(self._paths)

    def frames(self) -> Iterator[SourceFrame]:
        for index, (path, name) in enumerate(zip(self._paths, self._names, strict=True)):
            stamp_ns = index * self._step_ns

            def load(notes: list[str], path: Path = path, stamp_ns: int = stamp_ns) -> Frame:
                return Frame(rgb=read_image(path, notes), stamp_ns=stamp_ns)

            yield SourceFrame(
                source=str(path), sequence=self.name, index=index, name=name, stamp_ns=stamp_ns, load=load
            )


def natural_order(path: Path) -> list[tuple[bool, int, str]]:
    """Sort numbers in names by their value: img2 before img10."""
    parts = re.split(r"(\d+)", str(path))
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each file: its path below the common folder, without suffix where that is enough."""
    absolute = [path.absolute() for path in paths]
    common = _common_folder(absolute)
    relative = [path.relative_to(common) for path in absolute]
    counts: dict[str, int] = {}
    for path in set(relative):
        bare = path.with_suffix("").as_posix()
        counts[bare] = counts.get(bare, 0) + 1
    names: list[str] = []
    seen: dict[str, int] = {}
    for path in relative:
        bare = path.with_suffix("").as_posix()
        name = bare if counts[bare] == 1 else f"{bare}_{path.suffix[1:]}"
        seen[name] = seen.get(name, 0) + 1  # a list may name a file twice
        names.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return names


def _common_folder(paths: Sequence[Path]) -> Path:
    common = paths[0].parent
    for path in paths:
        while common not in path.parents:
            common = common.parent
    return common
