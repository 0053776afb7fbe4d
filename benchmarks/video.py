"""Measure a video session against the reference's way with a clip."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import peak_extra_mib, seconds_by_stage
from benchmarks.plain_x2sam import PlainX2Sam
from xsam.engine import XSam
from xsam.types.requests import Query

CLIP_FRAMES = 8  # as many as the reference reads at once


def measure_video(
    engine: XSam,
    plain: PlainX2Sam,
    frames: Sequence[NDArray[np.uint8]],
    phrase: str,
    clock: Callable[[], float],
    log: Callable[[str], None],
    *,
    repetitions: int,
) -> dict[str, Any]:
    """Return seconds of a frame, with the sessions and the clips in turns.

    A frame of the clip is its share of the clip. A step is the median over the frames after the first, most
    of which find the memory half filled; the last one finds it full. Whoever wants an answer about the newest
    frame of a stream from the reference has to run a clip that ends with it.
    """
    query = Query(text=phrase, score_threshold=0.0)
    clips: list[float] = []
    steps: list[float] = []
    full: list[float] = []
    stages: dict[str, list[float]] = defaultdict(list)
    extra: dict[str, float] = {}

    def run_clip() -> None:
        began = clock()
        plain.segment_clip(frames, phrase)
        clips.append(clock() - began)
        log(f"clip of {len(frames)} frames {clips[-1]:.2f} s, {plain.stages_s}")

    def run_session() -> None:
        session = engine.open_session(query, refresh_every=0)
        for frame in frames:
            marks: list[tuple[str, float]] = []
            session.step(frame, on_stage=lambda stage, marks=marks: marks.append((stage, clock())))  # type: ignore[misc]
            marks.append(("", clock()))
            if session.frame_count > 1:
                steps.append(marks[-1][1] - marks[0][1])
                for stage, spent in seconds_by_stage(marks).items():
                    stages[stage].append(spent)
        full.append(steps[-1])
        log(f"session: step {steps[-1]:.2f} s with a full memory")

    for index in range(repetitions):
        if index == 0:
            extra = {"clip": peak_extra_mib(run_clip), "session": peak_extra_mib(run_session)}
        else:
            run_clip()
            run_session()
    frame_s, step_s = median(clips) / len(frames), median(steps)
    return {
        "clip_frames": len(frames),
        "repetitions": repetitions,
        "plain_clip_s": round(median(clips), 3),
        "plain_frame_s": round(frame_s, 3),
        "step_s": round(step_s, 3),
        "full_memory_step_s": round(median(full), 3),
        "step_stages_s": {stage: round(median(values), 4) for stage, values in stages.items()},
        "step_ratio": round(frame_s / step_s, 2),
        "newest_frame_ratio": round(median(clips) / step_s, 2),
        "peak_extra_mib": round(extra["session"], 1),
        "plain_peak_extra_mib": round(extra["clip"], 1),
        "extra_memory_ratio": round(extra["session"] / extra["clip"], 3),
    }
