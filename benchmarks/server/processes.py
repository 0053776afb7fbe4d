"""Server processes of a benchmark, and what they are asked."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import httpx
import numpy as np
import psutil

from xsam import Frame
from xsam.sim import render, sample_scene

ROOT = Path(__file__).resolve().parents[2]
START_WITHIN_S = 300.0


@dataclass(slots=True, kw_only=True)
class ServerProgram:
    """A server in a process of its own, which may be killed and started again."""

    kind: str
    port: int
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def rss_mib(self) -> float:
        """Resident memory of the process."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * 4096 / 2**20

    @property
    def cpu_s(self) -> float:
        """Processor time of the process and of those that it has started so far."""
        process = psutil.Process(self.process.pid)
        spent_s = 0.0
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
                times = one.cpu_times()
                spent_s += times.user + times.system
        return spent_s

    def kill_and_restart(self) -> None:
        """End it as a crash does, and wait until a new one answers."""
        self.process.kill()
        self.process.wait()
        self.process = _start(self.kind, self.port, self.log)
        self.wait()

    def wait(self) -> None:
        """Wait until the model is loaded."""
        until_s = time.monotonic() + START_WITHIN_S
        path = "/healthz" if self.kind == "plain" else "/readyz"
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(self.url + path, trust_env=False).status_code == 200:
                    return
            if self.process.poll() is not None or time.monotonic() > until_s:
                raise RuntimeError(f"the server {self.kind} did not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.1)


@contextlib.contextmanager
def server_process(kind: str, folder: Path) -> Iterator[ServerProgram]:
    """Run a server, and wait until it answers."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    log = folder / f"{kind}.log"
    server = ServerProgram(kind=kind, port=port, log=log, process=_start(kind, port, log))
    try:
        server.wait()
        yield server
    finally:
        server.process.terminate()
        try:
            server.process.wait(30.0)
        except subprocess.TimeoutExpired:
            server.process.kill()
            server.process.wait()


def _start(kind: str, port: int, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "benchmarks.server.program", kind, str(port)]
    with log.open("ab") as output:
        return subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)


def camera_frames(count: int) -> list[Frame]:
    """Return frames of 640×480 as a camera publishes them, with their JPEG files."""
    frames = []
    for seed in range(count):
        rgb = render(sample_scene(3_000_000 + seed % 20)).rgb.copy()
        rgb[:4, :4] = seed % 256  # so that each is another frame
        rgb[4:8, :4] = seed // 256
        done, file = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
        assert done
        decoded = cv2.imdecode(file, cv2.IMREAD_COLOR)[..., ::-1]
        frames.append(Frame(rgb=np.ascontiguousarray(decoded), encoded=file.tobytes()))
    return frames
