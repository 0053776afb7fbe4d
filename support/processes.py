"""Run ROS nodes in processes of their own, and stop them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

_STOP_SIGNALS = (signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGKILL)  # DDS may swallow one SIGINT
_STOP_TIMEOUT_S = 10.0  # the interpreter takes up to 7 s to exit on a busy machine once PyTorch is loaded


class NodeProcess:
    """A process with its own process group whose output goes to a log file."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        exit_code: int = 0,
    ) -> None:
        """Start the process.

        Args:
            env: all variables of the process; default: those of this process.
            cwd: default: that of this process.
            exit_code: what the process is expected to exit with; callers compare it to what `stop` returns.
        """
        self.expected_exit_code = exit_code
        self.log = log
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                command,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**(os.environ if env is None else env), "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """Text that the process has written so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    @property
    def running(self) -> bool:
        """True until the process has exited."""
        return self._popen.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Exit code, None while the process runs; -N after signal N."""
        return self._popen.poll()

    @property
    def resident_mb(self) -> float:
        """Resident memory in MB (10^6 bytes)."""
        status = Path(f"/proc/{self._popen.pid}/status").read_text(encoding="ascii")
        return int(status.split("VmRSS:")[1].split()[0]) * 1024 / 1e6

    def wait(self, timeout_s: float = 30.0) -> int:
        """Wait for the process to exit by itself, and return its exit code."""
        return self._popen.wait(timeout_s)

    def send_signal(self, signal_number: signal.Signals) -> None:
        """Send a signal to the process and its children."""
        os.killpg(self._popen.pid, signal_number)

    def interrupt(self) -> None:
        """Do what Ctrl-C in a terminal does."""
        self.send_signal(signal.SIGINT)

    def stop(self, *, first: signal.Signals = signal.SIGINT) -> int:
        """Stop the process, by force if it has to be, and return its exit code."""
        stop_all([self], first=first)
        return self._popen.returncode


def stop_all(processes: Iterable[NodeProcess], *, first: signal.Signals = signal.SIGINT) -> None:
    """Stop processes together: `first`, then stronger signals for those that are still running."""
    remaining = list(processes)
    for signal_number in (first, *_STOP_SIGNALS[1:]):
        remaining = [process for process in remaining if process.running]
        for process in remaining:
            process.send_signal(signal_number)
        for process in remaining:
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                continue


class NodeProcesses:
    """Named nodes started with `python -m`; all are stopped when the `with` block ends."""

    def __init__(self, *, log_dir: Path, env: Mapping[str, str] | None = None) -> None:
        self._log_dir = log_dir
        ros_log_dir = str(log_dir.resolve() / "ros")
        self._env = {**(os.environ if env is None else env), "ROS_LOG_DIR": ros_log_dir}
        self._processes: dict[str, NodeProcess] = {}

    def __enter__(self) -> NodeProcesses:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stop_all(self._processes.values())

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the processes that were started and not stopped."""
        return tuple(self._processes)

    def start(self, name: str, module: str, *ros_args: object) -> None:
        """Start `python -m module --ros-args …`; its output goes to `<log_dir>/<name>.log`."""
        command = [sys.executable, "-m", module, "--ros-args", *map(str, ros_args)]
        self._processes[name] = NodeProcess(command, log=self._log_dir / f"{name}.log", env=self._env)

    def stop(self, name: str, *, first: signal.Signals = signal.SIGINT) -> None:
        """Stop one process; with SIGKILL it gets no chance to clean up."""
        self._processes.pop(name).stop(first=first)

    def resident_mb(self, name: str) -> float:
        """Resident memory of a process in MB (10^6 bytes)."""
        return self._processes[name].resident_mb

    def check(self) -> None:
        """Raise RuntimeError if a process has exited by itself."""
        for name, process in self._processes.items():
            if not process.running:
                raise RuntimeError(f"{name} exited with code {process.exit_code}; see {process.log}")


def use_private_domain() -> None:
    """Set a ROS domain that other programs on this machine hardly use, unless the caller has set one."""
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))


def parameter_arguments(parameters: Mapping[str, object]) -> list[str]:
    """Return ROS arguments that set these parameters: `-p name:=value …`."""
    return [text for name, value in parameters.items() for text in ("-p", f"{name}:={value}")]
