"""ROS tests: real nodes in separate processes, over real DDS, invisible outside this run."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from support.polling import poll_until
from support.processes import NodeProcess, parameter_arguments

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 30.0  # a node starts in 2 s, and in 20 s when nine programs share its core

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of ROS's own old dependencies, when they load
        import domain_coordinator
        import rosidl_generator_py  # noqa: F401

        import xsam_ros.msg  # noqa: F401
        from support.ros_peer import RosPeer
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
    """Use a private, local-only domain, and the profile without which images get lost."""
    with domain_coordinator.domain_id() as domain, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        patch.delenv("ROS_LOCALHOST_ONLY", raising=False)
        patch.setenv("ROS_LOG_DIR", str(tmp_path_factory.mktemp("ros_log")))
        patch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", str(ROOT / "config" / "fastdds_large_images.xml"))
        yield


def _spawner(folder: Path) -> Iterator[Callable[..., NodeProcess]]:
    processes: list[NodeProcess] = []

    def spawn(*arguments: str, params: dict[str, Any] | None = None, exit_code: int = 0) -> NodeProcess:
        command = [sys.executable, *arguments]
        if params is not None:
            command += ["--ros-args", *parameter_arguments(params)]
        log = folder / f"process{len(processes)}.log"
        processes.append(NodeProcess(command, log=log, cwd=ROOT, exit_code=exit_code))
        return processes[-1]

    yield spawn
    for process in processes:
        code = process.stop()
        assert code == process.expected_exit_code, f"exit code {code}:\n{process.output}"


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Callable[..., NodeProcess]]:
    """Start `python <arguments>`; it must end with the right exit code when interrupted."""
    yield from _spawner(tmp_path)


@pytest.fixture(scope="module")
def module_spawn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., NodeProcess]]:
    yield from _spawner(tmp_path_factory.mktemp("processes"))


@pytest.fixture
def ros() -> Iterator[RosPeer]:
    """Create a ROS node for the test's side."""
    with RosPeer() as peer:
        yield peer


@pytest.fixture(scope="module")
def module_ros() -> Iterator[RosPeer]:
    with RosPeer() as peer:
        yield peer


def eventually(condition: Callable[[], T], description: str, timeout_s: float = PATIENCE_S) -> T:
    """Poll until the condition is true and return its value."""
    return poll_until(condition, description, timeout_s=timeout_s)


@pytest.fixture(name="eventually", scope="session")
def _eventually() -> Callable[..., Any]:
    return eventually
