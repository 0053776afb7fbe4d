"""Segmentation loss: Hungarian matching, then class, mask, and dice terms for every decoder stage.

Source: Mask2Former (arXiv 2112.01527) as used by X-SAM: class ×2 with weight 0.1 for "no object", mask
BCE ×5, dice ×5. Targets may be *class-less* (label −1): their masks are learned, but for the given prompt
their class is background. The tiny model is trained this way, so every object of an image supervises the mask
branch, whatever the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, slots=True, kw_only=True)
class LossWeights:
    """Weights of the terms; the defaults are the paper's."""

    classification: float = 2.0
    mask: float = 5.0
    dice: float = 5.0
    no_object: float = 0.1
    auxiliary: float = 0.7  # class and attribute heads, where a stage has them


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskSampling:
    """Pixels at which mask losses are evaluated.

    `points`: importance-sampled points (full size: 12,544, oversampled ×3, ¾ by uncertainty). `label`: every
    pixel of the label, with upsampled logits. `mask`: every pixel of the logits, with area-averaged labels;
    the cheapest for small maps.
    """

    mode: Literal["points", "label", "mask"] = "points"
    num_points: int = 12544
    oversample_ratio: float = 3.0
    importance_ratio: float = 0.75
    match_stride: int = 1  # matching uses maps that are average-pooled by this; not for `points`


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTarget:
    """Ground truth of one prompt. Masks are shared by all prompts of an image."""

    labels: Tensor  # (N,) int64: condition index of each mask of the image, −1 = background


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """Matched pairs of queries and masks, flattened over the batch; all (M,) int64."""

    image: Tensor
    prompt: Tensor
    query: Tensor
    mask: Tensor  # index into the image's masks
    label: Tensor


def segmentation_loss(
    stages: Sequence[tuple[Tensor, Tensor]],
    masks: Sequence[Tensor],
    targets: Sequence[Sequence[PromptTarget | None]],
    *,
    weights: LossWeights,
    sampling: MaskSampling,
    generator: torch.Generator | None = None,
) -> tuple[dict[str, Tensor], list[Matching]]:
    """Compute the weighted loss terms of all decoder stages.

    Args:
        stages: per stage (class_logits (B, P, Q, K + 1), mask_logits (B, P, Q, h, w)); the last one is the
            output.
        masks: B tensors (N, H, W), 0 … 1.
        targets: [B][P]; `None` where an image has fewer prompts, which contributes nothing.
        weights: weights of the terms.
        sampling: where mask losses are evaluated.
        generator: source of randomness for sampling points.

    Returns:
        `loss_cls`, `loss_mask`, `loss_dice` of the last stage, `…_i` of earlier stages i, and the matching of
        every stage.
    """
    losses: dict[str, Tensor] = {}
    matchings = []
    for index, (class_logits, mask_logits) in enumerate(stages):
        terms, matching = _stage_loss(class_logits, mask_logits, masks, targets, weights, sampling, generator)
        suffix = "" if index == len(stages) - 1 else f"_{index}"
        losses.update({f"{name}{suffix}": value for name, value in terms.items()})
        matchings.append(matching)
    return losses, matchings


def _stage_loss(
    class_logits: Tensor,
    mask_logits: Tensor,
    masks: Sequence[Tensor],
    targets: Sequence[Sequence[PromptTarget | None]],
    weights: LossWeights,
    sampling: MaskSampling,
    generator: torch.Generator | None,
) -> tuple[dict[str, Tensor], Matching]:
    background = class_logits.shape[-1] - 1
    dense_masks = [_at_resolution(m, mask_logits.shape[-2:], sampling) for m in masks]
    found = [
        _match_image(
            class_logits[b], mask_logits[b], dense_masks[b], targets[b], weights, sampling, generator
        )
        for b in range(len(masks))
    ]
    image = torch.cat([torch.full_like(f[0], b) for b, f in enumerate(found)])
    prompt, query, mask, label = (torch.cat(parts) for parts in zip(*found, strict=True))
    matching = Matching(image=image, prompt=prompt, query=query, mask=mask, label=label)

    target_class = torch.full(class_logits.shape[:3], background, device=class_logits.device)
    target_class[image, prompt, query] = torch.where(label < 0, background, label)
    class_weight = torch.full(class_logits.shape[:3], weights.no_object, device=class_logits.device)
    class_weight[image, prompt, query] = 1.0
    has_target = [[target is not None for target in row] for row in targets]
    class_weight *= torch.tensor(has_target, device=class_logits.device)[:, :, None]
    entropy = F.cross_entropy(class_logits.flatten(0, 2).float(), target_class.flatten(), reduction="none")
    loss_cls = (entropy * class_weight.flatten()).sum() / class_weight.sum().clamp(min=1e-6)

    logits = mask_logits[image, prompt, query].float()  # (M, h, w)
    if len(logits) == 0:
        zero = mask_logits.sum() * 0.0
        return {"loss_cls": weights.classification * loss_cls, "loss_mask": zero, "loss_dice": zero}, matching
    if sampling.mode == "points":
        truth = torch.stack([masks[b][n] for b, n in zip(image.tolist(), mask.tolist(), strict=True)]).float()
        points = _uncertain_points(logits.detach(), sampling, generator)
        flat_logits, flat_truth = _sample(logits, points), _sample(truth, points)
    else:
        truth = torch.stack([dense_masks[b][n] for b, n in zip(image.tolist(), mask.tolist(), strict=True)])
        flat_logits, flat_truth = _dense_logits(logits, truth.shape[-2:]).flatten(1), truth.flatten(1)
    bce = F.binary_cross_entropy_with_logits(flat_logits, flat_truth, reduction="none").mean(dim=1)
    overlap = flat_logits.sigmoid()
    dice = 1 - (2 * (overlap * flat_truth).sum(dim=1) + 1) / (overlap.sum(dim=1) + flat_truth.sum(dim=1) + 1)
    return {
        "loss_cls": weights.classification * loss_cls,
        "loss_mask": weights.mask * bce.mean(),
        "loss_dice": weights.dice * dice.mean(),
    }, matching


