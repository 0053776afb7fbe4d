"""What is right and what is wrong in labels, by comparison with true ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from benchmarks.labels.clips import Box, Example
from benchmarks.labels.detector import iou

_SAME = 0.5
_COVERED = 0.3  # of the box of an ignored region and that of an object


def label_quality(automatic: Sequence[Example], true: Sequence[Example]) -> dict[str, float]:
    """Return shares of the labels, and of the true objects.

    `labels_wrong_class` are on an object of another category, `labels_poor` on one that they overlap too
    little, `labels_of_nothing` on none. What the truth ignores (slivers) counts nowhere.
    """
    counts: Counter[str] = Counter()
    overlaps = []
    for mine, right in zip(automatic, true, strict=True):
        for name, box in mine.objects:
            best = _best(box, [other for kind, other in right.objects if kind == name])
            anywhere = _best(box, [other for _, other in right.objects])
            if best < _SAME and _best(box, [other for _, other in right.ignored]) > _COVERED:
                continue
            counts["labels"] += 1
            if best >= _SAME:
                counts["right"] += 1
                overlaps.append(best)
            else:
                kind = "wrong_class" if anywhere >= _SAME else "poor" if best > 0.1 else "of_nothing"
                counts[kind] += 1
        for name, box in right.objects:
            counts["objects"] += 1
            if _best(box, [other for kind, other in mine.objects if kind == name]) >= _SAME:
                counts["labeled"] += 1
            elif _best(box, [other for _, other in mine.ignored]) >= _COVERED:
                counts["ignored"] += 1
            else:
                counts["missed"] += 1
    labels, objects = max(1, counts["labels"]), max(1, counts["objects"])
    return {
        **{
            f"labels_{kind}": round(counts[kind] / labels, 4)
            for kind in ("right", "wrong_class", "poor", "of_nothing")
        },
        "labels_iou": round(sum(overlaps) / max(1, len(overlaps)), 4),
        **{f"objects_{kind}": round(counts[kind] / objects, 4) for kind in ("labeled", "ignored", "missed")},
    }


def _best(box: Box, others: Sequence[Box]) -> float:
    return max((iou(box, other) for other in others), default=0.0)
