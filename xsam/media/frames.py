"""What all sources have in common: frames that are found first and decoded when they are used."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from xsam.errors import InvalidOptionError
from xsam.types.requests import Frame, Segments

NS_PER_S = 1_000_000_000

Load = Callable[[list[str]], Frame]
"""Decodes a frame; appends notes on what is unusual about it. Raises `InvalidImageError` if it is damaged."""

Locate = Callable[[Frame, Segments], Segments]
"""Adds locations to segments of a frame that `Load` gave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFrame:
    """A frame of a source, not decoded yet.

    What is damaged, or missing at the end of a file that was cut off, is a frame as well: its `load` raises.
    """

    source: str  # file, folder, or camera that it comes from, as the user named it
    sequence: str  # frames of one sequence follow each other in time: a video, a bag, a folder of pictures
    index: int  # 0, 1, … in its sequence
    name: str  # unique in the source, for names of files: "clip_000012"
    stamp_ns: int  # by the clock of the source
    load: Load = field(compare=False, repr=False)
    locate: Locate | None = field(default=None, compare=False, repr=False)  # None = there is no depth


class Source(Protocol):
    """Anything with frames."""

    @property
    def name(self) -> str:
        """The source, as the user named it."""
        ...

    @property
    def count(self) -> int | None:
        """Return how many frames it has, at least about; None = nobody knows."""
        ...

    def frames(self) -> Iterator[SourceFrame]:
        """Yield the frames in their order. Every call starts at the beginning, except for a camera.

        Raises:
            SourceError: the source cannot be opened.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Every:
    """How many frames to use: one in `frames`, or one in `seconds` of the source's clock."""

    frames: int = 1
    seconds: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Every:
        """Parse "10" (one frame in ten) or "0.5s" (one in half a second).

        Raises:
            InvalidOptionError: neither.
        """
        found = re.fullmatch(r"(\d+)|(\d+(?:\.\d*)?|\.\d+) ?s", text.strip())
        if found is not None and found[1] and 0 < int(found[1]) < 1 << 31:
            return cls(frames=int(found[1]))
        if found is not None and found[2] and float(found[2]) > 0:
            return cls(seconds=float(found[2]))
        raise InvalidOptionError(
            f"--every takes a number of frames or of seconds, got {text!r:.40}",
            hint="for example 10, or 0.5s",
        )

    def choose(self, frames: Iterator[SourceFrame]) -> Iterator[SourceFrame]:
        """Yield the chosen frames.

        By seconds, a frame is chosen once that time has passed since the last chosen one, measured on a grid
        that starts with the first frame: small deviations of a camera's clock do not add up. A clock that
        jumps back starts again.
        """
        if not self.seconds:
            yield from (frame for number, frame in enumerate(frames) if number % self.frames == 0)
            return
        step_ns = round(self.seconds * NS_PER_S)
        sequence, due_ns, last_ns = "", 0, 0
        for frame in frames:
            if frame.sequence != sequence or frame.stamp_ns < last_ns - step_ns:
                sequence, due_ns = frame.sequence, frame.stamp_ns
            last_ns = frame.stamp_ns
            if frame.stamp_ns >= due_ns:
                yield frame
                due_ns += ((frame.stamp_ns - due_ns) // step_ns + 1) * step_ns