def _match_image(
    class_logits: Tensor,
    mask_logits: Tensor,
    masks: Tensor,
    targets: Sequence[PromptTarget | None],
    weights: LossWeights,
    sampling: MaskSampling,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Match queries to masks for each prompt of an image; return prompt, query, mask, label, all (M,)."""
    device = class_logits.device
    prompts, queries = class_logits.shape[:2]
    with torch.no_grad():
        logits = mask_logits.detach().float().flatten(0, 1)  # (P·Q, h, w)
        if sampling.mode == "points":
            points = torch.rand(1, sampling.num_points, 2, generator=generator).to(device)
            flat, truth = _sample_shared(logits, points), _sample_shared(masks.float(), points)
        else:
            dense = _dense_logits(logits, masks.shape[-2:])
            if sampling.match_stride > 1 and len(masks):
                dense = F.avg_pool2d(dense[None], sampling.match_stride)[0]
                masks = F.avg_pool2d(masks[None], sampling.match_stride)[0]
            flat, truth = dense.flatten(1), masks.flatten(1)
        bce = (F.softplus(flat).sum(dim=1, keepdim=True) - flat @ truth.T) / flat.shape[1]
        overlap = flat.sigmoid()
        dice = 1 - (2 * overlap @ truth.T + 1) / (overlap.sum(dim=1)[:, None] + truth.sum(dim=1)[None] + 1)
        mask_cost = (weights.mask * bce + weights.dice * dice).unflatten(0, (prompts, queries))
        probabilities = class_logits.detach().float().softmax(dim=-1)
        rows: list[tuple[int, int, int, int]] = []
        for p, target in enumerate(targets):
            if target is None:
                continue
            labels = target.labels.to(device)
            class_cost = torch.where(labels[None] < 0, 0.0, probabilities[p][:, labels.clamp(min=0)])
            cost = mask_cost[p] - weights.classification * class_cost
            matched = zip(*linear_sum_assignment(cost.cpu().numpy()), strict=True)
            rows.extend((p, int(q), int(n), int(labels[n])) for q, n in matched)
    columns = torch.tensor(rows, dtype=torch.long, device=device).reshape(-1, 4)
    return columns[:, 0], columns[:, 1], columns[:, 2], columns[:, 3]


def _at_resolution(masks: Tensor, logits_hw: torch.Size, sampling: MaskSampling) -> Tensor:
    if sampling.mode == "mask" and len(masks):
        return F.interpolate(masks.float()[None], size=logits_hw, mode="area")[0]
    return masks.float()


def _dense_logits(logits: Tensor, target_hw: torch.Size) -> Tensor:
    if logits.shape[-2:] == target_hw:
        return logits
    return F.interpolate(logits[None], size=target_hw, mode="bilinear", align_corners=False)[0]


def _sample(maps: Tensor, points: Tensor) -> Tensor:
    """Sample (M, h, w) maps at (M, S, 2) points (x, y) in [0, 1]; return (M, S)."""
    return F.grid_sample(maps[:, None], points[:, :, None] * 2 - 1, align_corners=False)[:, 0, :, 0]


def _sample_shared(maps: Tensor, points: Tensor) -> Tensor:
    """Sample (M, h, w) maps at (1, S, 2) shared points; return (M, S)."""
    return F.grid_sample(maps[None], points[:, :, None] * 2 - 1, align_corners=False)[0, :, :, 0]


def _uncertain_points(logits: Tensor, sampling: MaskSampling, generator: torch.Generator | None) -> Tensor:
    """Draw points (M, S, 2), most of them where the mask logits are near zero."""
    count = len(logits)
    candidates = torch.rand(
        count, int(sampling.num_points * sampling.oversample_ratio), 2, generator=generator
    ).to(logits.device)
    uncertain = int(sampling.importance_ratio * sampling.num_points)
    best = (-_sample(logits, candidates).abs()).topk(uncertain, dim=1).indices
    chosen = candidates.gather(1, best[..., None].expand(-1, -1, 2))
    rest = torch.rand(count, sampling.num_points - uncertain, 2, generator=generator).to(logits.device)
    return torch.cat([chosen, rest], dim=1)
