"""One size, plain and fast in turns: seconds, tokens, memory, and where the time goes."""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.flops import stage_flops
from benchmarks.machine import drop_from_memory, peak_extra_mib, peak_mib, read_seconds
from benchmarks.plain import PlainXSam
from benchmarks.sizes import Size
from xsam.engine import XSam
from xsam.masks import MaskRle
from xsam.model.language import cache_prefix, generate
from xsam.sim import render, sample_scene
from xsam.structures import Query

IMAGE_HW = (480, 640)
PHRASES = (
    "the red mug",
    "the blue cube left of the mug",
    "the largest object on the table",
    "a green ball",
    "the banana next to the bowl",
    "the small yellow box",
    "the object behind the red mug",
    "a pair of scissors",
)
_SAME_SCORE = 1e-3
_SAME_IOU = 0.99


def measure(size: Size, log: Callable[[str], None]) -> dict[str, Any]:
    """All figures of one size; see docs/performance.md for what they mean."""
    drop_from_memory(size.folder)
    start = time.perf_counter()
    engine = XSam.load(size.folder, device="cpu", dtype=size.dtype)
    load_s = time.perf_counter() - start
    log(f"{size.name}: loaded in {load_s:.2f} s")
    model, tokenizer = engine._network(), engine._tokenizer
    parameters = sum(p.numel() for p in model.parameters())
    plain = PlainXSam(model, tokenizer)

    frames = _Frames()
    fast_peak = peak_extra_mib(lambda: engine.segment(frames.next(), PHRASES[0]))
    resident = peak_mib()
    log(f"{size.name}: fast peak {fast_peak:.0f} MiB")
    seconds: dict[str, list[float]] = defaultdict(list)
    stages: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    plain_peak = 0.0
    same = True
    for repetition in range(size.repetitions):
        rgb = frames.next()
        began = time.perf_counter()
        first = engine.segment(rgb, PHRASES[0])
        seconds["first"].append(time.perf_counter() - began)
        began = time.perf_counter()
        second = engine.segment(rgb, PHRASES[1])
        seconds["next"].append(time.perf_counter() - began)
        for kind, result in (("first", first), ("next", second)):
            for stage, spent in result.timing.stages_s.items():
                stages[kind][stage].append(spent)
        log(f"{size.name}: fast {seconds['first'][-1]:.3f} s, next {seconds['next'][-1]:.3f} s")
        other = frames.next()
        began = time.perf_counter()
        engine.segment(other, [Query(text=phrase) for phrase in PHRASES])
        seconds["eight"].append(time.perf_counter() - began)
        log(f"{size.name}: eight {seconds['eight'][-1]:.3f} s")

        engine._frames.clear()
        gc.collect()
        answers: list[tuple[MaskRle, float]] = []

        def ask_plain(rgb: NDArray[np.uint8] = rgb, answers: list[tuple[MaskRle, float]] = answers) -> None:
            began = time.perf_counter()
            answers.append(plain.segment(rgb, PHRASES[0]))
            seconds["plain"].append(time.perf_counter() - began)

        if repetition == 0:
            plain_peak = peak_extra_mib(ask_plain)
        ask_plain() if repetition or size.repetitions > 1 else None
        for stage, spent in plain.stages_s.items():
            stages["plain"][stage].append(spent)
        log(f"{size.name}: plain {seconds['plain'][-1]:.3f} s")
        same = same and _agree(engine, rgb, answers[0])
        engine._frames.clear()
    if size.plain_eight:
        rgb = frames.next()
        began = time.perf_counter()
        for phrase in PHRASES:
            plain.segment(rgb, phrase)
        seconds["plain_eight"].append(time.perf_counter() - began)
    else:
        seconds["plain_eight"].append(len(PHRASES) * median(seconds["plain"]))

    tokens = 1 / _seconds_per_token(engine, frames.next(), size.generated_tokens)
    plain_tokens = 1 / plain.seconds_per_token(frames.next(), size.generated_tokens)
    log(f"{size.name}: {tokens:.1f} tokens/s, plain {plain_tokens:.1f}")
    medians = {kind: median(values) for kind, values in seconds.items()}
    by_stage = {kind: {s: round(median(v), 5) for s, v in values.items()} for kind, values in stages.items()}
    operations = stage_flops(engine, plain, frames.next(), PHRASES[0]) if size.name != "full" else {}
    return {
        "parameters_m": round(parameters / 1e6, 1),
        "dtype": size.dtype,
        "image_hw": IMAGE_HW,
        "repetitions": size.repetitions,
        "first_prompt_s": round(medians["first"], 4),
        "next_prompt_s": round(medians["next"], 4),
        "eight_prompts_s": round(medians["eight"], 4),
        "generate_tokens_per_s": round(tokens, 2),
        "peak_extra_mib": round(fast_peak, 1),
        "peak_mib": round(resident, 1),
        "load_s": round(load_s, 3),
        "read_s": round(read_seconds(size.folder), 3),
        "stages": by_stage,
        "gflop": operations,
        "plain": {
            "first_prompt_s": round(medians["plain"], 4),
            "eight_prompts_s": round(medians["plain_eight"], 4),
            "eight_measured": size.plain_eight,
            "generate_tokens_per_s": round(plain_tokens, 2),
            "peak_extra_mib": round(plain_peak, 1),
        },
        "first_ratio": round(medians["plain"] / medians["first"], 2),
        "next_ratio": round(medians["plain"] / medians["next"], 2),
        "eight_ratio": round(medians["plain_eight"] / medians["eight"], 2),
        "extra_memory_ratio": round(fast_peak / plain_peak, 3),
        "same_answers": same,
    }


class _Frames:
    """Pictures of which no two are the same."""

    def __init__(self) -> None:
        self._scene = render(sample_scene(0), image_hw=IMAGE_HW).rgb
        self._count = 0

    def next(self) -> NDArray[np.uint8]:
        self._count += 1
        rgb = self._scene.copy()
        rgb[0, 0] = (self._count // 256, self._count % 256, 0)
        return rgb


def _agree(engine: XSam, rgb: NDArray[np.uint8], plain: tuple[MaskRle, float]) -> bool:
    """Whether the fast path gives the plain path's mask and score."""
    mask, score = plain
    found = engine.segment(rgb, Query(text=PHRASES[0], score_threshold=0.0)).segments
    if len(found) == 0:  # an empty mask is left out
        return mask.area == 0
    best = int(np.argmax(found.scores))
    overlap = found.masks[best].iou(mask) if mask.area else float(found.masks[best].area == 0)
    return abs(float(found.scores[best]) - score) <= _SAME_SCORE and overlap >= _SAME_IOU


@torch.inference_mode()
def _seconds_per_token(engine: XSam, rgb: NDArray[np.uint8], count: int) -> float:
    """Seconds a generated token takes once the prompt is read."""
    engine.segment(rgb, PHRASES[0])
    model = engine._network()
    encoded = next(reversed(engine._frames._frames.values()), None)
    if encoded is None or encoded.prefix is None:
        tokens = torch.randn(1, model.config.num_image_tokens, model.config.llm.hidden_size)
        prefix = cache_prefix(model.llm, tokens, room=count + 8)
    else:
        prefix = encoded.prefix
    prompt = model.llm.model.embed_tokens(torch.arange(5, 12))
    times: list[float] = []
    generate(
        model.llm,
        prompt,
        max_new_tokens=count + 1,
        stop_ids=(),
        prefix=prefix,
        on_token=lambda _: times.append(time.perf_counter()),
    )
    return (times[-1] - times[0]) / count
