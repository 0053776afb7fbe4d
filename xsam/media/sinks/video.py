"""Overlays as a video, with the time stamps of the source."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xsam.media.sinks.base import SegmentedFrame, Sink, overlay

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

_MS = Fraction(1, 1000)
_ENCODERS: tuple[tuple[str, dict[str, str]], ...] = (
    ("libx264", {"preset": "veryfast", "crf": "20", "bf": "0", "g": "60"}),
    ("libopenh264", {"g": "60", "b": "6000000"}),
    ("mpeg4", {"qscale": "3", "bf": "0", "g": "60"}),
)
_LONGEST_GAP_MS = 60_000
"""A longer gap between two frames is shortened to this: nobody waits for it, and players stumble."""


class VideoSink(Sink):
    """One MP4 file per sequence of the source: `overlay.mp4`, and `overlay_NAME.mp4` for each further one.

    The file is in fragments: written to disk as it grows, without an index in memory. A change of size starts
    another file. Until it is complete it has another name.
    """

    needs_all_frames = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sequence: tuple[str, tuple[int, int]] | None = None
        self._writer: _VideoWriter | None = None
        self._paths: list[Path] = []

    def add(self, item: SegmentedFrame) -> None:
        pixels = overlay(item)
        current = (item.source.sequence, item.frame.image_hw)
        if self._writer is None or current != self._sequence:
            self._close()
            self._sequence = current
            self._writer = _VideoWriter(self._new_path(item.source.sequence), item.frame.image_hw)
        self._writer.add(pixels, item.source.stamp_ns)

    def finish(self, entries: Callable[[], Iterable[dict[str, Any]]]) -> list[Path]:
        self._close()
        return self._paths

    def abandon(self) -> None:
        if self._writer is not None:
            self._writer.abandon()

    def _close(self) -> None:
        if self._writer is not None:
            self._paths.append(self._writer.close())
            self._writer = None

    def _new_path(self, sequence: str) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self._paths:
            return self._folder / "overlay.mp4"
        stem = re.sub(r"\W+", "_", Path(sequence).stem).strip("_")[:60] or "video"
        taken = {path.name for path in self._paths}
        names = (f"overlay_{stem}{f'_{n}' if n > 1 else ''}.mp4" for n in range(1, len(taken) + 2))
        return self._folder / next(name for name in names if name not in taken)


class _VideoWriter:
    """One file, under another name until it is closed."""

    def __init__(self, path: Path, image_hw: tuple[int, int]) -> None:
        import av

        self._path, self._draft = path, path.with_name(f".{path.name}.part")
        self._shape = tuple(side + side % 2 for side in image_hw)  # 4:2:0 needs even sides
        self._container: OutputContainer = av.open(
            str(self._draft),
            "w",
            format="mp4",
            options={"movflags": "frag_keyframe+empty_moov+default_base_moof"},
        )
        name, options = next(pair for pair in _ENCODERS if pair[0] in av.codecs_available)
        stream: Any = self._container.add_stream(name, rate=30, options=options)
        stream.height, stream.width = self._shape
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = _MS
        self._stream: VideoStream = stream
        self._zero_ns: int | None = None  # stamp of the beginning of the file
        self._pts = 0

    def add(self, pixels: NDArray[np.uint8], stamp_ns: int) -> None:
        import av

        if self._zero_ns is None:
            self._zero_ns, pts = stamp_ns, 0
        else:
            pts = round((stamp_ns - self._zero_ns) / 1e6)
            # A clock that stands still or jumps back: the frames are still shown in their order.
            shown = min(max(pts, self._pts + 1), self._pts + _LONGEST_GAP_MS)
            self._zero_ns += (pts - shown) * 1_000_000
            pts = shown
        self._pts = pts
        height, width = pixels.shape[:2]
        padded = np.pad(
            pixels, ((0, self._shape[0] - height), (0, self._shape[1] - width), (0, 0)), mode="edge"
        )
        picture = av.VideoFrame.from_ndarray(padded, format="rgb24")
        picture.pts, picture.time_base = self._pts, _MS
        self._mux(picture)

    def close(self) -> Path:
        self._mux(None)
        self._container.close()
        with self._draft.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(self._draft, self._path)
        return self._path

    def abandon(self) -> None:
        with suppress(Exception):
            self._container.close()
        with suppress(OSError):
            self._draft.unlink()

    def _mux(self, picture: Any) -> None:
        import av

        try:
            for packet in self._stream.encode(picture):
                self._container.mux(packet)
        except av.FFmpegError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error
