"""Class and mask logits → segments in camera pixels, one function per kind of answer.

Masks are up-sampled for the queries that are kept, not for all of them: the decision which to keep
needs only class probabilities, except where the score itself contains the mask (instances).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from xsam.masks import MaskRle, box_of_mask
from xsam.preprocess import scaled_hw
from xsam.structures import Segments

PANOPTIC_OVERLAP = 0.8
DUPLICATE_IOU = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskGeometry:
    """How the encoder's square relates to the camera image."""

    side: int  # S, the encoder's input side
    scaled_hw: tuple[int, int]  # the picture inside the square
    image_hw: tuple[int, int]  # the camera image

    @classmethod
    def for_image(cls, image_hw: tuple[int, int], side: int) -> MaskGeometry:
        """Geometry of an image whose longest edge was brought to `side`."""
        return cls(side=side, scaled_hw=scaled_hw(image_hw, side), image_hw=image_hw)

    def upsample(self, mask_logits: Tensor) -> Tensor:
        """(N, h, w) decoder logits → (N, H, W) logits in camera pixels, before any threshold."""
        if len(mask_logits) == 0:
            return mask_logits.new_zeros((0, *self.image_hw))
        square = F.interpolate(
            mask_logits[None].float(), size=(self.side, self.side), mode="bilinear", align_corners=False
        )
        height, width = self.scaled_hw
        return F.interpolate(
            square[..., :height, :width], size=self.image_hw, mode="bilinear", align_corners=False
        )[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class RawSegments:
    """Segments before labels and run-length codes."""

    masks: Tensor  # (N, H, W) bool
    label_indices: Tensor  # (N,) int64
    scores: Tensor  # (N,) float32

    def pick(self, order: Tensor) -> RawSegments:
        """The segments `order`, an index or bool mask."""
        return RawSegments(
            masks=self.masks[order], label_indices=self.label_indices[order], scores=self.scores[order]
        )


def probabilities(class_logits: Tensor) -> Tensor:
    """(Q, K + 1) logits → (Q, K) probabilities of the conditions; background takes its share."""
    return class_logits.float().softmax(dim=-1)[:, :-1]


def best_query(class_logits: Tensor, mask_logits: Tensor, geometry: MaskGeometry) -> RawSegments:
    """Per condition the query that fits best: referring, reasoning, grounded conversation.

    Returns:
        One segment a condition, in their order; the score is the probability.
    """
    scores, queries = probabilities(class_logits).max(dim=0)
    masks = geometry.upsample(mask_logits[queries]) > 0
    return RawSegments(
        masks=masks, label_indices=torch.arange(len(scores), device=scores.device), scores=scores
    )


def matching_queries(
    class_logits: Tensor, mask_logits: Tensor, geometry: MaskGeometry, *, threshold: float = 0.5
) -> RawSegments:
    """Every query that means the condition: for models trained with one mask an object.

    Per condition all queries with p > `threshold`, duplicates removed, or else the best one.
    """
    p = probabilities(class_logits)
    chosen = p > threshold
    chosen[p.argmax(dim=0), torch.arange(p.shape[1], device=p.device)] = True
    labels, queries = chosen.T.nonzero(as_tuple=True)
    masks = geometry.upsample(mask_logits[queries]) > 0
    segments = RawSegments(masks=masks, label_indices=labels, scores=p[queries, labels])
    return without_duplicates(segments)


def instances(
    class_logits: Tensor, mask_logits: Tensor, geometry: MaskGeometry, *, threshold: float
) -> RawSegments:
    """Top Q (query, class) pairs; score = p · mean mask probability inside the mask; ≥ `threshold`."""
    p = probabilities(class_logits)
    count, classes = p.shape
    top, flat = p.flatten().topk(min(count, p.numel()), sorted=False)
    queries, labels = flat // classes, flat % classes
    possible = top >= threshold  # the mask factor can only lower the score
    top, queries, labels = top[possible], queries[possible], labels[possible]
    logits = geometry.upsample(mask_logits[queries])
    masks = logits > 0
    inside = (logits.sigmoid() * masks).flatten(1).sum(dim=1) / (masks.flatten(1).sum(dim=1) + 1e-6)
    scores = top * inside
    return RawSegments(masks=masks, label_indices=labels, scores=scores).pick(scores >= threshold)


def most_overlapping(candidates: RawSegments, prompt: Tensor) -> RawSegments:
    """Interactive: the candidate whose mask overlaps the prompt region (H, W) most, by IoU."""
    if len(candidates.scores) == 0:
        return candidates
    both = (candidates.masks & prompt).flatten(1).sum(dim=1)
    either = (candidates.masks | prompt).flatten(1).sum(dim=1).clamp(min=1)
    return candidates.pick((both / either).argmax()[None])


def semantic(class_logits: Tensor, mask_logits: Tensor, geometry: MaskGeometry) -> Tensor:
    """Class index of each pixel, (H, W) int64: argmax of the queries' class × mask probabilities."""
    masks = geometry.upsample(mask_logits).sigmoid()
    return torch.einsum("qc,qhw->chw", probabilities(class_logits), masks).argmax(dim=0)


def panoptic(
    class_logits: Tensor,
    mask_logits: Tensor,
    geometry: MaskGeometry,
    *,
    stuff: Collection[int],
    threshold: float = 0.5,
    overlap: float = PANOPTIC_OVERLAP,
    weigh_own: bool = True,
) -> RawSegments:
    """Segments that do not overlap: each pixel belongs to its most likely query or to nothing.

    Queries whose best class reaches `threshold` compete with mask probability × class probability.
    A segment of which others took too much is dropped, and those of one stuff class become one.

    Args:
        weigh_own: a query's own mask, too, is where mask × class probability ≥ 0.5, as in the
            reference. A score below 0.5 then never gives a segment, whatever the threshold.
    """
    scores, labels = probabilities(class_logits).max(dim=-1)
    keep = scores >= threshold
    scores, labels = scores[keep], labels[keep]
    mask_probabilities = geometry.upsample(mask_logits[keep]).sigmoid()
    weighted = mask_probabilities * scores[:, None, None]
    own = (weighted if weigh_own else mask_probabilities) >= 0.5
    if len(scores) == 0:
        return RawSegments(masks=own, label_indices=labels, scores=scores)
    owner = weighted.argmax(dim=0)
    found: list[tuple[Tensor, int, float]] = []
    merged: dict[int, int] = {}
    for index, (label, score) in enumerate(zip(labels.tolist(), scores.tolist(), strict=True)):
        taken = owner == index
        area = int(own[index].sum())
        if area == 0 or int(taken.sum()) / area <= overlap:
            continue
        mask = taken & own[index]
        if label in stuff and label in merged:
            before, _, best = found[merged[label]]
            found[merged[label]] = (before | mask, label, max(best, score))
            continue
        if label in stuff:
            merged[label] = len(found)
        found.append((mask, label, score))
    return RawSegments(
        masks=torch.stack([f[0] for f in found]) if found else own[:0],
        label_indices=torch.tensor([f[1] for f in found], dtype=torch.long, device=scores.device),
        scores=torch.tensor([f[2] for f in found], device=scores.device),
    )


def without_duplicates(segments: RawSegments, iou: float = DUPLICATE_IOU) -> RawSegments:
    """Drop segments that repeat a better one of the same label."""
    order = segments.scores.argsort(descending=True, stable=True)
    flat = segments.masks.flatten(1).float()
    both = flat @ flat.T
    area = flat.sum(dim=1)
    overlap = both / (area[:, None] + area[None] - both).clamp(min=1)
    kept: list[int] = []
    for index in order.tolist():
        same = [k for k in kept if segments.label_indices[k] == segments.label_indices[index]]
        if all(overlap[index, k] < iou for k in same):
            kept.append(index)
    return segments.pick(torch.tensor(kept, dtype=torch.long, device=segments.scores.device))


def to_segments(
    raw: RawSegments, labels: tuple[str, ...], image_hw: tuple[int, int], *, max_instances: int
) -> Segments:
    """Best score first, at most `max_instances`, empty masks left out."""
    filled = raw.masks.flatten(1).any(dim=1) if len(raw.scores) else torch.zeros(0, dtype=torch.bool)
    raw = raw.pick(filled)
    raw = raw.pick(raw.scores.argsort(descending=True, stable=True)[:max_instances])
    masks: NDArray[np.bool_] = raw.masks.cpu().numpy()
    indices = raw.label_indices.cpu().numpy().astype(np.int32)
    return Segments(
        image_hw=image_hw,
        masks=tuple(MaskRle.encode(mask) for mask in masks),
        labels=tuple(labels[i] for i in indices),
        label_indices=indices,
        scores=raw.scores.detach().cpu().numpy().astype(np.float32).clip(0, 1),
        boxes_xyxy=np.array([box_of_mask(mask) for mask in masks], np.float32).reshape(-1, 4),
    )
