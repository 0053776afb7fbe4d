"""SIGINT and SIGTERM end the node in every stage of its life, soon, with exit code 0 and without a trace."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.ros.node_client import NodeClient
from xsam_ros.runtime.shared_memory import remove_leftovers

Spawn = Callable[..., Any]
Eventually = Callable[..., Any]
_LOCKS = f"fastrtps_{'[0-9a-f]' * 16}_el"  # of segments; those of ports belong to all processes
_LIMIT_S = 4.0  # 2 s on a machine of its own; the tests share its cores with other programs


def _assert_ends(process: Any, number: signal.Signals) -> None:
    started_s = time.monotonic()
    process.send_signal(number)
    code = process.wait()
    took_s = time.monotonic() - started_s
    assert (code, "Traceback" in process.output) == (0, False), process.output
    for trace in ("RCLError", "terminate called", "core dumped", "Fatal"):
        assert trace not in process.output, process.output
    assert took_s < _LIMIT_S, f"{took_s:.1f} s"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_while_the_model_loads(
    spawn: Spawn, ros: Any, eventually: Eventually, number: signal.Signals
) -> None:
    """It took 31 s and ended in SIGABRT, or with a traceback of rclpy."""
    process = spawn("tests/ros/color_node.py", params={"model": "endless"})
    eventually(lambda: NodeClient(ros).state == "configuring", "loading to begin")
    _assert_ends(process, number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_while_the_model_is_busy(
    spawn: Spawn, ros: Any, eventually: Eventually, number: signal.Signals
) -> None:
    process = spawn("tests/ros/color_node.py")
    node = NodeClient(ros)
    eventually(lambda: node.active, "the active state")
    node.segment_later("stuck endless")
    eventually(lambda: node.status.busy, "a running request")
    _assert_ends(process, number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("after_s", [0.4, 0.8, 1.6])
@pytest.mark.parametrize("module", ["segmenter_node", "camera_sim"])
def test_while_it_imports_and_starts(
    spawn: Spawn, number: signal.Signals, after_s: float, module: str
) -> None:
    process = spawn("-m", f"xsam_ros.{module}")
    time.sleep(after_s)
    _assert_ends(process, number)


def _segment(folder: Path, name: str, *, age_s: float = 60.0) -> tuple[Path, Path]:
    files = folder / f"fastrtps_{name}", folder / f"fastrtps_{name}_el"
    for file in files:
        file.write_bytes(b"x")
        os.utime(file, (time.time() - age_s,) * 2)
    return files


def test_only_segments_without_a_process_are_removed(tmp_path: Path) -> None:
    folder = tmp_path
    dead = _segment(folder, "0123456789abcdef")
    alive = _segment(folder, "1111111111111111")
    starting = _segment(folder, "2222222222222222", age_s=0.0)
    foreign = folder / "fastrtps_port7411_el", folder / "sem.other", folder / "fastrtps_01_el"
    for file in foreign:
        file.write_bytes(b"x")
        os.utime(file, (0, 0))
    with alive[1].open("rb+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert remove_leftovers(folder) == 1
    assert not any(file.exists() for file in dead)
    assert all(file.exists() for file in (*alive, *starting, *foreign))
    assert remove_leftovers(folder / "missing") == 0


def test_leftovers_of_a_killed_node_go_at_the_next_start(
    spawn: Spawn, ros: Any, eventually: Eventually
) -> None:
    shared = Path("/dev/shm")
    before = set(shared.glob(_LOCKS))
    process = spawn("tests/ros/color_node.py", exit_code=-signal.SIGKILL)
    eventually(lambda: NodeClient(ros).active, "the active state")
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = {lock for lock in set(shared.glob(_LOCKS)) - before if _is_free(lock)}
    assert left, "Fast DDS leaves its segments"
    for lock in left:
        os.utime(lock, (0, 0))
    spawn("tests/ros/color_node.py", params={"autostart": "false"})
    eventually(lambda: not any(lock.exists() for lock in left), "an empty folder")


def _is_free(lock: Path) -> bool:
    try:
        with lock.open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
