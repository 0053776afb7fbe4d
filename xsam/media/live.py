"""Cameras and addresses, by PyAV. Of what arrives live, the newest frame is used, the others are skipped."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xsam.errors import SourceError
from xsam.media.frames import SourceFrame
from xsam.media.video_files import VideoFile, first_stream, rgb_of_picture
from xsam.types.requests import Frame

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

TIMEOUT_S = 10.0
"""How long opening, or one frame, may take."""

# What an address may lead to: never to a local file.
_PROTOCOLS = {
    "http": "http,https,tcp,tls,crypto,httpproxy",
    "https": "http,https,tcp,tls,crypto,httpproxy",
    "rtsp": "rtsp,rtsps,rtp,rtcp,udp,tcp,tls,srtp,http,https",
    "rtsps": "rtsp,rtsps,rtp,rtcp,udp,tcp,tls,srtp,http,https",
    "rtmp": "rtmp,tcp",
    "udp": "udp",
    "tcp": "tcp",
    "srt": "srt,udp",
}


class NetworkVideo(VideoFile):
    """A video at an address, which has an end: every frame is used."""

    def __init__(self, address: str) -> None:
        """Open the address once; see `VideoFile`."""
        self._address = address
        super().__init__(without_password(address), Path(address.partition("?")[0]))

    @contextmanager
    def _opened(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        with _open_address(self._address) as container:
            yield container, first_stream(self.name, container)


class LiveVideo:
    """A camera, or a stream without an end; every call of `frames` opens it anew."""

    count = None

    def __init__(self, name: str) -> None:
        """Remember what to open: "0", "/dev/video0", or an address."""
        self.name, self._address = without_password(name), name
        self._stem = re.sub(r"\W+", "_", name.rpartition("@")[2]).strip("_")[:60] or "camera"

    def frames(self) -> Iterator[SourceFrame]:
        """Yield the newest frame whenever one is asked for, each at most once.

        Raises:
            SourceError: it cannot be opened, or no frame has come for `TIMEOUT_S`.
        """
        newest = _Newest()
        thread = threading.Thread(target=self._receive, args=(newest,), daemon=True)
        thread.start()
        index = 0
        try:
            while (received := newest.take(TIMEOUT_S)) is not None:
                yield self._frame(index, *received)
                index += 1
        finally:
            newest.stop()
            thread.join(TIMEOUT_S)

    def _receive(self, newest: _Newest) -> None:
        """Decode until nobody wants more; runs in a thread."""
        import av

        try:
            opened = _open_address(self._address) if "://" in self.name else _open_camera(self.name)
            with opened as container:
                first_stream(self.name, container)
                for picture in container.decode(video=0):
                    if not newest.put(time.time_ns(), picture):
                        return
            newest.end(None)
        except SourceError as error:
            newest.end(error)
        except (av.FFmpegError, OSError) as error:
            newest.end(SourceError(f"{self.name} ended: {error}"))

    def _frame(self, index: int, stamp_ns: int, picture: Any) -> SourceFrame:
        def load(notes: list[str]) -> Frame:
            return Frame(rgb=rgb_of_picture(picture, notes), stamp_ns=stamp_ns, camera=self._stem)

        return SourceFrame(
            source=self.name,
            sequence=self._stem,
            index=index,
            name=f"{self._stem}_{index:06d}",
            stamp_ns=stamp_ns,
            load=load,
        )


def open_live(name: str) -> NetworkVideo | LiveVideo:
    """Open an address or a camera.

    Raises:
        SourceError: it cannot be opened, or the kind of address is not known.
    """
    if "://" not in name:
        return LiveVideo(name)
    with _open_address(name) as container:
        first_stream(without_password(name), container)
        has_end = (container.duration or 0) > 0
    return NetworkVideo(name) if has_end else LiveVideo(name)


class _Newest:
    """One frame, which the next one replaces."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frame: tuple[int, Any] | None = None
        self._ended = self._stopped = False
        self._error: SourceError | None = None

    def put(self, stamp_ns: int, picture: Any) -> bool:
        """Offer a frame; False = no more are wanted."""
        with self._changed:
            self._frame = (stamp_ns, picture)
            self._changed.notify_all()
            return not self._stopped

    def end(self, error: SourceError | None) -> None:
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def stop(self) -> None:
        self._stopped = True

    def take(self, timeout_s: float) -> tuple[int, Any] | None:
        """Wait for a frame that was not taken yet; None = there will be none.

        Raises:
            SourceError: the source failed, or no frame has come in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._frame is not None or self._ended, timeout_s):
                raise SourceError(f"no frame has come for {timeout_s:g} s")
            frame, self._frame = self._frame, None
            if frame is None and self._error is not None:
                raise self._error
            return frame


def _open_address(name: str) -> InputContainer:
    import av

    scheme = name.partition("://")[0].lower()
    if scheme not in _PROTOCOLS:
        raise SourceError(
            f"addresses with {scheme}:// are not opened", hint=f"known: {', '.join(_PROTOCOLS)}"
        )
    options = {"protocol_whitelist": _PROTOCOLS[scheme]}
    if scheme.startswith("rtsp"):
        options["rtsp_transport"] = "tcp"  # without lost packets
    try:
        return av.open(name, options=options, timeout=TIMEOUT_S)
    except (av.FFmpegError, OSError) as error:
        raise SourceError(f"{without_password(name)} cannot be opened: {error.strerror or error}") from error


def _open_camera(name: str) -> InputContainer:
    import av

    device = f"/dev/video{name}" if name.isdecimal() else name
    if not Path(device).exists():
        present = sorted(str(path) for path in Path("/dev").glob("video*"))
        raise SourceError(f"there is no camera {device}", hint=f"there are: {', '.join(present) or 'none'}")
    try:
        return av.open(device, format="v4l2", timeout=TIMEOUT_S)
    except (av.FFmpegError, OSError) as error:
        raise SourceError(f"the camera {device} cannot be opened: {error.strerror or error}") from error


def without_password(name: str) -> str:
    """Return an address without its password."""
    return re.sub(r"//[^/@]*@", "//", name)
