"""How many cores other programs leave: the number of threads for the next request.

PyTorch's threads wait for each other many times a millisecond. If another program holds one of their cores,
all of them wait for it, and two threads are slower than one: by two and a half times beside one busy program.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

BUSY_SHARE = 0.4  # of one core, from which other programs take a thread away
MIN_WINDOW_S = 0.1  # shorter than this, the kernel's counters (10 ms) say little
_IDLE_COLUMNS = (3, 4)  # idle and waiting for disks, in a line of /proc/stat
_GUEST_COLUMNS = (8, 9)  # counted in user time already


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Processor time until now, seconds."""

    at_s: float
    all_s: float  # of every program, on the cores that this process may use
    own_s: float  # of this process


def read_usage() -> Usage | None:
    """Read the counters of the kernel; None where there are none (not Linux)."""
    try:
        cores = {f"cpu{index}" for index in os.sched_getaffinity(0)}
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    except (OSError, AttributeError):
        return None
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    busy = 0
    for line in lines:
        name, *columns = line.split(" ") if line.startswith("cpu") else ("",)
        if name in cores:
            skipped = (*_IDLE_COLUMNS, *_GUEST_COLUMNS)
            busy += sum(int(column) for index, column in enumerate(columns) if index not in skipped)
    return Usage(at_s=time.monotonic(), all_s=busy * tick_s, own_s=time.process_time())


def allowed_cores() -> int:
    """Return the cores that this process may use, by affinity and by the quota of its container."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return min(count, max(1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or "max"
        return count


AT_IMPORT = read_usage()
"""Loading a model takes long enough to know by its first request how busy the cores are."""


class FreeCores:
    """Counts the cores that were free since it was last asked."""

    def __init__(
        self,
        read: Callable[[], Usage | None] = read_usage,
        cores: int | None = None,
        *,
        since: Usage | None = None,
    ) -> None:
        self._read = read
        self._cores = allowed_cores() if cores is None else cores
        self._before = since or read()
        self._free = self._cores

    def count(self) -> int:
        """Return how many cores other programs have left lately, at least 1."""
        now = self._read()
        if now is None:
            return self._cores
        before = self._before
        if before is not None and (elapsed_s := now.at_s - before.at_s) < MIN_WINDOW_S:
            return self._free
        if before is not None:
            others = (now.all_s - before.all_s - (now.own_s - before.own_s)) / elapsed_s
            taken = math.floor(max(0.0, others) + 1 - BUSY_SHARE)
            self._free = max(1, self._cores - taken)
        self._before = now
        return self._free
