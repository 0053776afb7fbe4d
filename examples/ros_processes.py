"""Starts ROS nodes as processes of their own and ends them politely."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

_PATIENCE_S = 5.0


class RosProcesses:
    """Nodes started with `python -m`; all are stopped when the `with` block ends."""

    def __init__(self, *, log_dir: Path) -> None:
        self._log_dir = log_dir
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._running)

    def start(self, name: str, module: str, *ros_args: object) -> None:
        """Start a module with `--ros-args …`; its output goes to `<log_dir>/<name>.log`."""
        environment = {
            **os.environ,
            "ROS_LOG_DIR": str(self._log_dir.resolve() / "ros"),
            "PYTHONUNBUFFERED": "1",
        }
        with (self._log_dir / f"{name}.log").open("wb") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", module, "--ros-args", *map(str, ros_args)],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )

    def stop(self, name: str, *, sign: signal.Signals = signal.SIGINT) -> None:
        """End one process; `SIGKILL` ends it without a chance to say goodbye."""
        _end([self._running.pop(name)], first=sign)

    def resident_mb(self, name: str) -> float:
        """Memory of a process in MB (10^6 bytes)."""
        status = Path(f"/proc/{self._running[name].pid}/status").read_text(encoding="ascii")
        return int(status.split("VmRSS:")[1].split()[0]) * 1024 / 1e6

    def check(self) -> None:
        """Raise if a process has ended by itself."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise RuntimeError(
                    f"{name} ended with code {process.returncode}; see {self._log_dir / f'{name}.log'}"
                )

    def __enter__(self) -> RosProcesses:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _end(list(self._running.values()))


def _end(processes: list[subprocess.Popen[bytes]], *, first: signal.Signals = signal.SIGINT) -> None:
    # The first SIGINT may get lost inside the middleware, hence the second.
    for sign in (first, signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        alive = [process for process in processes if process.poll() is None]
        for process in alive:
            os.killpg(process.pid, sign)
        for process in alive:
            try:
                process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                continue
