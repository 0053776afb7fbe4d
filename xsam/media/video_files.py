"""Video files as a source, by PyAV: whatever FFmpeg knows, turned as the file says, with its own stamps."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xsam.errors import InvalidImageError, SourceError
from xsam.media.frames import NS_PER_S, SourceFrame
from xsam.types.masks import MAX_IMAGE_SIDE_PX
from xsam.types.requests import Frame

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

_LISTS = frozenset({"hls", "concat", "dash", "imf", "sdp", "rtsp"})
"""Formats that name other files or addresses, which whoever wrote the file would choose."""

_HDR_CURVES = {16: "HDR10 (PQ)", 18: "HLG"}
_CUT_TOLERANCE_S = 0.5  # between the end that a file announces and the end of its last frame
_CUT_TOLERANCE = 0.02
_DISPLAY_MATRIX_BYTES = 36


class VideoFile:
    """A video file. Its first video stream counts; sound and subtitles are ignored."""

    def __init__(self, name: str, path: Path) -> None:
        """Open the file once, to see that it holds a video.

        Raises:
            SourceError: it cannot be opened, or has no video.
        """
        self.name = name
        self._path = path
        with self._opened() as (container, stream):
            self._count = _expected_frames(container, stream)

    @property
    def count(self) -> int | None:
        return self._count

    def frames(self) -> Iterator[SourceFrame]:
        import av

        index, last_ns, packets = 0, 0, 0
        suspect = False  # a frame was lost that the ones until the next keyframe build on
        with self._opened() as (container, stream):
            end_s, announced_s, announced = (
                0.0,
                _duration_s(container, stream),
                _packet_count(container, stream),
            )
            step_ns = round(NS_PER_S / (stream.average_rate or Fraction(30)))
            demuxed = container.demux(stream)
            while True:
                try:
                    packet = next(demuxed, None)
                except av.FFmpegError as error:
                    yield self._damaged(
                        index, last_ns, f"the file cannot be read any further: {_reason(error)}"
                    )
                    return
                if packet is None:
                    break
                packets += packet.size > 0
                end_s = max(end_s, _packet_end_s(packet, stream))
                try:
                    decoded: list[Any] = list(packet.decode())
                except av.FFmpegError as error:
                    yield self._damaged(index, last_ns, f"cannot be decoded: {_reason(error)}")
                    index, suspect = index + 1, True
                    continue
                for picture in decoded:
                    stamp_ns = last_ns + step_ns if index else 0
                    if picture.pts is not None and picture.time_base is not None:
                        stamp_ns = round(picture.pts * picture.time_base * NS_PER_S)
                    suspect = (suspect or picture.is_corrupt) and not picture.key_frame
                    yield self._frame(index, stamp_ns, picture, suspect)
                    index, last_ns = index + 1, stamp_ns
        if announced is not None and packets < announced:
            yield self._damaged(
                index, last_ns, f"the file is cut off: it has {packets} of {announced} frames"
            )
        elif end_s < announced_s - _CUT_TOLERANCE_S - _CUT_TOLERANCE * announced_s:
            yield self._damaged(
                index, last_ns, f"the file is cut off: it has {end_s:.1f} of {announced_s:.1f} seconds"
            )
        elif not index:
            yield self._damaged(0, 0, "the video has no frames")

    def _opened(self) -> AbstractContextManager[tuple[InputContainer, VideoStream]]:
        return open_video(self._path)

    def _frame(self, index: int, stamp_ns: int, picture: av.VideoFrame, suspect: bool) -> SourceFrame:
        def load(notes: list[str]) -> Frame:
            if picture.is_corrupt:
                raise InvalidImageError(f"{self.name}, frame {index}: the decoder found it corrupt")
            if suspect:
                notes.append("it builds on a damaged frame: parts of the picture may be wrong")
            return Frame(rgb=rgb_of_picture(picture, notes), stamp_ns=stamp_ns)

        return self._item(index, stamp_ns, load)

    def _damaged(self, index: int, stamp_ns: int, problem: str) -> SourceFrame:
        def load(notes: list[str]) -> Frame:
            raise InvalidImageError(f"{self.name}, frame {index}: {problem}")

        return self._item(index, stamp_ns, load)

    def _item(self, index: int, stamp_ns: int, load: Any) -> SourceFrame:
        return SourceFrame(
            source=self.name,
            sequence=self.name,
            index=index,
            name=f"{self._path.stem}_{index:06d}",
            stamp_ns=stamp_ns,
            load=load,
        )


@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video file and its first video stream; nothing but this file is read.

    Raises:
        SourceError: it cannot be opened, or has no video.
    """
    import av

    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise SourceError(f"{path} is not a regular file")
        # Without the prefix, a file named concat:… would be an instruction to FFmpeg.
        container = av.open(f"file:{path.absolute()}", options={"protocol_whitelist": "file"})
    except av.FFmpegError as error:
        empty = path.is_file() and path.stat().st_size == 0
        reason = "it is empty" if empty else _reason(error)
        raise SourceError(
            f"{path} cannot be opened as a video: {reason}",
            hint="an MP4 whose recording was not finished has no index: record MKV, or repair the file",
        ) from error
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    with container:
        if _LISTS & set(container.format.name.split(",")):
            raise SourceError(
                f"{path} is a list of other files, not a video", hint="give the videos themselves"
            )
        yield container, first_stream(str(path), container)


