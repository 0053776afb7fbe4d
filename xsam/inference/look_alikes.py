"""All that look like a marked object: its category tells, and the census of the frame knows the others.

A small model that is shown one of three mugs may answer with that one alone, while it finds all three when
it is asked for mugs. The census of the frame is that question (`xsam.inference.census`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from xsam.inference.census import SAME_PIXELS, Census, best_label
from xsam.inference.mask_support import MaskSupport
from xsam.spatial.marks import obeys_mark
from xsam.types.masks import MaskRle
from xsam.types.nouns import plural
from xsam.types.requests import SegmentationResult, Status, Task
from xsam.types.segments import Segments


def with_look_alikes(
    result: SegmentationResult, support: MaskSupport, task: Task, census: Census, *, marks_here: bool = True
) -> tuple[SegmentationResult, MaskSupport]:
    """Return an answer to marks with the other objects of the marked categories; `hint` says so.

    Nothing is added to an answer without a segment, and where the query sets its own threshold, so that all
    that the model found is wanted.

    Args:
        result: of one query, before anything is doubted.
        support: what the network says for its masks.
        task: of the query.
        census: of the frame.
        marks_here: the marks are on this frame, not on an earlier one.
    """
    if task is not Task.VISUAL_GROUNDED or not len(result) or result.query.score_threshold is not None:
        return result, support
    segments = result.segments
    parts, supports, names = [segments], [support], []
    for label, name in marked_categories(result, census, marks_here).items():
        own = [mask for mask, of in zip(segments.masks, segments.labels, strict=True) if of == label]
        if added := _missing(census, name, own):
            number = int(segments.label_indices[segments.labels.index(label)])
            found = census.segments(added, segments.image_hw)
            numbers = np.full(len(added), number, np.int32)
            parts.append(replace(found, labels=(label,) * len(added), label_indices=numbers))
            supports.append(census.support.pick(added))
            names.append(name)
    if not names:
        return result, support
    joined, support = Segments.joined(parts), MaskSupport.joined(supports)
    order = np.argsort(-joined.scores, kind="stable")[: result.query.max_instances]
    hint = f"completed by a look for all {' and '.join(plural(name) for name in dict.fromkeys(names))}"
    hint = "; ".join(filter(None, (result.hint, hint)))
    complete = replace(result, status=Status.FOUND, segments=joined[order], hint=hint)
    return complete, support.pick(order.tolist())


def _missing(census: Census, name: str, shown: Sequence[MaskRle]) -> list[int]:
    """Return the objects of a category, with no better name, that none of the masks shows."""
    seen = MaskRle.iou_matrix(census.masks, shown).max(axis=1) > SAME_PIXELS
    return [
        index
        for index in census.objects(name)
        if not seen[index] and best_label(census.on(census.masks[index])) == name
    ]


def marked_categories(result: SegmentationResult, census: Census, marks_here: bool) -> dict[str, str]:
    """Return label → category of the segment at its mark, or else of the one with the best score."""
    found: dict[str, tuple[bool, float, str]] = {}
    positive = [mark for mark in result.query.prompts if mark.positive]
    segments = result.segments
    columns = zip(
        segments.masks,
        segments.labels,
        segments.label_indices.tolist(),
        segments.scores.tolist(),
        strict=True,
    )
    for mask, label, index, score in columns:
        if here := census.on(mask):
            at_mark = marks_here and obeys_mark(mask.decode(), positive[index], whole_object=True)
            name = best_label(here)
            found[label] = max(found.get(label, (False, 0.0, "")), (at_mark, score, name))
    return {label: name for label, (_, _, name) in found.items()}
