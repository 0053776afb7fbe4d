"""Choose the thresholds of a trained checkpoint on validation scenes.

    python -m xsam.train.calibrate runs/tiny/stage3/checkpoint

Prints one JSON line: `reject_below`, the least score with which a phrase is answered, and
`instance_threshold`, the least score of instances and panoptic segments, each with what was measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from xsam.engine import XSam
from xsam.eval.questions import PanopticTruth, RegionTruth
from xsam.eval.scene_questions import scene_questions
from xsam.eval.scenes import IMAGE_HW, parse_seeds
from xsam.eval.scoreboard import Scoreboard
from xsam.sim.render import render
from xsam.sim.scene import VALIDATION_SEEDS, sample_scene
from xsam.types.requests import Task

MAX_FALSE_ALARM = 0.055
"""Aimed at on validation scenes, a little below what is wanted of unseen ones."""

INSTANCE_THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6)


def choose_rejection(
    present: Sequence[float], absent: Sequence[float], *, max_false_alarm: float = MAX_FALSE_ALARM
) -> float:
    """The highest threshold that rejects no more than a share of what is there.

    Args:
        present: best scores of phrases that something fits.
        absent: best scores of phrases that nothing fits.
        max_false_alarm: greatest share of `present` below the threshold.

    Returns:
        A threshold with two decimals; not higher than needed to reject all of `absent`.
    """
    allowed = np.quantile(np.asarray(present), max_false_alarm) if len(present) else 0.0
    needed = max(absent, default=0.0) + 0.01
    return float(np.floor(100 * min(allowed, needed)) / 100)


def calibrate(
    model: XSam, seeds: range, *, per_scene: int = 4, show_progress: bool = False
) -> dict[str, Any]:
    """Thresholds for a model, from its answers on the scenes of `seeds`."""
    scores: dict[bool, list[float]] = {True: [], False: []}  # by absence
    boards = {threshold: Scoreboard() for threshold in INSTANCE_THRESHOLDS}
    for seed in tqdm(seeds, unit="scene", disable=not show_progress, mininterval=5.0):
        view = render(sample_scene(seed), image_hw=IMAGE_HW)
        asked = list(scene_questions(seed, view, per_scene=per_scene))
        phrases = [q for q in asked if q.query.task in (Task.REFERRING, Task.REASONING)]
        queries = [replace(q.query, score_threshold=0.0) for q in phrases]
        for question, result in zip(phrases, model.segment(view.rgb, queries), strict=True):
            assert isinstance(question.truth, RegionTruth)
            best = float(result.segments.scores.max(initial=0.0))
            scores[not question.truth.mask.any()].append(best)
        for question in asked:
            if isinstance(question.truth, PanopticTruth):
                queries = [replace(question.query, score_threshold=t) for t in INSTANCE_THRESHOLDS]
                for threshold, result in zip(
                    INSTANCE_THRESHOLDS, model.segment(view.rgb, queries), strict=True
                ):
                    boards[threshold].add(question, result)
    reject_below = choose_rejection(scores[False], scores[True])
    quality = {threshold: board.scores().get("panoptic_pq") for threshold, board in boards.items()}
    return {
        "reject_below": reject_below,
        "absent_rejected": _share_below(scores[True], reject_below),
        "false_alarm": _share_below(scores[False], reject_below),
        "instance_threshold": max(INSTANCE_THRESHOLDS, key=lambda t: quality[t] or 0.0),
        "panoptic_pq": quality,
        "phrases": len(scores[False]) + len(scores[True]),
        "n": len(seeds),
    }


def _share_below(values: Sequence[float], threshold: float) -> float | None:
    return round(float(np.mean(np.asarray(values) < threshold)), 4) if values else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m xsam.train.calibrate`."""
    default = range(VALIDATION_SEEDS.start + 1000, VALIDATION_SEEDS.start + 1300)
    parser = argparse.ArgumentParser(prog="xsam.train.calibrate", description="Choose thresholds.")
    parser.add_argument("model", type=Path, help="checkpoint folder")
    parser.add_argument("--scenes", type=parse_seeds, default=default, help="START:COUNT, not test seeds")
    options = parser.parse_args(arguments)
    print(json.dumps(calibrate(XSam.load(options.model), options.scenes, show_progress=True)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
