"""The same weights the way the reference runs them, on the device: what the ratios are against."""

from __future__ import annotations

import time
from statistics import median

from benchmarks.gpu.runner import Record, Settings
from benchmarks.gpu.subject import PHRASES, Frames, repeats, subject_of
from benchmarks.plain import PlainXSam
from xsam.types.requests import Query


def run(settings: Settings, record: Record) -> None:
    subject, frames = subject_of(settings), Frames()

    def clock() -> float:
        subject.sync()
        return time.perf_counter()

    plain = PlainXSam(subject.model, subject.tokenizer, clock)
    times, stages = [], []
    for _ in range(1 + repeats(settings, 3)):
        rgb = frames.next()
        began = clock()
        mask, score = plain.segment(rgb, PHRASES[0])
        times.append(clock() - began)
        stages.append(dict(plain.stages_s))
    record("prompt_ms", round(median(times[1:]) * 1e3, 3))  # the first one warms up
    record("stages_ms", {name: round(spent * 1e3, 3) for name, spent in stages[-1].items()})
    result = subject.engine().segment(rgb, Query(text=PHRASES[0], score_threshold=0.0))
    best = int(result.segments.scores.argmax()) if len(result) else None
    record(
        "score_moved", None if best is None else round(abs(float(result.segments.scores[best]) - score), 5)
    )
    record("mask_iou", None if best is None else round(result.segments.masks[best].iou(mask), 4))
