"""ROS tests: real nodes in processes of their own, real DDS, nothing of it visible outside this run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 30.0  # a node starts in 2 s, and in 20 s when nine programs share its core

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of ROS's own old dependencies, when they load
        import domain_coordinator
        import rclpy
        import rosidl_generator_py  # noqa: F401

        import xsam_ros.msg  # noqa: F401
except ImportError as error:
    MISSING = f"no ROS environment ({error}); run scripts/ros/build.sh, then source scripts/ros/env.sh"
else:
    MISSING = ""

T = TypeVar("T")


class _SkippedModule(pytest.Module):
    def collect(self) -> Iterator[pytest.Item]:
        pytest.skip(MISSING, allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Skip a whole file where ROS is missing, because the imports at its top would fail."""
    return _SkippedModule.from_parent(parent, path=module_path) if MISSING else None


@pytest.fixture(scope="session", autouse=True)
def ros_isolation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A domain of our own on this machine only; the profile without which images get lost."""
    with domain_coordinator.domain_id() as domain, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        patch.delenv("ROS_LOCALHOST_ONLY", raising=False)
        patch.setenv("ROS_LOG_DIR", str(tmp_path_factory.mktemp("ros_log")))
        patch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", str(ROOT / "config" / "fastdds_large_images.xml"))
        yield


class Process:
    """A node in a process of its own, with its output kept."""

    def __init__(self, arguments: list[str], log: Path, exit_code: int) -> None:
        self.expected_exit_code = exit_code
        self._log = log
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                arguments, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    @property
    def resident_mb(self) -> float:
        status = Path(f"/proc/{self._popen.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        return self._popen.wait(timeout_s)

    def interrupt(self) -> None:
        os.killpg(self._popen.pid, signal.SIGINT)

    def stop(self) -> int:
        """Interrupt, then ask, then kill; returns the exit code."""
        for signal_number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if not self.running:
                break
            os.killpg(self._popen.pid, signal_number)
            try:
                self._popen.wait(10.0)  # the interpreter takes 7 s to end on a busy machine, with PyTorch
            except subprocess.TimeoutExpired:
                continue
        return self._popen.returncode


def _spawner(folder: Path) -> Iterator[Callable[..., Process]]:
    processes: list[Process] = []

    def spawn(*arguments: str, params: dict[str, Any] | None = None, exit_code: int = 0) -> Process:
        command = [sys.executable, *arguments]
        if params is not None:
            command.append("--ros-args")
            for name, value in params.items():
                command += ["-p", f"{name}:={value}"]
        process = Process(command, folder / f"process{len(processes)}.log", exit_code)
        processes.append(process)
        return process

    yield spawn
    for process in processes:
        code = process.stop()
        assert code == process.expected_exit_code, f"exit code {code}:\n{process.output}"


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start `python <arguments>`; it has to end with the right exit code when it is interrupted."""
    yield from _spawner(tmp_path)


@pytest.fixture(scope="module")
def module_spawn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Process]]:
    yield from _spawner(tmp_path_factory.mktemp("processes"))


class Ros:
    """A context, a node and a spinning thread for the side of the test."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(args=[], context=self.context)
        self.node = rclpy.create_node(f"test_{time.monotonic_ns()}", context=self.context)
        self._executor = rclpy.executors.SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def _spin(self) -> None:
        while not self._stopping.is_set():
            self._executor.spin_once(timeout_sec=0.05)

    def close(self) -> None:
        self._stopping.set()
        self._thread.join(PATIENCE_S)
        self._executor.shutdown(timeout_sec=1.0)
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)

    def call(self, service_type: Any, name: str, request: Any, *, timeout_s: float = PATIENCE_S) -> Any:
        """Call a service; fails the test instead of waiting for ever."""
        client = self.node.create_client(service_type, name)
        try:
            eventually(client.service_is_ready, f"service {name}")
            future = client.call_async(request)
            eventually(future.done, f"answer of {name}", timeout_s)
            return future.result()
        finally:
            self.node.destroy_client(client)

    def collect(self, message_type: Any, topic: str, qos: Any = 10) -> list[Any]:
        """Subscribe; the returned list fills up."""
        received: list[Any] = []
        self.node.create_subscription(message_type, topic, received.append, qos)
        return received


@pytest.fixture
def ros() -> Iterator[Ros]:
    side = Ros()
    yield side
    side.close()


@pytest.fixture(scope="module")
def module_ros() -> Iterator[Ros]:
    side = Ros()
    yield side
    side.close()


def eventually(condition: Callable[[], T], what: str, timeout_s: float = PATIENCE_S) -> T:
    """Poll until the condition is true and return its value."""
    until = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < until, f"{what}: not within {timeout_s} s"
        time.sleep(0.01)


@pytest.fixture(name="eventually", scope="session")
def _eventually() -> Callable[..., Any]:
    return eventually
