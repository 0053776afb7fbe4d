"""Training heads against hand-computed values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.unit.train.small import referring, small_config
from xsam.config import REGION_ID
from xsam.data.samples import PromptedImage
from xsam.train.collate import Collator, TrainBatch
from xsam.train.heads import BACKGROUND_WEIGHT, AttributeHeads, ClosedSetHead, GroundingHead, WordHead
from xsam.train.losses import Matching, PromptTarget

CELLS = 4  # feature maps of 4×4 cells
SURE = 40.0


@pytest.fixture(scope="module")
def template(tokenizer: Any) -> TrainBatch:
    """Return a batch of one image; the tests insert their own masks."""
    sample = PromptedImage(
        rgb=np.zeros((8, 8, 3), np.uint8), masks=np.zeros((0, 8, 8), bool), prompts=(referring("it", []),)
    )
    return Collator(small_config(len(tokenizer)), tokenizer)([sample])


def _batch(
    template: TrainBatch,
    boxes: Sequence[tuple[slice, slice]],
    classes: Sequence[int],
    *,
    colors: Sequence[int] | None = None,
    ignored: tuple[slice, slice] | None = None,
    targets: Sequence[Sequence[int] | None] = (),
) -> TrainBatch:
    """Return a batch of one 8×8 image, two pixels per cell."""
    masks, unknown = torch.zeros(len(boxes), 8, 8, dtype=torch.bool), torch.zeros(1, 8, 8, dtype=torch.bool)
    for mask, box in zip(masks, boxes, strict=True):
        mask[box] = True
    if ignored is not None:
        unknown[0][ignored] = True
    return dataclasses.replace(
        template,
        masks=[masks],
        classes=[torch.tensor(classes, dtype=torch.long)],
        attributes={} if colors is None else {"color": [torch.tensor(colors)]},
        ignored=unknown,
        targets=[[None if t is None else PromptTarget(labels=torch.tensor(t)) for t in targets]],
    )


def test_the_closed_set_stands_in_for_conditions() -> None:
    head = ClosedSetHead(5, 8)
    conditions = head.conditions(3)
    assert conditions.shape == (3, 1, 5, 8)
    for row in conditions:
        assert torch.equal(row[0], head.classes.weight)


# ---------------------------------------------------------------------------------------- pixels


def _pixel_heads(logits: Tensor, colors: int) -> AttributeHeads:
    """Return heads for two classes whose features are the logits themselves."""
    heads = AttributeHeads(2, {"color": colors}, feature_size=len(logits), hidden_dim=4)
    torch.nn.init.zeros_(heads.pixels.bias)  # type: ignore[arg-type]
    heads.pixels.weight.data = torch.eye(len(logits))[..., None, None]
    return heads


TOP_LEFT, RIGHT = (slice(0, 4), slice(0, 4)), (slice(0, 8), slice(6, 8))


def test_pixels_are_told_class_and_color(template: TrainBatch) -> None:
    """Four cells of class 1, four of class 0, eight of none, two of which do not count."""
    batch = _batch(template, [TOP_LEFT, RIGHT], [1, 0], colors=[2, -1], ignored=(slice(6, 8), slice(0, 4)))
    logits = torch.zeros(1 + 2 + 3, CELLS, CELLS)
    logits[0] = 1.0  # "nothing" everywhere
    logits[3 + 2] = 2.0  # color 2 everywhere
    loss = _pixel_heads(logits, 3).pixel_loss(logits[None], batch)
    chance = [math.e / (math.e + 2), 1 / (math.e + 2), 1 / (math.e + 2)]
    weights = 4 + 4 + 6 * BACKGROUND_WEIGHT
    by_class = -(
        4 * math.log(chance[2]) + 4 * math.log(chance[1]) + 6 * BACKGROUND_WEIGHT * math.log(chance[0])
    )
    by_color = -math.log(math.exp(2) / (math.exp(2) + 2))  # of the first object alone
    assert float(loss.detach()) == pytest.approx(by_class / weights + 0.5 * by_color, rel=1e-5)


def test_pixels_without_known_colors_are_told_the_class_alone(template: TrainBatch) -> None:
    logits = torch.randn(6, CELLS, CELLS, generator=torch.Generator().manual_seed(0))
    batch = _batch(template, [TOP_LEFT], [1])
    heads = _pixel_heads(logits, 3)
    alone = heads.pixel_loss(logits[None], batch)
    for colors in ([-1], None):
        again = heads.pixel_loss(logits[None], _batch(template, [TOP_LEFT], [1], colors=colors))
        assert torch.equal(again, alone)


# ---------------------------------------------------------------------------------------- tokens


def test_tokens_are_told_what_their_cells_show(template: TrainBatch) -> None:
    """The top left cells show class 1 in color 2, the right ones class 0; two cells do not count."""
    batch = _batch(template, [TOP_LEFT, RIGHT], [1, 0], colors=[2, -1], ignored=(slice(6, 8), slice(0, 4)))
    heads = AttributeHeads(2, {"color": 3}, feature_size=1, hidden_dim=1, token_size=5)
    assert heads.tokens is not None
    heads.tokens.weight.data = torch.eye(5)[..., None, None]
    torch.nn.init.zeros_(heads.tokens.bias)  # type: ignore[arg-type]
    tokens = torch.zeros(1, 5, CELLS, CELLS)
    tokens[:, 1] = 2.0  # class 1 everywhere
    right, wrong = math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))
    expected = 4 * math.log(2) + (4 * right + 10 * wrong) / 14
    assert float(heads.token_loss(tokens, batch).detach()) == pytest.approx(expected, rel=1e-5)
    known = tokens.clone()
    known[:, 1] = -SURE
    known[:, 1, :2, :2] = SURE
    assert float(heads.token_loss(known, batch).detach()) == pytest.approx(4 * math.log(2), rel=1e-5)


# ----------------------------------------------------------------------------------------- words


def test_conditions_are_told_their_words(template: TrainBatch) -> None:
    """The first condition has words 3 and 1; the second one is padding, the third a region."""
    head = WordHead(hidden_dim=4, vocabulary=4)
    head.words.weight.data = torch.eye(4)
    torch.nn.init.zeros_(head.words.bias)
    spans = torch.zeros(1, 1, 3, 6)
    spans[0, 0, 0, [1, 2, 4]] = 1 / 3
    spans[0, 0, 2, 5] = 1.0
    ids = torch.tensor([[0, 3, 1, 2, 3, REGION_ID]])
    batch = dataclasses.replace(template, text_ids=ids, span_weights=spans)
    conditions = torch.zeros(1, 1, 3, 4)
    conditions[0, 0, 0, 3] = 1.0
    total = math.log(math.e + 3)
    expected = ((total - 1.0) + total) / 2  # each word once, however often it is said
    assert float(head(conditions, batch).detach()) == pytest.approx(expected, rel=1e-5)
    nothing = dataclasses.replace(batch, span_weights=torch.zeros_like(spans))
    assert float(head(conditions, nothing).detach()) == 0.0


# --------------------------------------------------------------------------------------- queries


def test_matched_queries_are_told_class_and_color(template: TrainBatch) -> None:
    """Query 1 was matched to the mask of class 0 and color 2, query 0 to one of unknown class and color."""
    batch = _batch(template, [TOP_LEFT, RIGHT], [0, -1], colors=[2, -1])
    heads = AttributeHeads(2, {"color": 3}, feature_size=4, hidden_dim=5)
    heads.queries.weight.data = torch.eye(5)
    torch.nn.init.zeros_(heads.queries.bias)
    states = torch.zeros(1, 1, 3, 5)
    states[0, 0, 1] = torch.tensor([1.0, 0.0, 0.0, 0.0, 3.0])
    matching = Matching(
        image=torch.tensor([0, 0]),
        prompt=torch.tensor([0, 0]),
        query=torch.tensor([0, 1]),
        mask=torch.tensor([1, 0]),
        label=torch.tensor([-1, -1]),
    )
    expected = math.log(1 + math.exp(-1)) + math.log(1 + 2 * math.exp(-3))
    assert float(heads.query_loss(states, matching, batch).detach()) == pytest.approx(expected, rel=1e-5)
    nothing = Matching(**{f.name: torch.zeros(0, dtype=torch.long) for f in dataclasses.fields(Matching)})
    assert float(heads.query_loss(states, nothing, batch).detach()) == 0.0


# ------------------------------------------------------------------------------------- grounding


def _grounding(query: float) -> tuple[GroundingHead, Tensor]:
    """Return a head whose map is high on the left half for embedding 1 and on the right for −1."""
    head = GroundingHead(hidden_dim=1, feature_size=1)
    head.query.weight.data.fill_(query)
    head.query.bias.data.zero_()
    head.bias.data.zero_()
    features = torch.ones(1, 1, CELLS, CELLS)
    features[..., 2:] = -1
    return head, features


LEFT = (slice(0, 8), slice(0, 4))


def test_the_coarse_mask_is_bce_and_dice(template: TrainBatch) -> None:
    """Features have mean 0 and variance 1, so the logit is ± the query: p = ¾ on the object, ¼ beside it."""
    batch = _batch(template, [LEFT, TOP_LEFT], [0, 0], targets=[[0, -1]])
    head, features = _grounding(math.log(3))
    loss = head(torch.ones(1, 1, 1), features, batch)
    dice = 1 - (2 * 8 * 0.75 + 1) / (8 * 0.75 + 8 * 0.25 + 8 + 1)
    assert float(loss.detach()) == pytest.approx(-5 * math.log(0.75) + dice, rel=1e-4)


def test_what_is_meant_is_the_union_and_absent_means_nowhere(template: TrainBatch) -> None:
    right = (slice(0, 8), slice(4, 8))
    batch = _batch(template, [LEFT, right, TOP_LEFT], [0, 0, 0], targets=[[0, 1, -1], [-1, -1, -1]])
    head, features = _grounding(0.0)
    for bias, first, second in ((SURE, 0.0, 5 * SURE), (-SURE, 5 * SURE, 0.0)):
        head.bias.data.fill_(bias)
        bce = first + second
        dice = 1 - 1 / (16 + 1)  # of the wrong one
        loss = float(head(torch.ones(1, 2, 1), features, batch).detach())
        assert loss == pytest.approx((bce + dice) / 2, rel=1e-4)


def test_prompts_that_are_not_there_count_for_nothing(template: TrainBatch) -> None:
    head, features = _grounding(1.0)
    alone = head(torch.ones(1, 1, 1), features, _batch(template, [LEFT], [0], targets=[[0]]))
    padded = _batch(template, [LEFT], [0], targets=[[0], None])
    embeds = torch.tensor([[[1.0], [-9.0]]], requires_grad=True)
    loss = head(embeds, features, padded)
    assert float(loss.detach()) == pytest.approx(float(alone.detach()), rel=1e-6)
    loss.backward()
    assert embeds.grad is not None
    assert embeds.grad[0, 0].any()
    assert not embeds.grad[0, 1].any()


def test_a_picture_without_masks_is_grounded_nowhere(template: TrainBatch) -> None:
    head, features = _grounding(0.0)
    head.bias.data.fill_(-SURE)
    loss = head(torch.ones(1, 1, 1), features, _batch(template, [], [], targets=[[]]))
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-5)
