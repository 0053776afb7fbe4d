"""Objects whose category is undecided: something is there for certain, and no category of a list has it.

Categories compete. A mug seen from above is 0.4 mug and 0.4 box, so that neither reaches the score from which
a list of categories shows an object, and an overview of the table would lack a mug in plain sight. Such an
object belongs to the answer, with its best label and in doubt (`xsam.inference.doubts`).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from xsam.inference.mask_support import runners_up
from xsam.inference.postprocess import (
    DUPLICATE_IOU,
    Check,
    UnlabeledSegments,
    always_go_on,
    instances,
    probabilities,
    repeats,
)
from xsam.inference.upsample import MaskGeometry


def with_undecided(
    decided: UnlabeledSegments,
    class_logits: Tensor,
    mask_logits: Tensor,
    geometry: MaskGeometry,
    *,
    threshold: float,
    nested: float | None = None,
    check: Check = always_go_on,
) -> UnlabeledSegments:
    """Add the objects that reach a threshold with all categories together, and with none of them alone.

    Args:
        decided: what reaches it with one category; whatever repeats one of these is not added.
        class_logits: (Q, K + 1), background last.
        mask_logits: (Q, h, w).
        geometry: from masks to camera pixels.
        threshold: as for `instances`.
        nested: as for `without_duplicates`, across categories.
        check: called in every loop; may raise.

    Returns:
        `decided` and the others, each once, with the category and the score that are best for it.
    """
    if class_logits.shape[1] < 3:
        return decided
    others = torch.ones(len(class_logits), dtype=torch.bool, device=class_logits.device)
    others[decided.queries] = False
    rows = others.nonzero()[:, 0]
    anything = torch.stack([class_logits[:, :-1].logsumexp(dim=1), class_logits[:, -1]], dim=1)
    found = instances(anything[rows], mask_logits[rows], geometry, threshold=threshold, check=check)
    kept: list[int] = []
    for index in found.scores.argsort(descending=True, stable=True).tolist():
        check()
        shown = [*decided.masks, *(found.masks[k] for k in kept)]
        if not repeats(found.masks[index], shown, DUPLICATE_IOU, nested):
            kept.append(index)
    found = found.pick(torch.tensor(kept, dtype=torch.long, device=found.queries.device))
    p = probabilities(class_logits)
    queries = rows[found.queries]
    best, labels = p[queries].max(dim=1)
    found = replace(
        found,
        label_indices=labels,
        scores=found.scores * best / p[queries].sum(dim=1),
        runners_up=runners_up(p, queries, labels),
        queries=queries,
    )
    return UnlabeledSegments.joined([decided, found])
