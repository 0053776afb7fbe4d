"""Measure one size, alternating plain and fast: seconds, tokens, memory, and where the time goes."""

from __future__ import annotations

import functools
import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.flops import stage_flops
from benchmarks.machine import (
    drop_from_memory,
    matrix_flop_per_s,
    peak_extra_mib,
    peak_mib,
    read_seconds,
    reset_peak,
    seconds_by_stage,
)
from benchmarks.plain import PlainXSam
from benchmarks.plain_x2sam import PlainX2Sam
from benchmarks.sizes import ModelSize
from benchmarks.video import CLIP_FRAMES, measure_video
from xsam.engine import XSam
from xsam.inference.family import Network
from xsam.model.language import cache_prefix, generate
from xsam.model.x2sam import X2SamModel
from xsam.sim import render, sample_scene
from xsam.types.masks import MaskRle
from xsam.types.requests import Query
from xsam.weights.checkpoint import load_checkpoint
from xsam.weights.x2sam import is_x2sam, load_x2sam

IMAGE_HW = (480, 640)
PHRASES = (
    "the red mug",
    "a red cup",  # without a place: one forward pass, as the plain way
    "the blue cube left of the mug",
    "the largest object on the table",
    "a green ball",
    "the banana next to the bowl",
    "the object behind the red mug",
    "a pair of scissors",
)
PLACED = PHRASES[2]  # its answer is checked against where the mugs are, which is another prompt
_IMAGE_TOKENS = 300
_SAME_SCORE = 1e-3
_SAME_IOU = 0.99


def measure(size: ModelSize, clock: Callable[[], float], log: Callable[[str], None]) -> dict[str, Any]:
    """Return all figures of one size; docs/performance.md explains them.

    Args:
        clock: returns seconds; `time.perf_counter`, or `time.process_time` with one thread on a busy machine.
    """
    drop_from_memory(size.folder)
    began = time.perf_counter()
    load = load_x2sam if is_x2sam(size.folder) else load_checkpoint
    model, tokenizer = load(size.folder, dtype=getattr(torch, size.dtype))
    load_s = time.perf_counter() - began
    log(f"{size.name}: loaded in {load_s:.2f} s")
    engine = XSam(model, tokenizer, model_id=size.name)
    plain: PlainXSam | PlainX2Sam = (
        PlainX2Sam(model, tokenizer, clock)
        if isinstance(model, X2SamModel)
        else PlainXSam(model, tokenizer, clock)
    )
    frames = _Frames()
    seconds: dict[str, list[float]] = defaultdict(list)
    stages: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def ask(kind: str, rgb: NDArray[np.uint8], phrases: Sequence[str]) -> None:
        marks: list[tuple[str, float]] = []
        engine.segment(
            rgb, [Query(text=p) for p in phrases], on_stage=lambda stage: marks.append((stage, clock()))
        )
        marks.append(("", clock()))
        seconds[kind].append(marks[-1][1] - marks[0][1])
        for stage, spent in seconds_by_stage(marks).items():
            stages[kind][stage].append(spent)
        log(f"{size.name}: {kind} {seconds[kind][-1]:.3f} s")

    def ask_plain(rgb: NDArray[np.uint8], results: list[tuple[MaskRle, float]]) -> None:
        began = clock()
        results.append(plain.segment(rgb, PHRASES[0]))
        seconds["plain"].append(clock() - began)
        for stage, spent in plain.stages_s.items():
            stages["plain"][stage].append(spent)
        log(f"{size.name}: plain {seconds['plain'][-1]:.3f} s")

    if not size.once:  # so that no figure includes what happens once per process
        ask("warm-up", frames.next(), PHRASES[:1])
        plain.segment(frames.next(), PHRASES[0])
    peaks: dict[str, float] = {}
    agreement: list[tuple[float, float]] = []
    for _ in range(1 if size.once else size.repetitions):
        rgb = frames.next()
        engine = XSam(model, tokenizer, model_id=size.name)  # with an empty frame cache
        if not peaks:
            reset_peak()
            peaks["fast"] = peak_extra_mib(functools.partial(ask, "first", rgb, PHRASES[:1]))
            peaks["total"] = peak_mib()
        else:
            ask("first", rgb, PHRASES[:1])
        if model.config.calibration is not None:
            with _without_census(model):
                ask("unexamined", frames.next(), PHRASES[:1])
        ask("next", rgb, PHRASES[1:2])
        ask("placed", rgb, (PLACED,))
        if size.once:  # reuses the encoded frame, so add the time to encode it
            ask("eight", rgb, PHRASES)
            seconds["eight"][-1] += seconds["first"][-1] - seconds["next"][-1]
            for stage, values in stages["eight"].items():
                values[-1] += stages["first"][stage][-1] - stages["next"][stage][-1]
            tokens_per_s = 1 / seconds_per_token(model, size.generated_tokens, clock)
        else:
            ask("eight", frames.next(), PHRASES)
        fast = _best_mask(engine, rgb)
        engine = XSam(model, tokenizer, model_id=size.name)
        gc.collect()
        plain_results: list[tuple[MaskRle, float]] = []
        if "plain" not in peaks:
            peaks["plain"] = peak_extra_mib(functools.partial(ask_plain, rgb, plain_results))
        else:
            ask_plain(rgb, plain_results)
        agreement.append(_agreement(fast, plain_results[0]))
    if size.once:
        seconds["plain_eight"].append(len(PHRASES) * median(seconds["plain"]))
    else:
        rgb = frames.next()
        began = clock()
        for phrase in PHRASES:
            plain.segment(rgb, phrase)
        seconds["plain_eight"].append(clock() - began)
        tokens_per_s = 1 / seconds_per_token(model, size.generated_tokens, clock)
    plain_tokens_per_s = (
        None if size.once else 1 / plain.seconds_per_token(frames.next(), size.generated_tokens)
    )
    took = {kind: median(values) for kind, values in seconds.items()}
    video = (
        {
            "video": measure_video(
                engine,
                plain,
                [frames.next() for _ in range(CLIP_FRAMES)],
                PHRASES[0],
                clock,
                log,
                repetitions=min(2, size.repetitions),
            )
        }
        if isinstance(plain, PlainX2Sam)
        else {}
    )
    return {
        "parameters_m": round(sum(p.numel() for p in model.parameters()) / 1e6, 1),
        "dtype": size.dtype,
        "image_hw": IMAGE_HW,
        "repetitions": 1 if size.once else size.repetitions,
        "first_prompt_s": round(took["first"], 4),
        "first_unexamined_s": round(took.get("unexamined", took["first"]), 4),
        "next_prompt_s": round(took["next"], 4),
        "placed_prompt_s": round(took["placed"], 4),
        "eight_prompts_s": round(took["eight"], 4),
        "generate_tokens_per_s": round(tokens_per_s, 2),
        "peak_extra_mib": round(peaks["fast"], 1),
        "peak_mib": round(peaks["total"], 1),
        "load_s": round(load_s, 3),
        "read_s": round(read_seconds(size.folder), 3),
        "stages": {
            kind: {s: round(median(v), 5) for s, v in stages[kind].items()}
            for kind in ("first", "unexamined", "next", "eight", "plain")
            if stages[kind]
        },
        "gflop": stage_flops(engine, frames.next(), PHRASES[0]),
        "matrix_gflop_per_s": round(matrix_flop_per_s(clock, model.dtype) / 1e9, 1),
        "plain": {
            "first_prompt_s": round(took["plain"], 4),
            "eight_prompts_s": round(took["plain_eight"], 4),
            "generate_tokens_per_s": plain_tokens_per_s and round(plain_tokens_per_s, 2),
            "peak_extra_mib": round(peaks["plain"], 1),
        },
        "eight_is_a_sum": size.once,
        "first_ratio": round(took["plain"] / took["first"], 2),
        "first_unexamined_ratio": round(took["plain"] / took.get("unexamined", took["first"]), 2),
        "next_ratio": round(took["plain"] / took["next"], 2),
        "eight_ratio": round(took["plain_eight"] / took["eight"], 2),
        "extra_memory_ratio": round(peaks["fast"] / peaks["plain"], 3),
        "score_difference": round(max(difference for difference, _ in agreement), 5),
        "mask_iou": round(min(iou for _, iou in agreement), 4),
        **video,
        "same_answers": all(difference <= _SAME_SCORE and iou >= _SAME_IOU for difference, iou in agreement),
    }


