"""Score a model on simulated scenes it has not seen, through `XSam.segment` and camera-size pictures.

    python -m xsam.eval.scenes tiny --scenes 2000000:500

The last line is JSON. Referring, reasoning and region scores are mean IoU of the union of the
answer's masks with the truth; an answer "not found" counts 0. Absent phrases are scored by how many
are answered "not found", false alarms by how many present ones are.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from xsam.engine import XSam
from xsam.masks import BoolMask, mask_iou
from xsam.sim.annotate import annotate
from xsam.sim.language import (
    EXPRESSION_KINDS,
    Expression,
    absent_expressions,
    reasoning_questions,
    referring_expressions,
)
from xsam.sim.render import RenderedView, render
from xsam.sim.scene import TEST_SEEDS, sample_scene
from xsam.structures import Query, SegmentationResult, Task, VisualPrompt

IMAGE_HW = (480, 640)
RELATION_KINDS = ("extreme_x", "ordinal", "size", "distance", "relation")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Question:
    """A query and the mask it means; `truth` is None when nothing fits."""

    kind: str
    query: Query
    truth: BoolMask | None


@dataclass(slots=True)
class Tally:
    """What has been measured so far."""

    ious: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    rejected: dict[bool, list[bool]] = field(default_factory=lambda: {True: [], False: []})  # by presence
    latency_s: list[float] = field(default_factory=list)

    def add(self, question: Question, result: SegmentationResult) -> None:
        if question.truth is None:
            self.rejected[False].append(not result.found)
            return
        if question.kind in EXPRESSION_KINDS or question.kind == "reasoning":
            self.rejected[True].append(not result.found)
        answer = result.masks.any(axis=0) if result.found else np.zeros_like(question.truth)
        self.ious[question.kind].append(mask_iou(answer, question.truth))

    def scores(self) -> dict[str, float]:
        def mean(kinds: Sequence[str]) -> float:
            values = [v for kind in kinds for v in self.ious.get(kind, [])]
            return round(statistics.fmean(values), 4) if values else float("nan")

        return {
            "referring_miou": mean(EXPRESSION_KINDS),
            "relation_miou": mean(RELATION_KINDS),
            "reasoning_miou": mean(["reasoning"]),
            "interactive_point_iou": mean(["point"]),
            "interactive_box_iou": mean(["box"]),
            "absent_rejected": _share(self.rejected[False]),
            "false_alarm": _share(self.rejected[True]),
            **{f"iou_{kind}": mean([kind]) for kind in EXPRESSION_KINDS},
        }


def _share(flags: Sequence[bool]) -> float:
    return round(sum(flags) / len(flags), 4) if flags else float("nan")


def questions(seed: int, view: RenderedView, *, per_scene: int) -> Iterator[Question]:
    """Questions on one scene, chosen by its seed: the same on every machine.

    Referring expressions are drawn uniformly from all that hold in the scene.
    """
    annotations = annotate(sample_scene(seed), view)
    rng = np.random.default_rng([seed, 99])

    def union(ids: Sequence[int]) -> BoolMask:
        return np.isin(view.instance_ids, ids)

    def some(expressions: Sequence[Expression], count: int) -> list[Expression]:
        return [expressions[i] for i in rng.permutation(len(expressions))[:count]]

    for expression in some(referring_expressions(annotations, view.rgb.shape[1]), per_scene):
        yield Question(
            kind=expression.kind,
            query=Query(task=Task.REFERRING, text=expression.text),
            truth=union(expression.instance_ids),
        )
    for expression in some(reasoning_questions(annotations), 1):
        yield Question(
            kind="reasoning",
            query=Query(task=Task.REASONING, text=expression.text),
            truth=union(expression.instance_ids),
        )
    for expression in some(absent_expressions(annotations, rng, count_per_kind=1), 2):
        task = Task.REASONING if expression.kind == "absent_reasoning" else Task.REFERRING
        yield Question(kind=expression.kind, query=Query(task=task, text=expression.text), truth=None)
    labelled = [item for item in annotations if item.labelled]
    if labelled:
        item = labelled[int(rng.integers(len(labelled)))]
        truth = union([item.instance_id])
        rows, columns = np.nonzero(truth)
        pick = int(rng.integers(len(rows)))
        point = VisualPrompt.point(float(columns[pick]), float(rows[pick]))
        yield Question(kind="point", query=Query(task=Task.INTERACTIVE, prompts=(point,)), truth=truth)
        box = VisualPrompt.box(*(float(v) for v in item.box_xyxy))
        yield Question(kind="box", query=Query(task=Task.INTERACTIVE, prompts=(box,)), truth=truth)


def evaluate(
    model: XSam, seeds: range, *, per_scene: int = 4, show_progress: bool = False
) -> dict[str, float]:
    """Scores of a model on the scenes of `seeds`."""
    tally = Tally()
    for seed in tqdm(seeds, unit="scene", disable=not show_progress, mininterval=5.0):
        view = render(sample_scene(seed), image_hw=IMAGE_HW)
        asked = list(questions(seed, view, per_scene=per_scene))
        if not asked:
            continue
        started = time.perf_counter()
        results = model.segment(view.rgb, [question.query for question in asked])
        tally.latency_s.append((time.perf_counter() - started) / len(asked))
        for question, result in zip(asked, results, strict=True):
            tally.add(question, result)
    asked_in_all = sum(map(len, tally.ious.values())) + len(tally.rejected[False])
    return {
        **tally.scores(),
        "ms_per_query_median": round(1000 * statistics.median(tally.latency_s), 1)
        if tally.latency_s
        else 0.0,
        "questions": asked_in_all,
        "n": len(seeds),
    }


def parse_seeds(text: str) -> range:
    """Seeds of a text START:COUNT."""
    start, _, count = text.partition(":")
    if not start.isdigit() or not count.isdigit() or int(count) < 1:
        raise argparse.ArgumentTypeError(f"expected START:COUNT, got {text!r}")
    return range(int(start), int(start) + int(count))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m xsam.eval.scenes`."""
    parser = argparse.ArgumentParser(
        prog="xsam.eval.scenes", description="Score a model on simulated scenes."
    )
    parser.add_argument("model", help='"tiny" or a checkpoint folder')
    parser.add_argument("--scenes", type=parse_seeds, default=range(TEST_SEEDS.start, TEST_SEEDS.start + 500))
    parser.add_argument("--per-scene", type=int, default=4, help="referring expressions a scene")
    options = parser.parse_args(arguments)
    scores = evaluate(
        XSam.load(options.model), options.scenes, per_scene=options.per_scene, show_progress=True
    )
    print(json.dumps(scores))
    return 0


if __name__ == "__main__":
    sys.exit(main())
