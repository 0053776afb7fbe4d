"""Shared memory that nodes leave behind when they are killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from pathlib import Path

_FOLDER = Path("/dev/shm")
_LOCK_FILE = re.compile(r"fastrtps_[0-9a-f]{16}_el")
_LEAST_AGE_S = 10.0  # a participant that is starting creates its lock file a moment before it locks it


def remove_leftovers(folder: Path = _FOLDER) -> int:
    """Remove segments of Fast DDS whose process is gone, and that belong to this user.

    A process holds the lock of its segments as long as it lives, so one that can be locked has no owner.
    `fastdds shm clean` does the same; the Python wheels of ROS do not have it.

    Returns:
        Number of segments that were removed.
    """
    removed = 0
    try:
        names = [entry.name for entry in os.scandir(folder) if _LOCK_FILE.fullmatch(entry.name)]
    except OSError:  # another system, or another middleware
        return 0
    for name in names:
        with contextlib.suppress(OSError):  # in use, or another process was faster
            removed += _remove(folder / name)
    return removed


def _remove(lock: Path) -> bool:
    status = lock.lstat()
    if status.st_uid != os.getuid() or time.time() - status.st_mtime < _LEAST_AGE_S:
        return False
    descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        segment = lock.with_name(lock.name.removesuffix("_el"))
        segment.unlink(missing_ok=True)
        lock.unlink()
    finally:
        os.close(descriptor)
    return True
