"""Sinks with one image per frame: overlays, label images, and the frames themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.media.image_files import write_image
from xsam.media.sinks.base import SegmentedFrame, Sink, merged, overlay

MAX_LABELS = 65_535


class OverlaySink(Sink):
    """Overlays as `overlays/NAME.png`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "overlays"

    def add(self, item: SegmentedFrame) -> None:
        write_image(self._folder / f"{item.source.name}.png", overlay(item))

    def finish(self, entries: Callable[[], Iterable[dict[str, Any]]]) -> list[Path]:
        return [self._folder] if self._folder.exists() else []


class LabelImageSink(Sink):
    """Label images as `masks/NAME.png`, 16 bits: 0 = nothing, n = the n-th segment of the frame's results.

    With tracks, n is the track id. The better score wins where two segments overlap.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "masks"
        self._overflowed = 0

    def add(self, item: SegmentedFrame) -> None:
        if not item.answered:
            return
        segments = merged(item.results, item.frame.image_hw)
        labels: NDArray[np.uint16] = segments.label_map()
        ids = segments.track_ids
        if len(segments) and ids.all():
            self._overflowed += int((ids > MAX_LABELS).any())
            values = np.concatenate([[0], np.where(ids > MAX_LABELS, 0, ids)]).astype(np.uint16)
            labels = values[labels]
        write_image(self._folder / f"{item.source.name}.png", labels)

    def finish(self, entries: Callable[[], Iterable[dict[str, Any]]]) -> list[Path]:
        return [self._folder] if self._folder.exists() else []

    def notes(self) -> list[str]:
        if not self._overflowed:
            return []
        return [f"{self._overflowed} label images lack objects with track ids above {MAX_LABELS}"]


class FrameSink(Sink):
    """The frames as `images/NAME.jpg`: what the annotations of COCO and YOLO refer to.

    They are written even if the source is a picture: masks belong to the pixels as they are shown, while
    annotation files refer to the pixels as they are stored.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "images"

    def add(self, item: SegmentedFrame) -> None:
        if item.answered:
            write_image(self._folder / f"{item.source.name}.jpg", item.frame.rgb)

    def finish(self, entries: Callable[[], Iterable[dict[str, Any]]]) -> list[Path]:
        return [self._folder] if self._folder.exists() else []
