"""Where Python waits for the device: values that are read back, and what PyTorch itself counts as a wait."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu.runner import Record, Settings
from benchmarks.gpu.subject import PHRASES, Frames, MeasuredModel, subject_of

ALLOWED = {
    "encode": 1,
    "language": 0,
    "decode": 1,
}  # one look for NaN after the encoders, and one after the decoder
_READS = ("_local_scalar_dense", "nonzero", "masked_select", "item", "unique", "is_nonzero")


def run(settings: Settings, record: Record) -> None:
    subject = subject_of(settings)
    # Without the census of known categories, whose masks are composed while the stage is still "decode".
    subject.model.config = replace(subject.model.config, calibration=None)
    record("allowed", ALLOWED)
    problems = []
    engine, frames = subject.engine(), Frames()
    rgb = frames.next()
    engine.segment(frames.next(), PHRASES[0])  # what happens once is no matter
    for kind, phrase in (("first", PHRASES[0]), ("next", PHRASES[1])):
        stage = _Stage()

        def ask(phrase: str = phrase, stage: _Stage = stage) -> None:
            stage.name = "preprocess"
            engine.segment(rgb, phrase, on_stage=stage.begin)

        counted: Counter[str]
        if subject.device.type == "cuda":
            with _cuda_waits(stage) as (counted, places):
                ask()
            record(f"{kind}_where", dict(places.most_common(20)))
        else:
            with _ReadValues(stage) as reads:
                ask()
            counted = reads.counted
        record(kind, dict(counted))
        allowed = ALLOWED if kind == "first" else {**ALLOWED, "encode": 0}
        problems += [
            f"{kind} {name}: {counted[name]} waits, {most} allowed"
            for name, most in allowed.items()
            if counted[name] > most
        ]
    if subject.device.type == "cuda":
        record("profile", _profile(subject, lambda: engine.segment(rgb, PHRASES[2])))
    if problems:
        raise AssertionError("; ".join(problems))


class _Stage:
    """The stage that a request is in."""

    def __init__(self) -> None:
        self.name = "preprocess"

    def begin(self, name: str) -> None:
        self.name = name


class _ReadValues(TorchDispatchMode):
    """Counts, by stage, operations that bring values to Python; on a GPU, each would be a wait."""

    def __init__(self, stage: _Stage) -> None:
        super().__init__()
        self.counted: Counter[str] = Counter()
        self._stage = stage

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = str(func).split(".")[1]
        indices = args[1] if name == "index" and len(args) > 1 else ()
        by_flags = any(isinstance(i, Tensor) and i.dtype is torch.bool for i in indices)
        if name in _READS or by_flags:
            self.counted[self._stage.name] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def _cuda_waits(stage: _Stage) -> Iterator[tuple[Counter[str], Counter[str]]]:
    """Count by stage, and by line, what PyTorch warns of."""
    counted: Counter[str] = Counter()
    places: Counter[str] = Counter()

    def note(message: Any, category: Any, filename: str, lineno: int, *_: Any) -> None:
        if "synchroniz" in str(message):
            counted[stage.name] += 1
            places[f"{stage.name}: {'/'.join(filename.split('/')[-3:])}:{lineno}"] += 1

    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield counted, places
        finally:
            torch.cuda.set_sync_debug_mode(before)


def _profile(subject: MeasuredModel, work: Callable[[], object]) -> dict[str, Any]:
    """Count calls that wait, copies and kernels of a next prompt, and the share of time that kernels run."""
    from torch.profiler import ProfilerActivity, profile

    subject.sync()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        work()
        subject.sync()
    calls: Counter[str] = Counter()
    kernels, busy_us = 0, 0.0
    starts, ends = [], []
    for event in profiler.events():
        starts.append(event.time_range.start)
        ends.append(event.time_range.end)
        if str(event.device_type).endswith("CUDA"):
            if event.name.startswith("Memcpy"):
                calls[" ".join(event.name.split()[:2])] += 1
            elif not event.name.startswith("Memset"):
                kernels += 1
            busy_us += event.time_range.elapsed_us()
        elif "Synchronize" in event.name:
            calls[event.name] += 1
    return {
        "calls": dict(calls),
        "kernels": kernels,
        "busy_share": round(busy_us / max(1.0, max(ends) - min(starts)), 3),
    }
