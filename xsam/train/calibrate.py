"""Choose the thresholds of a trained checkpoint on validation scenes.

    python -m xsam.train.calibrate runs/tiny/stage3/checkpoint

Prints one JSON line: `reject_below`, the score below which a phrase is answered "not found", and
`instance_threshold`, the minimum score of instances and panoptic segments, and the section `calibration` of
`config.json`, which says when an answer is unsure; with the measurements behind them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from tqdm import tqdm

from xsam.console import ErrorCommand
from xsam.engine import XSam
from xsam.eval.questions import PanopticTruth, RegionTruth
from xsam.eval.scene_questions import scene_questions
from xsam.eval.scenes import IMAGE_HW, parse_seeds
from xsam.eval.scoreboard import Scoreboard
from xsam.inference.forward import ForwardPass
from xsam.sim.render import render
from xsam.sim.scene import VALIDATION_SEEDS, sample_scene
from xsam.train.evidence import SceneEvidence, calibrate_evidence, scene_evidence
from xsam.types.requests import Task
from xsam.weights.checkpoint import load_checkpoint, resolve_model
from xsam.weights.x2sam import is_x2sam, load_x2sam

MAX_FALSE_ALARM = 0.055
"""Target on validation scenes, slightly below the target on unseen ones."""

INSTANCE_THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6)


def choose_rejection(
    present: Sequence[float], absent: Sequence[float], *, max_false_alarm: float = MAX_FALSE_ALARM
) -> float:
    """Return the highest threshold that rejects at most a given share of the present phrases.

    Args:
        present: best scores of phrases with a match in the image.
        absent: best scores of phrases without a match.
        max_false_alarm: maximum share of `present` below the threshold.

    Returns:
        A threshold with two decimals, no higher than needed to reject all of `absent`.
    """
    allowed = np.quantile(np.asarray(present), max_false_alarm) if len(present) else 0.0
    needed = max(absent, default=0.0) + 0.01
    return float(np.floor(100 * min(allowed, needed)) / 100)


def calibrate(
    folder: Path, seeds: range, *, per_scene: int = 4, show_progress: bool = False
) -> dict[str, Any]:
    """Choose thresholds for a checkpoint from its results on the scenes of `seeds`."""
    network, tokenizer = load_x2sam(folder) if is_x2sam(folder) else load_checkpoint(folder)
    model = XSam(network, tokenizer, model_id=folder.name)
    forward = ForwardPass(network, tokenizer, model_id=folder.name)
    scores: dict[bool, list[float]] = {True: [], False: []}  # key: the phrase is absent
    evidence: list[SceneEvidence] = []
    boards = {threshold: Scoreboard() for threshold in INSTANCE_THRESHOLDS}
    for seed in tqdm(seeds, unit="scene", disable=not show_progress, mininterval=5.0):
        view = render(sample_scene(seed), image_hw=IMAGE_HW)
        evidence.append(scene_evidence(forward, seed, view))
        questions = list(scene_questions(seed, view, per_scene=per_scene))
        phrases = [q for q in questions if q.group in (Task.REFERRING.value, Task.REASONING.value)]
        queries = [replace(q.query, score_threshold=0.0) for q in phrases]
        for question, result in zip(phrases, model.segment(view.rgb, queries), strict=True):
            assert isinstance(question.truth, RegionTruth)
            best = float(result.segments.scores.max(initial=0.0))
            scores[not question.truth.mask.any()].append(best)
        for question in questions:
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
        "present_rejected": _share_below(scores[False], reject_below),
        "instance_threshold": max(INSTANCE_THRESHOLDS, key=lambda t: quality[t] or 0.0),
        "panoptic_pq": quality,
        "calibration": calibrate_evidence(evidence).to_dict(),
        "places_right": {
            "own": _share([right for scene in evidence for right in scene.own_places]),
            "corrected": _share([right for scene in evidence for right in scene.corrected_places]),
        },
        "phrases": len(scores[False]) + len(scores[True]),
        "n": len(seeds),
    }


def _share_below(values: Sequence[float], threshold: float) -> float | None:
    return _share([value < threshold for value in values])


def _share(flags: Sequence[bool]) -> float | None:
    return round(float(np.mean(flags)), 4) if flags else None


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(cls=ErrorCommand)
def main(
    model: Annotated[Path, typer.Argument(help="Checkpoint folder.")],
    scenes: Annotated[
        str, typer.Option(metavar="START:COUNT", help="Seeds of the scenes; do not use test seeds.")
    ] = f"{VALIDATION_SEEDS.start + 1000}:1000",
) -> None:
    """Choose thresholds on validation scenes."""
    seeds = parse_seeds(scenes)
    print(json.dumps(calibrate(resolve_model(model)[0], seeds, show_progress=True)))


if __name__ == "__main__":
    app()
