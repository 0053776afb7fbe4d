"""The segmentation loss against hand-computed values, and its matching against brute force."""

from __future__ import annotations

import itertools
import math
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from xsam.train.losses import LossWeights, MaskSampling, PromptTarget, segmentation_loss

LABEL, POINTS = MaskSampling(mode="label"), MaskSampling(mode="points", num_points=64)
WEIGHTS = LossWeights()
SURE = 30.0


def _target(*labels: int) -> PromptTarget:
    return PromptTarget(labels=torch.tensor(labels, dtype=torch.long))


def _noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _loss(
    class_logits: Tensor,
    mask_logits: Tensor,
    masks: Tensor,
    *targets: PromptTarget | None,
    weights: LossWeights = WEIGHTS,
    sampling: MaskSampling = LABEL,
) -> dict[str, Tensor]:
    """Compute the losses of one stage and one image."""
    losses, _ = segmentation_loss(
        [(class_logits[None], mask_logits[None])],
        [masks],
        [list(targets)],
        weights=weights,
        sampling=sampling,
        generator=torch.Generator().manual_seed(3),
    )
    return losses


# ------------------------------------------------------------------------------------- by hand


def _hand_case() -> tuple[Tensor, Tensor, Tensor]:
    """Return a case with one prompt, two queries, one condition and 2×3 pixels.

    Query 1 fits: its logits have the probabilities 0.8 and 0.6 on the object, 0.5 and 0.1 beside it.
    """
    classes = torch.tensor([[[0.0, math.log(4)], [math.log(3), 0.0]]])  # p of the condition: 0.2 and 0.75
    p = torch.tensor([[0.8, 0.5, 0.1], [0.6, 0.1, 0.1]])
    fits = (p / (1 - p)).log()
    return classes, torch.stack([-fits, fits])[None], torch.tensor([[[1.0, 0, 0], [1.0, 0, 0]]])


def test_terms_by_hand() -> None:
    losses = _loss(*_hand_case(), _target(0))
    entropy = (-math.log(0.75) - 0.1 * math.log(0.8)) / 1.1  # the other query is background, at a tenth
    bce = -(math.log(0.8) + math.log(0.6) + math.log(0.5) + 3 * math.log(0.9)) / 6
    dice = 1 - (2 * (0.8 + 0.6) + 1) / (0.8 + 0.6 + 0.5 + 0.3 + 2 + 1)
    assert float(losses["loss_cls"]) == pytest.approx(2 * entropy, rel=1e-5)
    assert float(losses["loss_mask"]) == pytest.approx(5 * bce, rel=1e-5)
    assert float(losses["loss_dice"]) == pytest.approx(5 * dice, rel=1e-5)


def test_a_mask_without_a_class_is_learned_as_background() -> None:
    """Its query learns background with full weight, not with the tenth of an unmatched query."""
    losses = _loss(*_hand_case(), _target(-1))
    entropy = (-math.log(0.25) - 0.1 * math.log(0.8)) / 1.1
    assert float(losses["loss_cls"]) == pytest.approx(2 * entropy, rel=1e-5)
    with_class = _loss(*_hand_case(), _target(0))
    for name in ("loss_mask", "loss_dice"):
        assert torch.equal(losses[name], with_class[name])


def test_weights_multiply_their_terms() -> None:
    usual = _loss(*_hand_case(), _target(0))
    weights = LossWeights(classification=4.0, mask=1.0, dice=10.0)
    changed = _loss(*_hand_case(), _target(0), weights=weights)
    for name, factor in (("loss_cls", 2.0), ("loss_mask", 0.2), ("loss_dice", 2.0)):
        assert float(changed[name]) == pytest.approx(factor * float(usual[name]))


def test_a_perfect_answer_costs_nothing() -> None:
    masks = torch.zeros(2, 4, 6)
    masks[0, :2, :5], masks[1, 3:, 2:] = 1, 1
    mask_logits = torch.stack([(masks[1] - 0.5) * SURE, (masks[0] - 0.5) * SURE, torch.full((4, 6), -SURE)])
    classes = torch.full((3, 3), -SURE)
    classes[[0, 1, 2], [1, 0, 2]] = SURE
    losses = _loss(classes[None], mask_logits[None], masks, _target(0, 1))
    assert float(losses["loss_cls"]) < 1e-6
    assert float(losses["loss_mask"]) < 1e-4
    assert float(losses["loss_dice"]) < 1e-4
    swapped = _loss(classes[None], mask_logits[None], masks, _target(1, 0))
    assert float(swapped["loss_cls"]) > 10


