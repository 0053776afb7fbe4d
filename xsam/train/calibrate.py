"""Choose the thresholds of a trained checkpoint on validation scenes.

    python -m xsam.train.calibrate runs/tiny/stage3/checkpoint

Prints one JSON line: `reject_below`, the score below which a phrase is answered "not found", and
`instance_threshold`, the minimum score of instances and panoptic segments, and the section `calibration` of
`config.json`, which says when an answer is unsure; with the measurements behind them.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from tqdm import tqdm

from xsam.console import ErrorCommand
from xsam.engine import XSam
from xsam.eval.questions import PanopticTruth, Question, RegionTruth
from xsam.eval.scene_questions import scene_questions
from xsam.eval.scenes import IMAGE_HW, parse_seeds
from xsam.eval.scoreboard import Scoreboard
from xsam.inference.forward import ForwardPass
from xsam.sim.render import render
from xsam.sim.scene import VALIDATION_SEEDS, sample_scene
from xsam.train.evidence import SceneEvidence, calibrate_evidence, scene_evidence
from xsam.types.requests import SegmentationResult, Task
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
    folder: Path, seeds: range, *, per_scene: int = 4, processes: int = 1, show_progress: bool = False
) -> dict[str, Any]:
    """Choose thresholds for a checkpoint from its results on the scenes of `seeds`.

    Args:
        folder: of the checkpoint.
        seeds: of validation scenes.
        per_scene: referring expressions of each scene.
        processes: that ask the model at the same time, each with one thread if there are several.
        show_progress: show a progress bar on stderr.
    """
    scores: dict[bool, list[float]] = {True: [], False: []}  # key: the phrase is absent
    evidence: list[SceneEvidence] = []
    boards = {threshold: Scoreboard() for threshold in INSTANCE_THRESHOLDS}
    findings = _findings(folder, seeds, per_scene, processes)
    for found in tqdm(findings, total=len(seeds), unit="scene", disable=not show_progress, mininterval=5.0):
        evidence.append(found.evidence)
        for is_absent, best in found.scores:
            scores[is_absent].append(best)
        for question, results in found.layouts:
            for threshold, result in zip(INSTANCE_THRESHOLDS, results, strict=True):
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _SceneFindings:
    """What the answers about one scene tell."""

    evidence: SceneEvidence
    scores: tuple[tuple[bool, float], ...]  # for each phrase, whether it is absent, and its best score
    layouts: tuple[tuple[Question, tuple[SegmentationResult, ...]], ...]  # with `INSTANCE_THRESHOLDS`


class _Subject:
    """The checkpoint, asked about one scene after the other."""

    def __init__(self, folder: Path, per_scene: int) -> None:
        network, tokenizer = load_x2sam(folder) if is_x2sam(folder) else load_checkpoint(folder)
        self._model = XSam(network, tokenizer, model_id=folder.name)
        self._forward = ForwardPass(network, tokenizer, model_id=folder.name)
        self._per_scene = per_scene

    def look(self, seed: int) -> _SceneFindings:
        view = render(sample_scene(seed), image_hw=IMAGE_HW)
        evidence = scene_evidence(self._forward, seed, view)
        questions = list(scene_questions(seed, view, per_scene=self._per_scene))
        phrases = [q for q in questions if q.group in (Task.REFERRING.value, Task.REASONING.value)]
        results = self._model.segment(view.rgb, [replace(q.query, score_threshold=0.0) for q in phrases])
        scores = []
        for question, result in zip(phrases, results, strict=True):
            assert isinstance(question.truth, RegionTruth)
            best = float(result.segments.scores.max(initial=0.0))
            scores.append((not question.truth.mask.any(), best))
        layouts = []
        for question in questions:
            if isinstance(question.truth, PanopticTruth):
                queries = [replace(question.query, score_threshold=t) for t in INSTANCE_THRESHOLDS]
                layouts.append((question, tuple(self._model.segment(view.rgb, queries))))
        return _SceneFindings(evidence=evidence, scores=tuple(scores), layouts=tuple(layouts))


_subjects: list[_Subject] = []  # the one of a worker process


def _begin(folder: Path, per_scene: int) -> None:
    torch.set_num_threads(1)
    _subjects.append(_Subject(folder, per_scene))


def _look(seed: int) -> _SceneFindings:
    return _subjects[0].look(seed)


def _findings(folder: Path, seeds: range, per_scene: int, processes: int) -> Iterator[_SceneFindings]:
    if processes == 1:
        yield from map(_Subject(folder, per_scene).look, seeds)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        processes, mp_context=context, initializer=_begin, initargs=(folder, per_scene)
    ) as pool:
        yield from pool.map(_look, seeds)


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
    processes: Annotated[int, typer.Option(min=1, help="That ask the model at the same time.")] = 1,
) -> None:
    """Choose thresholds on validation scenes."""
    seeds = parse_seeds(scenes)
    found = calibrate(resolve_model(model)[0], seeds, processes=processes, show_progress=True)
    print(json.dumps(found))


if __name__ == "__main__":
    app()
