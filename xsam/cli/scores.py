"""Scores of an evaluation as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

_TASKS = {
    "referring": "referring expressions",
    "iou": "… by kind",
    "relation": "… that compare objects",
    "reasoning": "reasoning questions",
    "absent_rejected": "absent phrases",
    "present_rejected": "present phrases",
    "interactive": "interactive",
    "category": "categories",
    "instance": "instances",
    "grefcoco": "generalized expressions",
    "vgd": "visual grounded",
    "panoptic": "panoptic",
    "semantic": "semantic",
    "gcg": "grounded captions",
    "presence": "presence",
    "absent": "absent phrases",
    "near": "near misses",
    "miss": "… by kind",
    "count": "numbers of objects",
}
_METRICS = {
    "miou": "mean IoU",
    "iou": "mean IoU",
    "ciou": "cIoU",
    "giou": "gIoU, including absent ones",
    "n_acc": 'N-acc: share of absent ones reported "not found"',
    "t_acc": "T-acc: share of present ones not reported so",
    "p50": "share with IoU of at least 0.5",
    "ap": "mask AP",
    "ap50": "mask AP50",
    "ap75": "mask AP75",
    "pq": "PQ",
    "sq": "SQ",
    "rq": "RQ",
    "pq_things": "PQ of things",
    "pq_stuff": "PQ of stuff",
    "truth_miou": "mean IoU, including missed phrases",
    "precision": "precision of phrases",
    "recall": "recall of phrases",
    "mention_precision": "precision of phrases by their words",
    "mention_recall": "recall of phrases by their words",
    "mcc": 'correlation of "found" with what is there (Matthews)',
    "auc": "area under the ROC curve",
    **{f"rejected_at_{share}": f"share rejected at {share} % false alarms" for share in ("01", "05", "10")},
    "miss_believed": 'share answered "found"',
    **{
        f"{kind}_believed": f'{kind}, answered "found"'
        for kind in ("color", "side", "order", "part", "negated")
    },
    "exact": "share counted exactly",
    "mae": "mean error",
    "caption_f1": "F1 of content words",
    "cider": "CIDEr-D, 0 to 10",
}


def score_table(scores: Mapping[str, Any]) -> Table:
    """Build a table of the scores that have a value, with their names spelled out."""
    table = Table("task", "score", "value")
    previous = ""
    for name, value in scores.items():
        description = _describe_score(name)
        if description is None or value is None:
            continue
        task, metric = description
        table.add_row("" if task == previous else task, metric, f"{value:.3f}")
        previous = task
    return table


def _describe_score(name: str) -> tuple[str, str] | None:
    """Return task and metric of a score by its name; None if it is not a score."""
    if name in ("absent_rejected", "present_rejected"):
        return _TASKS[name], 'share reported "not found"'
    task, _, metric = name.partition("_")
    if task not in _TASKS or not metric:
        return None
    if task == "iou":
        return _TASKS[task], f"{metric.replace('_', ' ')}, mean IoU"
    if task in ("interactive", "vgd"):
        kind, _, metric = metric.rpartition("_")
        return _TASKS[task], f"{kind}, {_METRICS[metric]}" if kind else _METRICS[metric]
    return _TASKS[task], _METRICS[metric]


def describe_run(scores: Mapping[str, Any]) -> str:
    """Return the numbers of images and questions, and the protocol."""
    counts = ", ".join(f"{count} {group}" for group, count in scores["counts"].items())
    failed = f", {scores['failed']} without a result" if scores["failed"] else ""
    protocol = f"\n{scores['protocol']}" if "protocol" in scores else ""
    return f"{scores['n']} images, {scores['questions']} questions{failed}: {counts or 'none'}{protocol}"