def test_every_stage_counts_and_the_last_has_no_number() -> None:
    classes, mask_logits, masks = _hand_case()
    stages = [(classes[None] * k, mask_logits[None] * k) for k in (0.5, 0.1, 1.0)]
    losses, matchings = segmentation_loss(stages, [masks], [[_target(0)]], weights=WEIGHTS, sampling=LABEL)
    names = ("loss_cls", "loss_mask", "loss_dice")
    assert set(losses) == {f"{name}{suffix}" for name in names for suffix in ("_0", "_1", "")}
    assert len(matchings) == 3
    for suffix, k in (("_0", 0.5), ("_1", 0.1), ("", 1.0)):
        alone = _loss(classes * k, mask_logits * k, masks, _target(0))
        for name in names:
            assert torch.equal(losses[name + suffix], alone[name])


# ------------------------------------------------------------------------------------- matching


def _pair_costs(classes: Tensor, mask_logits: Tensor, masks: Tensor, labels: list[int]) -> np.ndarray:
    """Compute the cost of query q for mask n in plain loops: 5 BCE + 5 dice − 2 p(class)."""
    costs = np.zeros((len(classes), len(masks)))
    for q, n in np.ndindex(costs.shape):
        bce = inter = total = 0.0
        pixels = list(zip(mask_logits[q].flatten().tolist(), masks[n].flatten().tolist(), strict=True))
        for logit, truth in pixels:
            p = 1 / (1 + math.exp(-logit))
            bce -= (math.log(p) if truth else math.log(1 - p)) / len(pixels)
            inter, total = inter + p * truth, total + p + truth
        weights = [math.exp(v) for v in classes[q].tolist()]
        chance = weights[labels[n]] / sum(weights) if labels[n] >= 0 else 0.0
        costs[q, n] = 5 * bce + 5 * (1 - (2 * inter + 1) / (total + 1)) - 2 * chance
    return costs


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("labels", [[0, 1, 0], [1, -1, 0]])
def test_no_other_assignment_is_cheaper(seed: int, labels: list[int]) -> None:
    classes, mask_logits = 3 * _noise(seed, 3, 3), 2 * _noise(seed + 50, 3, 4, 5)
    masks = (_noise(seed + 100, 3, 4, 5) > 0.3).float()
    _, (matching,) = segmentation_loss(
        [(classes[None, None], mask_logits[None, None])],
        [masks],
        [[_target(*labels)]],
        weights=WEIGHTS,
        sampling=LABEL,
    )
    costs = _pair_costs(classes, mask_logits, masks, labels)
    found = sum(costs[q, n] for q, n in zip(matching.query.tolist(), matching.mask.tolist(), strict=True))
    best = min(sum(costs[q, n] for n, q in enumerate(order)) for order in itertools.permutations(range(3)))
    assert sorted(matching.mask.tolist()) == sorted(matching.query.tolist()) == [0, 1, 2]
    assert found == pytest.approx(best, abs=1e-4)
    assert matching.label.tolist() == [labels[n] for n in matching.mask.tolist()]


def test_prompts_and_images_are_matched_for_themselves() -> None:
    """Two images with different numbers of masks, two prompts with their own labels; padded conditions."""
    classes = _noise(0, 2, 2, 3, 4)
    classes[:, 1, :, 1:3] = float("-inf")  # the second prompt has one condition
    classes.requires_grad_()
    mask_logits = _noise(1, 2, 2, 3, 4, 5).requires_grad_()
    masks = [(_noise(2, 2, 4, 5) > 0).float(), (_noise(3, 1, 4, 5) > 0).float()]
    targets = [[_target(2, 1), _target(-1, 0)], [_target(0), _target(-1)]]
    losses, (matching,) = segmentation_loss(
        [(classes, mask_logits)], masks, targets, weights=WEIGHTS, sampling=LABEL
    )
    rows = set(
        zip(
            *(v.tolist() for v in (matching.image, matching.prompt, matching.mask, matching.label)),
            strict=True,
        )
    )
    assert rows == {(0, 0, 0, 2), (0, 0, 1, 1), (0, 1, 0, -1), (0, 1, 1, 0), (1, 0, 0, 0), (1, 1, 0, -1)}
    total = sum(losses.values())
    assert isinstance(total, Tensor)
    assert torch.isfinite(total)
    total.backward()
    assert classes.grad is not None
    assert torch.isfinite(classes.grad).all()
    assert mask_logits.grad is not None
    taught = {
        (b, p, q)
        for b, p, q in itertools.product(range(2), range(2), range(3))
        if mask_logits.grad[b, p, q].any()
    }
    matched = set(zip(*(v.tolist() for v in (matching.image, matching.prompt, matching.query)), strict=True))
    assert taught == matched


