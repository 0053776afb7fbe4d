"""A source without the frames that look like an earlier one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from xsam.errors import InvalidImageError
from xsam.media.frames import Every, Load, Source, SourceFrame
from xsam.types.requests import Frame

HASH_SIDE = 16
REMEMBERED = 512
"""Frames that new ones are compared with; a constant, so that memory does not grow."""

DEFAULT_TOLERANCE = 6
"""Gray levels of 255. Noise of 8 levels, JPEG at quality 60 and a shift by 1 px at 640×480 change a hash by
at most 4, an object that moves by 1 cm on the simulated table by 11 or more."""


def perceptual_hash(rgb: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Return the mean gray values of 16×16 parts of an image (H, W, 3), less their median, as (256,).

    A bit per part, as in other hashes, would not tell a small object that moves from noise in flat regions.
    """
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    cells = cv2.resize(gray, (HASH_SIDE, HASH_SIDE), interpolation=cv2.INTER_AREA).astype(np.int16).ravel()
    return np.asarray(cells - np.int16(np.median(cells)), np.int16)


class DistinctFrames:
    """The chosen frames of a source, each decoded once, without near-duplicates.

    A frame is one if no value of its hash differs by more than the tolerance from that of an earlier frame
    that was kept, whatever sequence that is in: the same view in training and validation would make scores
    too good. A damaged frame is kept, so that it is counted where the others are.
    """

    def __init__(
        self, source: Source, *, every: Every | None = None, tolerance: int = DEFAULT_TOLERANCE
    ) -> None:
        """Wrap a source.

        Args:
            source: frames.
            every: which of them to look at; None = all.
            tolerance: gray levels; 0 = keep all frames.
        """
        self.name = source.name
        self.dropped = 0
        self._source, self._every, self._tolerance = source, every or Every(), tolerance

    @property
    def count(self) -> int | None:
        return self._source.count

    def frames(self) -> Iterator[SourceFrame]:
        self.dropped = 0
        kept = np.zeros((REMEMBERED, HASH_SIDE**2), np.int16)
        count = 0
        for frame in self._every.choose(self._source.frames()):
            notes: list[str] = []
            try:
                decoded = frame.load(notes)
            except InvalidImageError:
                yield frame
                continue
            if self._tolerance:
                found = perceptual_hash(decoded.rgb)
                differences = np.abs(kept[: min(count, REMEMBERED)] - found).max(axis=1, initial=0)
                if (differences <= self._tolerance).any():
                    self.dropped += 1
                    continue
                kept[count % REMEMBERED] = found
                count += 1
            yield replace(frame, load=_loaded(decoded, notes))


def _loaded(frame: Frame, notes: list[str]) -> Load:
    def load(more: list[str]) -> Frame:
        more += notes
        return frame

    return load
