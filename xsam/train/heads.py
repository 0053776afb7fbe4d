"""Auxiliary heads that exist only in training: they supervise the features and are then discarded.

The closed-set classifier is stage 1 of the paper. The others are specific to this project: they let small
models learn within hours, and are off by default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xsam.train.collate import IGNORE, TrainBatch
from xsam.train.losses import Matching

BACKGROUND_WEIGHT = 0.15
MIN_CELL_COVER = 0.1
"""Part of a token's cell that an object must cover."""


class ClosedSetHead(nn.Module):
    """Embeddings of a fixed list of classes, used instead of the language model's phrase embeddings."""

    def __init__(self, classes: int, hidden_dim: int) -> None:
        super().__init__()
        self.classes = nn.Embedding(classes, hidden_dim)

    def conditions(self, batch: int) -> Tensor:
        """Return the embeddings as (B, 1, classes, C), the form that `XSamModel.decode` takes."""
        return self.classes.weight.expand(batch, 1, -1, -1)


class AttributeHeads(nn.Module):
    """Predicts class and attributes of objects from pixels, from matched queries, and from image tokens.

    Args:
        classes: size of the closed set.
        attributes: name → number of values, for `PromptedImage.attributes`.
        feature_size: channels of the pixel decoder.
        hidden_dim: channels of the queries.
        token_size: channels of the image tokens that the language model reads; 0 without a language model.
    """

    def __init__(
        self,
        classes: int,
        attributes: Mapping[str, int],
        *,
        feature_size: int,
        hidden_dim: int,
        token_size: int = 0,
    ) -> None:
        super().__init__()
        self.sizes = {"class": classes, **attributes}
        self.pixels = nn.Conv2d(feature_size, 1 + sum(self.sizes.values()), 1)
        self.queries = nn.Linear(hidden_dim, sum(self.sizes.values()))
        self.tokens = nn.Conv2d(token_size, sum(self.sizes.values()), 1) if token_size else None

    def query_loss(self, states: Tensor, matching: Matching, batch: TrainBatch) -> Tensor:
        """Compute the cross-entropy of class and attributes of the matched queries, states (B, P, Q, C)."""
        parts = self.queries(states[matching.image, matching.prompt, matching.query]).split(
            list(self.sizes.values()), dim=1
        )
        pairs = list(zip(matching.image.tolist(), matching.mask.tolist(), strict=True))
        total = states.sum() * 0.0
        for (name, _), logits in zip(self.sizes.items(), parts, strict=True):
            per_image = batch.classes if name == "class" else batch.attributes.get(name)
            if per_image is None or not pairs:
                continue
            target = torch.stack([per_image[b][n] for b, n in pairs])
            if (target >= 0).any():
                total = total + F.cross_entropy(logits, target, ignore_index=-1)
        return total

    def pixel_loss(self, features: Tensor, batch: TrainBatch) -> Tensor:
        """Compute the per-pixel loss of class (0 = no object) and attributes on (B, C, h, w) features."""
        logits = self.pixels(features)
        size = features.shape[-2:]
        ids = _small_labels(batch.masks, batch.classes, batch.ignored, size)
        weight = torch.ones(1 + self.sizes["class"], device=features.device)
        weight[0] = BACKGROUND_WEIGHT
        first = 1 + self.sizes["class"]
        loss = F.cross_entropy(logits[:, :first], ids, weight=weight, ignore_index=IGNORE)
        for name, size_of in list(self.sizes.items())[1:]:
            if name in batch.attributes:
                labels = _small_labels(batch.masks, batch.attributes[name], batch.ignored, size) - 1
                labels = labels.masked_fill(labels < 0, IGNORE)
                if (labels >= 0).any():
                    part = logits[:, first : first + size_of]
                    loss = loss + 0.5 * F.cross_entropy(part, labels, ignore_index=IGNORE)
            first += size_of
        return loss

    def token_loss(self, tokens: Tensor, batch: TrainBatch) -> Tensor:
        """Compute the binary cross-entropy of what each cell of (B, D, h, w) tokens shows.

        A language model names what it can read from the tokens; captions alone teach that slowly. A cell may
        show several objects. The loss is the sum over all values, averaged over the known cells.
        """
        assert self.tokens is not None
        logits = self.tokens(tokens)
        size = tokens.shape[-2:]
        ignored = F.interpolate(batch.ignored[:, None].float(), size=size, mode="area")[:, 0]
        shown = torch.zeros_like(logits)
        for b, masks in enumerate(batch.masks):
            cover = F.interpolate(masks[None].float(), size=size, mode="area")[0] >= MIN_CELL_COVER
            first = 0
            for name, count in self.sizes.items():
                labels = batch.classes if name == "class" else batch.attributes.get(name)
                for cells, label in zip(cover, () if labels is None else labels[b].tolist(), strict=False):
                    if label >= 0:
                        shown[b, first + label][cells] = 1.0
                first += count
        each = F.binary_cross_entropy_with_logits(logits, shown, reduction="none").sum(dim=1)
        known = (ignored < MIN_CELL_COVER).float()
        return (each * known).sum() / known.sum().clamp(min=1)