def test_more_masks_than_queries_leave_some_out() -> None:
    masks = (_noise(0, 5, 4, 5) > 0).float()
    _, (matching,) = segmentation_loss(
        [(_noise(1, 1, 1, 2, 2), _noise(2, 1, 1, 2, 4, 5))],
        [masks],
        [[_target(0, 0, -1, 0, -1)]],
        weights=WEIGHTS,
        sampling=LABEL,
    )
    assert matching.query.tolist() == [0, 1]
    assert len(set(matching.mask.tolist())) == 2


@pytest.mark.parametrize("match_stride", [1, 2])
@pytest.mark.parametrize("mode", ["points", "label", "mask"])
def test_a_picture_without_masks_teaches_background(
    mode: Literal["points", "label", "mask"], match_stride: int
) -> None:
    """Pooling an empty set of masks for the matching once raised an error."""
    classes, mask_logits = _noise(0, 2, 3, 2).requires_grad_(), _noise(1, 2, 3, 4, 5).requires_grad_()
    sampling = MaskSampling(mode=mode, num_points=16, match_stride=match_stride)
    losses = _loss(classes, mask_logits, torch.zeros(0, 8, 10), _target(), _target(), sampling=sampling)
    expected = -2 * classes.detach().log_softmax(dim=-1)[..., 1].mean()
    torch.testing.assert_close(losses["loss_cls"].detach(), expected)
    assert losses["loss_mask"].item() == losses["loss_dice"].item() == 0.0
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert classes.grad is not None
    assert classes.grad.abs().sum() > 0


@pytest.mark.parametrize("mode", ["label", "mask"])
def test_a_coarse_matching_finds_the_same_pairs_in_clear_cases(mode: Literal["label", "mask"]) -> None:
    """Each query is a blurred copy of one mask; only the masks themselves tell which."""
    order = [3, 0, 2, 1]
    masks = torch.zeros(4, 16, 24)
    for n, (row, column) in enumerate([(0, 0), (0, 12), (8, 0), (8, 12)]):
        masks[n, row : row + 8, column : column + 12] = 1
    mask_logits = (masks[order] - 0.5) * 4 + 0.3 * _noise(0, 4, 16, 24)
    matchings = []
    for stride in (1, 2, 4):
        _, (matching,) = segmentation_loss(
            [(_noise(1, 1, 1, 4, 2), mask_logits[None, None])],
            [masks],
            [[_target(0, 0, -1, -1)]],
            weights=WEIGHTS,
            sampling=MaskSampling(mode=mode, match_stride=stride),
        )
        matchings.append(dict(zip(matching.query.tolist(), matching.mask.tolist(), strict=True)))
    assert matchings == [dict(enumerate(order))] * 3


def test_a_coarse_matching_changes_the_matching_only() -> None:
    """If it finds the same pairs, the losses are those of the full resolution."""
    masks = torch.zeros(2, 8, 8)
    masks[0, :, :4], masks[1, :, 4:] = 1, 1
    mask_logits = ((masks - 0.5) * 3 + _noise(0, 2, 8, 8))[None]
    classes = _noise(1, 1, 2, 3)
    fine = _loss(classes, mask_logits, masks, _target(0, 1), sampling=MaskSampling(mode="mask"))
    coarse = _loss(
        classes, mask_logits, masks, _target(0, 1), sampling=MaskSampling(mode="mask", match_stride=4)
    )
    for name, value in fine.items():
        assert torch.equal(coarse[name], value), name


@pytest.mark.parametrize("mode", ["points", "label", "mask"])
def test_prompts_that_a_picture_lacks_count_for_nothing(mode: Literal["points", "label", "mask"]) -> None:
    """The second image has one prompt: the model's output for a missing prompt must not matter."""
    sampling = MaskSampling(mode=mode, num_points=16)
    classes, mask_logits = _noise(0, 2, 2, 3, 3), _noise(1, 2, 2, 3, 4, 6)
    masks = [(_noise(2, 2, 8, 12) > 0).float(), (_noise(3, 1, 8, 12) > 0).float()]
    targets = [[_target(0, 1), _target(-1, 0)], [_target(1), None]]

    def ask(at_none: float) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        logits, drawn = classes.clone(), mask_logits.clone()
        logits[1, 1, :, 0] = at_none
        drawn[1, 1] = at_none
        logits.requires_grad_()
        drawn.requires_grad_()
        losses, (matching,) = segmentation_loss(
            [(logits, drawn)],
            masks,
            targets,
            weights=WEIGHTS,
            sampling=sampling,
            generator=torch.Generator().manual_seed(3),
        )
        sum(losses.values()).backward()  # type: ignore[union-attr]
        assert logits.grad is not None
        assert drawn.grad is not None
        pairs = set(zip(matching.image.tolist(), matching.prompt.tolist(), strict=True))
        assert pairs == {(0, 0), (0, 1), (1, 0)}
        return losses, logits.grad, drawn.grad

    first, class_grad, mask_grad = ask(0.0)
    second, *_ = ask(9.0)
    for name, value in first.items():
        assert torch.isfinite(value)
        assert torch.equal(value, second[name]), name
    assert not class_grad[1, 1].any()
    assert not mask_grad[1, 1].any()
    assert torch.isfinite(class_grad).all()
    assert class_grad[0, 1].any()


