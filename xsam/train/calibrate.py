"""Choose the thresholds of a trained checkpoint on validation scenes.

    python -m xsam.train.calibrate runs/tiny/stage3/checkpoint

Prints one JSON line: `reject_below`, the score below which a phrase is answered "not found",
`instance_threshold`, the minimum score of panoptic segments (best panoptic quality), and the section
`calibration` of `config.json`, which says when an answer is unsure and has the minimum scores of instances
for other kinds of queries (best F1); with the measurements behind them.
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

from xsam.config.calibration import COMPLETED_KINDS, Kind
from xsam.console import ErrorCommand
from xsam.engine import XSam
from xsam.eval.questions import InstanceTruth, PanopticTruth, Question, RegionTruth
from xsam.eval.scene_questions import scene_questions
from xsam.eval.scenes import IMAGE_HW, parse_seeds
from xsam.eval.scoreboard import Scoreboard
from xsam.inference.forward import ForwardPass
from xsam.sim.render import render
from xsam.sim.scene import VALIDATION_SEEDS, sample_scene
from xsam.train.evidence import MIN_IOU, SceneEvidence, calibrate_evidence, scene_evidence
from xsam.types.masks import BoolMask, MaskRle
from xsam.types.requests import SegmentationResult, Task
from xsam.weights.checkpoint import load_checkpoint, resolve_model
from xsam.weights.x2sam import is_x2sam, load_x2sam

MAX_FALSE_ALARM = 0.055
"""Target on validation scenes, slightly below the target on unseen ones."""

INSTANCE_THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6)
SCORES = tuple(step / 20 for step in range(2, 15))
"""From 0.1 to 0.7."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Detections:
    """What was found for one query with instances, best first, and how many objects there are."""

    scores: tuple[float, ...]
    right: tuple[bool, ...]
    wanted: int


def choose_threshold(detections: Sequence[Detections]) -> float:
    """Return the score among `SCORES` that gives the best F1 of all detections; the highest of equal ones."""
    scores = np.array([score for found in detections for score in found.scores])
    right = np.array([flag for found in detections for flag in found.right], np.bool_)
    wanted = sum(found.wanted for found in detections)

    def f1(threshold: float) -> float:
        shown = scores >= threshold
        hits, found = int((right & shown).sum()), int(shown.sum())
        return 2 * hits / max(1, found + wanted)

    def quality(threshold: float) -> tuple[float, float]:
        return f1(threshold), threshold

    return max(SCORES, key=quality)


def detections_of(result: SegmentationResult, truth: InstanceTruth) -> Detections:
    """Match segments with objects of their label, best first; what lies on a crowd counts neither way."""
    segments = result.segments
    free = [[MaskRle.encode(mask) for mask in masks] for masks in truth.masks]
    scores, right = [], []
    for index in np.argsort(-segments.scores, kind="stable").tolist():
        label, mask = int(segments.label_indices[index]), segments.masks[index]
        ious = MaskRle.iou_matrix([mask], free[label])[0]
        hit = len(ious) > 0 and float(ious.max()) >= MIN_IOU
        if hit:
            free[label].pop(int(ious.argmax()))
        elif any(_lies_on(mask, crowd) for crowd in (truth.crowd[label] if truth.crowd else ())):
            continue
        scores.append(float(segments.scores[index]))
        right.append(hit)
    return Detections(
        scores=tuple(scores), right=tuple(right), wanted=sum(len(masks) for masks in truth.masks)
    )


def _lies_on(mask: MaskRle, crowd: BoolMask) -> bool:
    return bool(np.count_nonzero(mask.decode() & crowd) > 0.5 * mask.area)


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
    detections: dict[Kind, list[Detections]] = {"categories": [], "look_alike": []}
    findings = _findings(folder, seeds, per_scene, processes)
    for found in tqdm(findings, total=len(seeds), unit="scene", disable=not show_progress, mininterval=5.0):
        evidence.append(found.evidence)
        for is_absent, best in found.scores:
            scores[is_absent].append(best)
        for question, results in found.layouts:
            for threshold, result in zip(INSTANCE_THRESHOLDS, results, strict=True):
                boards[threshold].add(question, result)
        for kind, detected in found.detections:
            detections[kind].append(detected)
    reject_below = choose_rejection(scores[False], scores[True])
    quality = {threshold: board.scores().get("panoptic_pq") for threshold, board in boards.items()}
    thresholds = {kind: choose_threshold(detected) for kind, detected in detections.items() if detected}
    # A single category keeps `instance_threshold`: "not found" must not be said of what is only weak.
    calibration = replace(calibrate_evidence(evidence), thresholds=thresholds)
    return {
        "reject_below": reject_below,
        "absent_rejected": _share_below(scores[True], reject_below),
        "present_rejected": _share_below(scores[False], reject_below),
        "instance_threshold": max(INSTANCE_THRESHOLDS, key=lambda t: quality[t] or 0.0),
        "panoptic_pq": quality,
        "calibration": calibration.to_dict(),
        "places_right": {
            "own": _share([right for scene in evidence for right in scene.own_places]),
            "corrected": _share([right for scene in evidence for right in scene.corrected_places]),
        },
        "answers_right": {
            kind: {
                name: _counted([right for answers in found for right in answers[kind]])
                for name, found in (
                    ("own", [scene.own_answers for scene in evidence]),
                    ("completed", [scene.completed_answers for scene in evidence]),
                )
            }
            for kind in COMPLETED_KINDS
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
    detections: tuple[tuple[Kind, Detections], ...]


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
        detections: list[tuple[Kind, Detections]] = []
        for question in questions:
            if isinstance(question.truth, InstanceTruth):
                query = replace(question.query, score_threshold=SCORES[0])
                (result,) = self._model.segment(view.rgb, [query])
                kind: Kind = "look_alike" if question.query.prompts else "categories"
                detections.append((kind, detections_of(result, question.truth)))
        return _SceneFindings(
            evidence=evidence, scores=tuple(scores), layouts=tuple(layouts), detections=tuple(detections)
        )


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


def _counted(flags: Sequence[bool]) -> dict[str, int]:
    return {"right": sum(flags), "n": len(flags)}


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
