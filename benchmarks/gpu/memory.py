"""Out of memory is a typed error, after which the engine answers as before, with no memory lost."""

from __future__ import annotations

import ctypes
import gc
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.gpu.runner import Record, Settings, SkippedPart
from benchmarks.gpu.subject import PHRASES, Frames, MeasuredModel, subject_of
from xsam.errors import OutOfMemoryError
from xsam.types.requests import Query

_M_MMAP_THRESHOLD = -3  # of glibc: larger blocks are given back when they are freed
_LEFT_BYTES = 4 << 20
_LOST_BYTES = 8 << 20  # allowed: workspaces of libraries


def run(settings: Settings, record: Record) -> None:
    if not settings.on_gpu:  # else memory that was freed is at hand again, whatever the limit
        ctypes.CDLL("libc.so.6").mallopt(_M_MMAP_THRESHOLD, 1 << 16)
    subject, frames = subject_of(settings), Frames()
    engine, rgb = subject.engine(), frames.next()
    query = Query(text=PHRASES[0], score_threshold=0.0)
    expected = engine.segment(rgb, query)
    other = frames.next()
    held: list[OutOfMemoryError] = []
    before = _allocated(subject)
    with _little_memory(subject):
        for _ in range(3):
            try:
                engine.segment(other, query)
            except OutOfMemoryError as error:
                held.append(error)  # with its traceback, as a caller may
    record("errors", len(held))
    if not held:
        raise SkippedPart("a request of this size fits into what memory could be left")
    record("message", str(held[0])[:200])
    gc.collect()
    lost = _allocated(subject) - before
    record("lost_bytes", lost)
    result = engine.segment(rgb, query)
    same = result.segments.masks == expected.segments.masks
    record("same_answer", same)
    if not same or lost > _LOST_BYTES:
        raise AssertionError(f"same answer: {same}, {lost} bytes lost")


def _allocated(subject: MeasuredModel) -> int:
    return torch.cuda.memory_allocated() if subject.device.type == "cuda" else 0


@contextmanager
def _little_memory(subject: MeasuredModel) -> Iterator[None]:
    """Leave a few megabytes: of the device, or of this process's addresses."""
    if subject.device.type == "cuda":
        torch.cuda.empty_cache()
        total: Any = torch.cuda.get_device_properties(subject.device).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + _LEFT_BYTES) / total)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _LEFT_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
