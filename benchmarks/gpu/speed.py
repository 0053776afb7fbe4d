"""Seconds, memory and work of a prompt, by stage."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.flops import stage_flops
from benchmarks.gpu.runner import Record, Settings
from benchmarks.gpu.subject import IMAGE_SIZES, PHRASES, Frames, MeasuredModel, repeats, subject_of
from benchmarks.machine import seconds_by_stage
from benchmarks.speed import seconds_per_token
from xsam.engine import XSam
from xsam.types.requests import Query

GENERATED_TOKENS = 32


def run(settings: Settings, record: Record) -> None:
    subject = subject_of(settings)
    record("parameters_m", round(sum(p.numel() for p in subject.model.parameters()) / 1e6, 1))
    record("dtype", str(subject.model.dtype).removeprefix("torch."))
    record("weights_gb", _gigabytes(subject.model))
    record("same_twice", _same_twice(subject))
    for name, image_hw in IMAGE_SIZES.items():
        frames = Frames(image_hw)
        record(name, _prompts(subject, frames, repeats(settings, 9)))
        record(f"{name}_stages_ms", _stages(subject, frames, repeats(settings, 5)))
    if subject.device.type == "cuda":
        record("memory_gb", _memory(subject, Frames(IMAGE_SIZES["1080p"])))
    frames = Frames()
    per_token = seconds_per_token(subject.model, GENERATED_TOKENS, _clock(subject))
    record("tokens_per_s", round(1 / per_token, 1))
    record("gflop", stage_flops(subject.engine(), frames.next(), PHRASES[0]))


def _clock(subject: MeasuredModel) -> Callable[[], float]:
    import time

    def clock() -> float:
        subject.sync()
        return time.perf_counter()

    return clock


def _ask(engine: XSam, rgb: NDArray[np.uint8], phrases: Sequence[str], **options: Any) -> None:
    engine.segment(rgb, [Query(text=phrase) for phrase in phrases], **options)


def _prompts(subject: MeasuredModel, frames: Frames, repeat: int) -> dict[str, float]:
    """Return milliseconds of a first, a next and eight prompts, as a caller waits for them."""
    engine, clock = subject.engine(), _clock(subject)
    times: dict[str, list[float]] = defaultdict(list)
    for turn in range(repeat + 1):
        rgb = frames.next()
        for kind, image, phrases in (
            ("first", rgb, PHRASES[:1]),
            ("next", rgb, PHRASES[1:2]),
            ("eight", frames.next(), PHRASES),
        ):
            began = clock()
            _ask(engine, image, phrases)
            if turn:  # the first one warms up
                times[kind].append(clock() - began)
    return {f"{kind}_ms": round(median(values) * 1e3, 3) for kind, values in times.items()}


def _stages(subject: MeasuredModel, frames: Frames, repeat: int) -> dict[str, dict[str, float]]:
    """Return milliseconds by stage, with the device idle between stages."""
    engine, clock = subject.engine(), _clock(subject)
    times: dict[str, dict[str, list[float]]] = {"first": defaultdict(list), "next": defaultdict(list)}
    for _ in range(repeat):
        rgb = frames.next()
        for kind, phrase in zip(times, PHRASES, strict=False):
            marks: list[tuple[str, float]] = []

            def on_stage(stage: str, marks: list[tuple[str, float]] = marks) -> None:
                marks.append((stage, clock()))

            _ask(engine, rgb, [phrase], on_stage=on_stage)
            for stage, spent in seconds_by_stage([*marks, ("", clock())]).items():
                times[kind][stage].append(spent)
    return {
        kind: {stage: round(median(values) * 1e3, 3) for stage, values in stages.items()}
        for kind, stages in times.items()
    }


def _memory(subject: MeasuredModel, frames: Frames) -> dict[str, Any]:
    """Return the device's memory: the weights, the peak of each stage, and what PyTorch took in all."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    weights = torch.cuda.memory_allocated()
    engine, rgb = subject.engine(), frames.next()
    peaks: dict[str, int] = {}
    current = "preprocess"

    def on_stage(stage: str) -> None:
        nonlocal current
        subject.sync()
        peaks[current] = max(peaks.get(current, 0), torch.cuda.max_memory_allocated())
        torch.cuda.reset_peak_memory_stats()
        current = stage

    for phrases in (PHRASES[:1], PHRASES[1:2], PHRASES):
        _ask(engine, rgb, phrases, on_stage=on_stage)
        on_stage("preprocess")
    return {
        "weights": round(weights / 1e9, 3),
        "peaks": {stage: round(peak / 1e9, 3) for stage, peak in peaks.items()},
        "reserved": round(torch.cuda.max_memory_reserved() / 1e9, 3),
    }


def _gigabytes(model: Any) -> dict[str, float]:
    """Return the bytes of weights that each stage reads; a vocabulary is read row by row."""
    sizes: dict[str, float] = defaultdict(float)
    for name, parameter in model.named_parameters():
        top, _, rest = name.partition(".")
        if "embed_tokens" in name or "lm_head" in name:
            stage = "vocabulary"
        elif top in ("llm", "llm_projector"):
            stage = "language"
        elif rest.startswith(("decoder.", "class_predictor.")):
            stage = "decode"
        else:
            stage = "encode"
        sizes[stage] += parameter.numel() * parameter.element_size() / 1e9
    return {stage: round(size, 4) for stage, size in sizes.items()}


def _same_twice(subject: MeasuredModel) -> bool:
    """Tell whether two engines answer a frame alike, to the last bit."""
    rgb = Frames().next()
    queries = [Query(text=phrase, score_threshold=0.0) for phrase in PHRASES[:3]]
    one, two = (subject.engine().segment(rgb, queries) for _ in range(2))
    return all(
        a.segments.masks == b.segments.masks and a.segments.scores.tolist() == b.segments.scores.tolist()
        for a, b in zip(one, two, strict=True)
    )