class WordHead(nn.Module):
    """Predicts the words of each condition from its embedding alone.

    Without it, the embeddings of "the leftmost mug" and "the rightmost mug" are nearly the same (cosine
    0.9996), and no other loss moves them apart.
    """

    def __init__(self, *, hidden_dim: int, vocabulary: int) -> None:
        super().__init__()
        self.words = nn.Linear(hidden_dim, vocabulary)

    def forward(self, conditions: Tensor, batch: TrainBatch) -> Tensor:
        """Compute the cross-entropy of (B, P, K, C) embeddings against a uniform choice of their words."""
        is_word = (batch.text_ids >= 0)[:, None, None]  # regions have no words
        inside = (batch.span_weights > 0) & is_word  # (B, P, K, L)
        has_words = inside.any(dim=-1)
        if not has_words.any():
            return conditions.sum() * 0.0
        ids = batch.text_ids.clamp(min=0)[:, None, None].expand(inside.shape)[has_words]
        words = torch.zeros(len(ids), self.words.out_features, device=conditions.device)
        words = words.scatter_add(1, ids, inside[has_words].float()).clamp(max=1)
        chances = self.words(conditions[has_words]).float().log_softmax(dim=-1)
        return -((chances * words).sum(dim=1) / words.sum(dim=1)).mean()


class GroundingHead(nn.Module):
    """Predicts a coarse mask of the target from the `<SEG>` embedding alone, by dot product.

    This teaches the language model to ground without running the mask decoder.
    """

    def __init__(self, *, hidden_dim: int, feature_size: int) -> None:
        super().__init__()
        self.query = nn.Linear(hidden_dim, feature_size)
        self.bias = nn.Parameter(torch.tensor(-2.0))

    def forward(self, seg_embeds: Tensor, features: Tensor, batch: TrainBatch) -> Tensor:
        """Compute BCE and dice of (B, P, C) embeddings against the union of each prompt's targets."""
        height, width = features.shape[-2:]
        normed = F.group_norm(features, 1)
        logits = torch.einsum("bpc,bchw->bphw", self.query(seg_embeds), normed) / features.shape[1] ** 0.5
        logits = logits + self.bias
        truth, has_target = [], []
        for masks, row in zip(batch.masks, batch.targets, strict=True):
            small = F.interpolate(masks[None].float(), size=(height, width), mode="area")[0]
            for target in row:
                has_target.append(target is not None)
                chosen = small[:0] if target is None else small[target.labels >= 0]
                truth.append(chosen.sum(dim=0).clamp(max=1))
        union = torch.stack(truth).unflatten(0, logits.shape[:2]).flatten(2)
        flat = logits.flatten(2)
        weight = torch.tensor(has_target, device=flat.device).unflatten(0, logits.shape[:2]).float()
        bce = F.binary_cross_entropy_with_logits(flat, union, reduction="none").mean(dim=-1)
        overlap = flat.sigmoid()
        dice = 1 - (2 * (overlap * union).sum(-1) + 1) / (overlap.sum(-1) + union.sum(-1) + 1)
        return ((5 * bce + dice) * weight).sum() / weight.sum().clamp(min=1)


def _small_labels(
    masks: Sequence[Tensor], labels: Sequence[Tensor], ignored: Tensor, size: torch.Size
) -> Tensor:
    """Downsample to (B, h, w) int64: label + 1 at the center of each cell, 0 = none, IGNORE = unknown."""
    height, width = size
    out = []
    for mask, label, unknown in zip(masks, labels, ignored, strict=True):
        step = unknown.shape[-1] // width
        grid = slice(step // 2, None, step)
        small = mask[:, grid, grid][:, :height, :width]
        ids = torch.zeros(height, width, dtype=torch.long, device=mask.device)
        for area, value in zip(small, label.tolist(), strict=True):
            ids[area] = value + 1
        ids[unknown[grid, grid][:height, :width]] = IGNORE
        out.append(ids)
    return torch.stack(out)