def test_the_mean_is_over_the_prompts_that_are_there() -> None:
    """A missing prompt must not dilute the others."""
    classes, mask_logits, masks = _hand_case()
    alone = _loss(classes, mask_logits, masks, _target(0))
    padded = _loss(
        torch.cat([classes, _noise(0, 1, 2, 2)]),
        torch.cat([mask_logits, _noise(1, 1, 2, 2, 3)]),
        masks,
        _target(0),
        None,
    )
    for name, value in alone.items():
        assert float(padded[name]) == pytest.approx(float(value), rel=1e-6), name


def test_a_batch_of_absent_prompts_costs_nothing() -> None:
    classes, mask_logits, masks = _hand_case()
    losses = _loss(classes, mask_logits, masks, None)
    assert {name: float(value) for name, value in losses.items()} == dict.fromkeys(losses, 0.0)


# ------------------------------------------------------------------------------------- sampling


def test_points_are_finite_and_repeat_with_their_generator() -> None:
    classes, mask_logits = _noise(0, 2, 4, 3), 50 * _noise(1, 2, 4, 6, 8)
    masks = (_noise(2, 3, 24, 32) > 0).float()

    def ask(seed: int) -> list[float]:
        losses, _ = segmentation_loss(
            [(classes[None], mask_logits[None])],
            [masks],
            [[_target(0, 1, -1), _target(-1, 0, 0)]],
            weights=WEIGHTS,
            sampling=POINTS,
            generator=torch.Generator().manual_seed(seed),
        )
        return [float(value) for value in losses.values()]

    assert all(math.isfinite(value) for value in ask(0))
    assert ask(0) == ask(0)
    assert ask(0) != ask(1)


def test_points_agree_with_all_pixels_on_smooth_masks() -> None:
    """Uncertain points alone would see only the border; without importance sampling they are unbiased."""
    mask_logits = torch.linspace(-4, 4, 32).expand(1, 1, 24, 32).clone()
    masks = (mask_logits[0] + 1.5 > 0).float()
    classes = torch.tensor([[[2.0, 0.0]]])
    fair = MaskSampling(mode="points", num_points=4096, importance_ratio=0.0)
    everywhere = _loss(classes, mask_logits, masks, _target(0))
    sampled = _loss(classes, mask_logits, masks, _target(0), sampling=fair)
    uncertain = _loss(
        classes, mask_logits, masks, _target(0), sampling=MaskSampling(mode="points", num_points=512)
    )
    assert float(sampled["loss_mask"]) == pytest.approx(float(everywhere["loss_mask"]), rel=0.1)
    assert float(sampled["loss_dice"]) == pytest.approx(float(everywhere["loss_dice"]), rel=0.1)
    assert float(uncertain["loss_mask"]) > 1.3 * float(everywhere["loss_mask"])


def test_points_read_row_and_column_as_they_are() -> None:
    """The mask is the right column only; transposed points would see the lower row."""
    masks = torch.zeros(1, 20, 20)
    masks[0, :, 15:] = 1
    right = ((masks - 0.5) * SURE)[None]
    classes = torch.tensor([[[2.0, 0.0]]])
    good = _loss(classes, right, masks, _target(0), sampling=POINTS)
    bad = _loss(classes, right.transpose(-1, -2).contiguous(), masks, _target(0), sampling=POINTS)
    assert float(good["loss_dice"]) < 1 < 2 < float(bad["loss_dice"])


def test_labels_are_averaged_down_to_the_logits() -> None:
    """One of four pixels is object, so a logit of p = ¼ is optimal."""
    masks = torch.zeros(1, 4, 6)
    masks[0, ::2, ::2] = 1
    classes, best = torch.tensor([[[2.0, 0.0]]]), math.log(1 / 3)
    losses = {
        shift: float(
            _loss(
                classes,
                torch.full((1, 1, 2, 3), best + shift),
                masks,
                _target(0),
                sampling=MaskSampling(mode="mask"),
            )["loss_mask"]
        )
        for shift in (-0.1, 0.0, 0.1)
    }
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert losses[0.0] == pytest.approx(5 * entropy, rel=1e-5)
    assert losses[0.0] < min(losses[-0.1], losses[0.1])
