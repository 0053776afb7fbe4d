"""Queries with more categories than the language model has room for: several passes, joined afterward.

Categories compete: the probabilities of one object add up to 1 with "none of them". In separate passes, an
object could have a confident label in each. So queries of different passes that show the same pixels become
one, with the logits of all their categories, which are cosines on the same scale in every pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from xsam.inference.results import Prediction
from xsam.types.requests import Query

SAME_QUERY_IOU = 0.5


def split_categories(query: Query, count: int) -> Iterator[Query]:
    """Divide the categories of a query into parts of about the same size, in their order."""
    things, names = len(query.thing_classes), query.thing_classes + query.stuff_classes
    bounds = [round(len(names) * part / count) for part in range(count + 1)]
    for start, end in itertools.pairwise(bounds):
        yield replace(
            query,
            thing_classes=names[start : min(end, max(things, start))],
            stuff_classes=names[max(start, min(things, end)) : end],
        )


def join_passes(passes: Sequence[Prediction]) -> Prediction:
    """Join the predictions of passes over parts of the categories, in the order of the parts.

    Returns:
        Logits of all categories and background (Q, K + 1), and masks (Q, h, w). A query that shows the pixels
        of none in another pass has −∞ for that pass's categories. Joined queries have the smaller background
        logit ("none of all" is at most as likely as "none of a part"), and the mask of the pass that is surer
        of a category.
    """
    first = passes[0]
    assert first.class_logits is not None
    assert first.mask_logits is not None
    logits, masks = first.class_logits.float(), first.mask_logits.float()
    for following in passes[1:]:
        assert following.class_logits is not None
        assert following.mask_logits is not None
        logits, masks = _joined(
            (logits, masks), (following.class_logits.float(), following.mask_logits.float())
        )
    return Prediction(class_logits=logits, mask_logits=masks)


def _joined(known: tuple[Tensor, Tensor], added: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    logits, masks = known
    more_logits, more_masks = added
    before, after = logits.shape[1] - 1, more_logits.shape[1] - 1
    rows, columns = _pairs(masks, more_masks)
    alone = torch.ones(len(more_masks), dtype=torch.bool, device=masks.device)
    alone[columns] = False
    count = len(masks) + int(alone.sum())
    joined = logits.new_full((count, before + after + 1), float("-inf"))
    joined[: len(masks), :before], joined[: len(masks), -1] = logits[:, :before], logits[:, -1]
    joined[len(masks) :, before:] = more_logits[alone]
    joined[rows, before:-1] = more_logits[columns, :-1]
    joined[rows, -1] = torch.minimum(logits[rows, -1], more_logits[columns, -1])
    surer = _certainty(more_logits[columns]) > _certainty(logits[rows])
    masks = torch.cat([masks, more_masks[alone]])
    masks[rows[surer]] = more_masks[columns[surer]]
    return joined, masks


def _certainty(logits: Tensor) -> Tensor:
    return logits.softmax(dim=-1)[:, :-1].amax(dim=-1)


def _pairs(masks: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Pair queries that show the same pixels, each with at most one, the most similar ones first."""
    inside, outside = ((m > 0).flatten(1).float() for m in (masks, others))
    shared = inside @ outside.T
    union = inside.sum(dim=1)[:, None] + outside.sum(dim=1) - shared
    iou = shared / union.clamp_min(1)
    rows: list[int] = []
    columns: list[int] = []
    for flat in iou.flatten().argsort(descending=True).tolist():
        row, column = divmod(flat, len(others))
        if iou[row, column] < SAME_QUERY_IOU:
            break
        if row not in rows and column not in columns:
            rows.append(row)
            columns.append(column)
    index = torch.long
    return (
        torch.tensor(rows, dtype=index, device=masks.device),
        torch.tensor(columns, dtype=index, device=masks.device),
    )