def first_stream(name: str, container: InputContainer) -> VideoStream:
    """Return the first video stream.

    Raises:
        SourceError: there is none, or it is too large.
    """
    if not container.streams.video:
        raise SourceError(f"{name} has no video stream")
    stream = container.streams.video[0]
    if max(stream.width, stream.height) > MAX_IMAGE_SIDE_PX:
        raise SourceError(
            f"{name} is {stream.width}×{stream.height}, sides up to {MAX_IMAGE_SIDE_PX} px are allowed"
        )
    return stream


def rgb_of_picture(picture: av.VideoFrame, notes: list[str]) -> NDArray[np.uint8]:
    """Convert a decoded picture to RGB (H, W, 3), turned as it is to be shown."""
    curve = _HDR_CURVES.get(int(getattr(picture, "color_trc", 0) or 0))
    if curve:
        notes.append(f"the video is {curve}: its colors are paler here than on a screen for it")
    pixels: Any = picture.to_ndarray(format="rgb24")
    matrix: Any = picture.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return np.ascontiguousarray(pixels, np.uint8)
    return np.ascontiguousarray(_turned(pixels, bytes(matrix), notes))


def _turned(pixels: NDArray[np.uint8], matrix: bytes, notes: list[str]) -> NDArray[np.uint8]:
    """Turn and mirror pixels as a display matrix says: (x', y') = (a x + c y, b x + d y)."""
    if len(matrix) != _DISPLAY_MATRIX_BYTES:
        return pixels
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    if ((a or d) and (b or c)) or not ((a and d) or (b and c)):
        notes.append(
            "the video is to be shown turned by an angle that is no multiple of 90°: it is not turned"
        )
        return pixels
    if b and c:
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _expected_frames(container: InputContainer, stream: VideoStream) -> int | None:
    if count := _packet_count(container, stream):
        return count
    duration_s = _duration_s(container, stream) or float(container.duration or 0) / 1e6
    rate_hz = stream.average_rate
    return round(duration_s * float(rate_hz)) if duration_s and rate_hz else None


def _packet_count(container: InputContainer, stream: VideoStream) -> int | None:
    """Return the number of frames that the index of an MP4 or MOV file lists; other indices say less."""
    return stream.frames or None if "mov" in container.format.name.split(",") else None


def _duration_s(container: InputContainer, stream: VideoStream) -> float:
    """Return the length of the video stream, 0 = the file does not say."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base) + _start_s(stream)
    if len(container.streams) == 1 and container.duration:
        return float(container.duration) / 1e6 + _start_s(stream)
    return 0.0


def _start_s(stream: VideoStream) -> float:
    return float((stream.start_time or 0) * (stream.time_base or 0))


def _packet_end_s(packet: Packet[VideoStream], stream: VideoStream) -> float:
    if packet.pts is None or stream.time_base is None:
        return 0.0
    return float((packet.pts + (packet.duration or 0)) * stream.time_base)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
