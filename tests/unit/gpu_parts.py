"""Parts that go well or not; without PyTorch, so that their processes start at once."""

from __future__ import annotations

import os
import signal
import time

from benchmarks.gpu.runner import Record, Settings, SkippedPart


def goes_well(settings: Settings, record: Record) -> None:
    print("not on stdout")
    record("device", settings.device)


def breaks(_: Settings, record: Record) -> None:
    record("first", 1)
    raise ValueError("no kernel image\nand much more")


def hangs(_: Settings, record: Record) -> None:
    record("first", 1)
    time.sleep(600)


def crashes(_: Settings, record: Record) -> None:
    record("first", 1)
    os.kill(os.getpid(), signal.SIGSEGV)


def is_not_for_here(_: Settings, record: Record) -> None:
    record("first", 1)
    raise SkippedPart("there is no ROS")
