"""Streams from a server of this test: the newest frame, ends, failures, and what may be opened at all."""

from __future__ import annotations

import functools
import http.server
import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.unit.media.clips import scene, write_video
from xsam.errors import SourceError
from xsam.media import live
from xsam.media.options import SourceOptions
from xsam.media.sources import open_sources

NETWORK = SourceOptions(allow_network=True)
GRAYS = 200


class Camera(http.server.SimpleHTTPRequestHandler):
    """`/live` is motion JPEG without an end: frame n has the gray value n; other paths are files."""

    def do_GET(self) -> None:
        if self.path != "/live":
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for number in range(GRAYS):
            buffer = io.BytesIO()
            Image.new("RGB", (64, 48), (number, number, number)).save(buffer, "JPEG", quality=95)
            content = buffer.getvalue()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(content)}\r\n\r\n"
            try:
                self.wfile.write(head.encode() + content + b"\r\n")
            except OSError:
                return
            time.sleep(0.02)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    write_video(folder / "clip.mp4", [scene(step) for step in range(6)], options={"movflags": "faststart"})
    (folder / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:9,\nfile://{folder}/clip.mp4\n#EXT-X-ENDLIST\n")
    handler = functools.partial(Camera, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_addresses_need_the_flag(address: str) -> None:
    with pytest.raises(SourceError, match="with --network only"):
        open_sources([f"{address}/clip.mp4"], SourceOptions())


def test_every_frame_of_a_video_at_an_address(address: str) -> None:
    source = open_sources([f"{address}/clip.mp4"], NETWORK)
    frames = list(source.frames())
    assert source.count == 6
    assert frames[0].source == f"{address}/clip.mp4"
    assert [frame.name for frame in frames] == [f"clip_{number:06d}" for number in range(6)]
    assert np.abs(frames[4].load([]).rgb.astype(int) - scene(4)).mean() < 6


def test_a_password_is_not_kept(address: str) -> None:
    with_password = address.replace("//", "//me:secret@")
    for path in ("clip.mp4", "live"):
        source = open_sources([f"{with_password}/{path}"], NETWORK)
        frame = next(iter(source.frames()))
        assert "secret" not in source.name + frame.source + frame.sequence + frame.name


def test_the_newest_frame_of_a_stream(address: str) -> None:
    source = open_sources([f"{address}/live"], NETWORK)
    assert source.count is None
    grays, stamps = [], []
    for frame in source.frames():
        grays.append(int(frame.load([]).rgb.mean()))
        stamps.append(frame.stamp_ns)
        if len(grays) == 4:
            break
        time.sleep(0.3)  # a slow model
    steps = np.diff(grays)
    assert (steps >= 5).all()
    assert (np.diff(stamps) > 150_000_000).all()


def test_a_stream_that_is_silent_is_given_up(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "TIMEOUT_S", 0.5)
    monkeypatch.setattr(Camera, "do_GET", lambda self: time.sleep(3))
    with pytest.raises(SourceError, match=r"cannot be opened|no frame has come"):
        list(open_sources([f"{address}/live"], NETWORK).frames())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{}/gone.mp4", "cannot be opened"),
        ("file:///etc/passwd", "addresses with file:// are not opened"),
        ("concat://a", "addresses with concat:// are not opened"),
        ("http://user:secret@127.0.0.1:1/a.mp4", "http://127.0.0.1:1/a.mp4 cannot be opened"),
        ("/dev/video99", "there is no camera /dev/video99"),
        ("99", "there is no camera /dev/video99"),
    ],
)
def test_what_cannot_be_opened(address: str, name: str, message: str) -> None:
    with pytest.raises(SourceError, match=message) as raised:
        list(open_sources([name.format(address)], NETWORK).frames())
    assert "secret" not in str(raised.value)


def test_a_playlist_does_not_lead_to_local_files(address: str) -> None:
    with pytest.raises(SourceError, match="cannot be opened"):
        list(open_sources([f"{address}/list.m3u8"], NETWORK).frames())


def test_a_file_with_the_name_of_a_camera_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(scene(0)).save(tmp_path / "0", "PNG")
    assert [frame.name for frame in open_sources(["0"], SourceOptions()).frames()] == ["0"]
