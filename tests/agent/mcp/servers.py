"""Server processes for tests."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
PATIENCE_S = 60.0
SLOW_SERVER = Path(__file__).with_name("slow_server.py")


class ServerProcess:
    """A server process, and what it has written to its standard error."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def errors(self) -> str:
        """What the process has written to its standard error."""
        return self._log.read_text()

    @property
    def url(self) -> str:
        """The address that the process has printed."""
        return self.errors.split("xsam: MCP on ")[1].split()[0]

    def wait_for(self, text: str) -> None:
        """Wait until the process has written a text to its standard error."""
        until = time.monotonic() + PATIENCE_S
        while text not in self.errors:
            assert self.process.poll() is None, self.errors
            assert time.monotonic() < until, f"the server did not write {text!r}"
            time.sleep(0.02)

    def seconds_until_it_ends(self) -> float:
        """Wait for the end of the process and return how long that took."""
        began = time.monotonic()
        self.process.wait(PATIENCE_S)
        return time.monotonic() - began


@contextlib.contextmanager
def server_process(
    log: Path, *arguments: str, program: str = sys.executable, **streams: Any
) -> Iterator[ServerProcess]:
    """Run Python with these arguments; kill it at the end if it is still running."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [program, *arguments],
            stderr=errors,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
            **{"stdin": subprocess.DEVNULL, **streams},
        )
    try:
        yield ServerProcess(process, log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
