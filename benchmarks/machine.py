"""Description of the machine: processor, memory, versions, and the two speeds that bound every stage."""

from __future__ import annotations

import ctypes
import itertools
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers

_MIB = 2**20


def describe(clock: Callable[[], float]) -> dict[str, Any]:
    """Return processor, memory, versions, and the measured speeds."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "simd": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "gflop_per_s": round(matrix_flop_per_s(clock) / 1e9, 1),
        "read_gb_per_s": round(read_bytes_per_s(clock) / 1e9, 1),
    }


def matrix_flop_per_s(clock: Callable[[], float], dtype: torch.dtype = torch.float32) -> float:
    """Measure the speed of a 1024³ matrix product, FLOP/s."""
    a, b = torch.randn(2, 1024, 1024).to(dtype)
    return 2 * 1024**3 / _best(lambda: a @ b, clock)


def read_bytes_per_s(clock: Callable[[], float]) -> float:
    """Measure how fast a 256 MB float32 matrix is read once (matrix times vector), bytes/s."""
    a, b = torch.randn(8192, 8192), torch.randn(8192)
    return a.numel() * 4 / _best(lambda: a @ b, clock)


def _best(work: Callable[[], object], clock: Callable[[], float]) -> float:
    work()
    times = []
    for _ in range(7):
        start = clock()
        work()
        times.append(clock() - start)
    return median(sorted(times)[:3])


def peak_extra_mib(work: Callable[[], object]) -> float:
    """Return the peak of the memory that `work` takes, without files that are mapped, MiB (Linux only)."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    peak: list[float] = []
    before = _status("RssAnon") / _MIB
    with watch_own_memory(peak):
        work()
    return peak[0] - before


def reset_peak() -> None:
    """Let the peak resident memory start again from what is resident now (Linux only)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_mib() -> float:
    """Return the highest resident memory since the peak was last reset, MiB."""
    return _status("VmHWM") / _MIB


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {name} in /proc/self/status")


@contextmanager
def watch_own_memory(peak: list[float]) -> Iterator[None]:
    """Append the peak of the memory that is not mapped from files, MiB, sampled every 5 ms (Linux only)."""
    highest, done = [_status("RssAnon")], threading.Event()

    def sample() -> None:
        while not done.wait(0.005):
            highest.append(max(highest.pop(), _status("RssAnon")))

    watcher = threading.Thread(target=sample)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        peak.append(highest[0] / _MIB)


def seconds_by_stage(marks: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Add up the seconds of each stage, which may be announced several times.

    Args:
        marks: name and time of each announcement in order; the last one only ends the one before.
    """
    spent: dict[str, float] = {}
    for (stage, since), (_, until) in itertools.pairwise(marks):
        spent[stage] = spent.get(stage, 0.0) + until - since
    return spent


def drop_from_memory(folder: Path) -> None:
    """Drop a folder's files from the page cache, so that reading them reads the disk."""
    for file in folder.iterdir():
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_seconds(folder: Path) -> float:
    """Measure the seconds it takes to read all files of a folder from the disk."""
    drop_from_memory(folder)
    start = time.perf_counter()
    for file in folder.iterdir():
        if file.is_file():
            with file.open("rb", buffering=0) as stream:
                while stream.read(8 * _MIB):
                    pass
    return time.perf_counter() - start
