"""One training step's forward pass: batch → losses. Shared by training and validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xsam.model.language import packed_hidden_states
from xsam.model.region_sampler import region_points
from xsam.model.xsam import ImageFeatures, XSamModel, pad_conditions, span_means
from xsam.sim.household import ALL_COLORS, CATEGORIES
from xsam.train.batches import IGNORE, SceneBatch
from xsam.train.losses import LossWeights, MaskSampling, Matching, segmentation_loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """What the network says about a batch."""

    features: ImageFeatures
    hidden: list[Tensor]  # P × (B, L, D) last hidden states of the texts
    stages: list[tuple[Tensor, Tensor]]  # see `XSamModel.decode`
    query_states: Tensor  # (B, P, Q, C) of the last stage


class AuxiliaryHeads(nn.Module):
    """Category and colour read off pixels and matched queries; used in training, then thrown away."""

    def __init__(self, feature_size: int, hidden_dim: int) -> None:
        super().__init__()
        self.pixels = nn.Conv2d(feature_size, 1 + len(CATEGORIES) + len(ALL_COLORS), 1)
        self.queries = nn.Linear(hidden_dim, len(CATEGORIES) + len(ALL_COLORS))


def run_batch(model: XSamModel, batch: SceneBatch, *, generator: torch.Generator | None = None) -> Forward:
    """Encode every image once and answer all of its prompts in one packed pass."""
    features = model.encode_image(batch.vision_pixels, batch.seg_pixels)
    image_tokens = features.image_tokens
    prefix = torch.stack([model.embed(batch.prefix_ids, tokens) for tokens in image_tokens])
    count, prompts = batch.seg_positions.shape
    texts = [
        torch.stack(
            [
                model.embed(
                    batch.text_ids[p][b],
                    None,
                    _regions(model, features.region_map[b], batch.region_masks[b][p], generator),
                )
                for b in range(count)
            ]
        )
        for p in range(prompts)
    ]
    _, hidden = packed_hidden_states(model.llm, prefix, texts)
    everyone = torch.arange(count)
    seg_embeds, means = [], []
    for p, states in enumerate(hidden):
        projected = model.llm_projector(states)
        seg_embeds.append(projected[everyone, batch.seg_positions[:, p]])
        means += span_means(projected, [row[p] for row in batch.cond_ids])
    conditions, valid = pad_conditions(means)
    conditions = conditions.unflatten(0, (prompts, count)).transpose(0, 1)
    valid = valid.unflatten(0, (prompts, count)).transpose(0, 1)
    stages = model.decode(
        features,
        torch.stack(seg_embeds, dim=1),
        conditions,
        valid,
    )
    return Forward(
        features=features,
        hidden=hidden,
        stages=[(stage.class_logits, stage.mask_logits) for stage in stages],
        query_states=stages[-1].states,
    )


def _regions(
    model: XSamModel, region_map: Tensor, masks: Tensor, generator: torch.Generator | None
) -> Tensor | None:
    if masks.numel() == 0:
        return None
    count = model.config.sampler.num_sample_point
    points = torch.stack([region_points(mask, count, generator=generator) for mask in masks])
    return model.region_tokens(region_map.expand(len(masks), -1, -1, -1), points)


def language_loss(lm_head: nn.Module, hidden: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
    """Next-token cross-entropy, computed at the positions that predict an answer token only.

    Args:
        hidden: P tensors (B, L, D) of last hidden states.
        labels: P tensors (B, L), IGNORE where nothing is to be predicted.
    """
    states, wanted = [], []
    for state, label in zip(hidden, labels, strict=True):
        chosen = label[:, 1:] != IGNORE
        states.append(state[:, :-1][chosen])
        wanted.append(label[:, 1:][chosen])
    return F.cross_entropy(lm_head(torch.cat(states)).float(), torch.cat(wanted))


def batch_losses(
    model: XSamModel,
    forward: Forward,
    batch: SceneBatch,
    heads: AuxiliaryHeads | None,
    *,
    weights: LossWeights,
    sampling: MaskSampling,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Language, segmentation and (with `heads`) auxiliary losses; their sum is what is minimised."""
    losses = {"loss_llm": language_loss(model.llm.lm_head, forward.hidden, batch.text_labels)}
    masks = [mask.float() for mask in batch.masks]
    seg, matchings = segmentation_loss(
        forward.stages, masks, batch.targets, weights=weights, sampling=sampling, generator=generator
    )
    losses.update(seg)
    if heads is not None:
        losses["loss_aux_queries"] = _query_attributes(heads, forward.query_states, matchings[-1], batch)
        losses["loss_aux_pixels"] = _pixel_attributes(heads, forward.features.multi_scale[-1], batch)
    return losses


def _query_attributes(heads: AuxiliaryHeads, states: Tensor, matching: Matching, batch: SceneBatch) -> Tensor:
    logits = heads.queries(states[matching.image, matching.prompt, matching.query])
    pairs = list(zip(matching.image.tolist(), matching.mask.tolist(), strict=True))
    return _attribute_loss(logits, _gather(batch.categories, pairs), _gather(batch.colors, pairs))


def _gather(per_image: Sequence[Tensor], pairs: Sequence[tuple[int, int]]) -> Tensor:
    return torch.stack([per_image[b][n] for b, n in pairs])


def _attribute_loss(logits: Tensor, categories: Tensor, colors: Tensor) -> Tensor:
    split = len(CATEGORIES)
    if not (categories != IGNORE).any():
        return logits.sum() * 0.0
    return F.cross_entropy(logits[:, :split], categories, ignore_index=IGNORE) + F.cross_entropy(
        logits[:, split:], colors, ignore_index=IGNORE
    )


def _pixel_attributes(heads: AuxiliaryHeads, features: Tensor, batch: SceneBatch) -> Tensor:
    """Per-pixel category (0 = no object) and colour on the finest feature map."""
    logits = heads.pixels(features)
    height, width = logits.shape[-2:]
    categories, colors = [], []
    for masks, category, color, ignored in zip(
        batch.masks, batch.categories, batch.colors, batch.ignored, strict=True
    ):
        step = masks.shape[-1] // width
        small = masks[:, step // 2 :: step, step // 2 :: step][:, :height, :width]
        label, tint = torch.zeros(height, width, dtype=torch.long), torch.full((height, width), IGNORE)
        for mask, cat, col in zip(small, category, color, strict=True):
            if cat != IGNORE:
                label[mask], tint[mask] = cat + 1, col
        label[ignored[step // 2 :: step, step // 2 :: step][:height, :width]] = IGNORE
        categories.append(label)
        colors.append(tint)
    split = 1 + len(CATEGORIES)
    weight = torch.ones(split)
    weight[0] = 0.15
    loss = F.cross_entropy(logits[:, :split], torch.stack(categories), weight=weight, ignore_index=IGNORE)
    return loss + 0.5 * F.cross_entropy(logits[:, split:], torch.stack(colors), ignore_index=IGNORE)