@contextmanager
def _without_census(model: Network) -> Iterator[None]:
    """Let a model answer as plain does, without comparing its answer with what else is on the frame."""
    config: Any = model.config
    model.config = replace(config, calibration=None)
    try:
        yield
    finally:
        model.config = config


class _Frames:
    """Source of frames, no two of which are the same."""

    def __init__(self) -> None:
        self._scene = render(sample_scene(0), image_hw=IMAGE_HW).rgb
        self._count = 0

    def next(self) -> NDArray[np.uint8]:
        self._count += 1
        rgb = self._scene.copy()
        rgb[0, 0] = (self._count // 256, self._count % 256, 0)
        return rgb


def _best_mask(engine: XSam, rgb: NDArray[np.uint8]) -> tuple[MaskRle | None, float]:
    """Return the best mask of the fast path, None if it is empty, and its score."""
    result = engine.segment(rgb, Query(text=PHRASES[0], score_threshold=0.0))
    if len(result) == 0:
        return None, float("nan")
    best = int(np.argmax(result.segments.scores))
    return result.segments.masks[best], float(result.segments.scores[best])


def _agreement(fast: tuple[MaskRle | None, float], plain: tuple[MaskRle, float]) -> tuple[float, float]:
    """Return the score difference and the mask IoU of the best results of the fast and the plain path."""
    if fast[0] is None:
        return 0.0, float(plain[0].area == 0)
    return abs(fast[1] - plain[1]), fast[0].iou(plain[0])


@torch.inference_mode()
def seconds_per_token(model: Network, count: int, clock: Callable[[], float]) -> float:
    """Return the seconds per generated token after a prompt with an image has been read."""
    prompt = model.llm.model.embed_tokens(torch.arange(5, 12, device=model.llm_device))
    image = torch.randn(1, _IMAGE_TOKENS, prompt.shape[1], device=prompt.device).to(prompt.dtype)
    prefix = cache_prefix(model.llm, image, room=count + 8)
    times: list[float] = []
    generate(
        model.llm,
        prompt,
        max_new_tokens=count + 1,
        stop_ids=(),
        prefix=prefix,
        on_token=lambda _: times.append(clock()),
    )
    return (times[-1] - times[0]) / count
