"""What is for training and what for validation: whole sequences, never frames that follow each other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from xsam.label.items import Line
from xsam.media.frames import NS_PER_S
from xsam.media.sources import PICTURE_SUFFIXES

TRAIN, VAL, GAP = "train", "val", "gap"
GAP_S = 2.0
"""Between training and validation in a single sequence, if that is less than a tenth of it."""

_GAP_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Which frames are for what.

    Attributes:
        val: sequences for validation.
        val_from: of the only sequence: number of the first frame for validation.
        gap: frames before that one which are for neither.
        note: what a user should know.
    """

    val: frozenset[str] = frozenset()
    val_from: int | None = None
    gap: int = 0
    note: str = ""

    def assign(self, entries: Iterable[Line]) -> Iterator[tuple[str, Line]]:
        """Yield each frame with its part; `entries` are those that the split was planned for."""
        for number, entry in enumerate(entries):
            if self.val_from is None:
                yield VAL if sequence_of(entry) in self.val else TRAIN, entry
            elif number >= self.val_from:
                yield VAL, entry
            else:
                yield TRAIN if number < self.val_from - self.gap else GAP, entry


def sequence_of(entry: Line) -> str:
    """Return the sequence that a frame belongs to: its file, or the folder of a picture."""
    source = str(entry["source"])
    # The sequence of a video, bag or camera is named after it, that of several pictures is not.
    picture = not entry["sequence"].endswith(source) or Path(source).suffix.lower() in PICTURE_SUFFIXES
    return str(Path(source).parent) if picture else source


def plan_split(entries: Callable[[], Iterable[Line]], share: float) -> Split:
    """Choose what is for validation, always the same for the same data.

    Sequences are taken in the order of a hash of their names, as long as that brings the number of frames
    nearer to what is wanted; at least one, and never all. Of a single sequence, it is the last part,
    after a gap.

    Args:
        entries: returns the frames of the data set, as often as it is called.
        share: of the frames, for validation.
    """
    frames: dict[str, int] = {}
    for entry in entries():
        name = sequence_of(entry)
        frames[name] = frames.get(name, 0) + 1
    if share <= 0.0 or not frames:
        return Split(note="" if share > 0.0 else "all frames are for training: --val is 0")
    if len(frames) == 1:
        return _in_time(entries, share, sum(frames.values()))
    wanted = share * sum(frames.values())
    order = sorted(frames, key=_hashed)
    chosen, count = {order[0]}, frames[order[0]]
    for name in order[1:]:
        if len(chosen) < len(order) - 1 and abs(count + frames[name] - wanted) < abs(count - wanted):
            chosen.add(name)
            count += frames[name]
    return Split(val=frozenset(chosen))


def _in_time(entries: Callable[[], Iterable[Line]], share: float, count: int) -> Split:
    """Split one sequence: its last part is for validation, after a gap."""
    val_from = count - round(share * count)
    first_ns = last_ns = start_ns = 0
    for number, entry in enumerate(entries()):
        first_ns = entry["stamp_ns"] if number == 0 else first_ns
        start_ns = entry["stamp_ns"] if number == val_from else start_ns
        last_ns = entry["stamp_ns"]
    gap_ns = min(GAP_S * NS_PER_S, _GAP_SHARE * abs(last_ns - first_ns))
    gap = 0
    for number, entry in enumerate(entries()):
        if number < val_from:
            gap = gap + 1 if abs(start_ns - entry["stamp_ns"]) <= gap_ns else 0
    if not 0 < val_from - gap < val_from < count:
        return Split(note="there is one sequence, too short to be split: all frames are for training")
    return Split(
        val_from=val_from,
        gap=gap,
        note=f"there is one sequence: its last {count - val_from} frames are for validation, {gap} before "
        "them for neither; several files are split by file, which tells more",
    )


def _hashed(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
