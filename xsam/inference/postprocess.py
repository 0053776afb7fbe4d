"""Class and mask logits → segments in camera pixels, one function per kind of answer.

Which queries to keep is decided first, from class probabilities. A kept mask is then up-sampled inside the
box where it can be positive, and coded from that crop. Where queries compete for pixels (semantic,
panoptic), the picture is made in bands of rows. Nothing is ever made at the encoder's size.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xsam.inference.upsample import MaskGeometry
from xsam.types.masks import BoolMask, MaskRle, box_of_mask
from xsam.types.requests import Segments

PANOPTIC_OVERLAP = 0.8
DUPLICATE_IOU = 0.7
NESTED_SHARE = 0.85
"""Visible objects share no pixels: a mask of which so much lies in another is a part of that object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedMask:
    """A mask as run lengths with its tight box, (0, 0, 0, 0) when it is empty."""

    rle: MaskRle
    box_xyxy: tuple[int, int, int, int]

    @classmethod
    def of_crop(cls, crop: BoolMask, top: int, left: int, image_hw: tuple[int, int]) -> CodedMask:
        """Code a mask that is False outside a crop which begins at (top, left)."""
        x_min, y_min, x_max, y_max = box_of_mask(crop)
        rle = MaskRle.encode_crop(
            crop[y_min:y_max, x_min:x_max], top=top + y_min, left=left + x_min, image_hw=image_hw
        )
        empty = x_max == 0
        box = (0, 0, 0, 0) if empty else (x_min + left, y_min + top, x_max + left, y_max + top)
        return cls(rle=rle, box_xyxy=box)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawSegments:
    """Segments before labels."""

    image_hw: tuple[int, int]
    coded: tuple[CodedMask, ...]  # (N,)
    label_indices: Tensor  # (N,) int64
    scores: Tensor  # (N,) float32

    @classmethod
    def of_masks(
        cls, masks: BoolMask, label_indices: Tensor, scores: Tensor, image_hw: tuple[int, int]
    ) -> RawSegments:
        """Code whole masks (N, H, W)."""
        return cls(
            image_hw=image_hw,
            coded=tuple(CodedMask.of_crop(mask, 0, 0, image_hw) for mask in masks),
            label_indices=label_indices,
            scores=scores,
        )

    @property
    def masks(self) -> Tensor:
        """(N, H, W) bool, decoded."""
        if not self.coded:
            return torch.zeros((0, *self.image_hw), dtype=torch.bool)
        return torch.from_numpy(np.stack([mask.rle.decode() for mask in self.coded]))

    def pick(self, order: Tensor) -> RawSegments:
        """The segments `order`, an index or bool mask."""
        places = torch.arange(len(self.coded))[order.cpu()]
        return RawSegments(
            image_hw=self.image_hw,
            coded=tuple(self.coded[i] for i in places.tolist()),
            label_indices=self.label_indices[order],
            scores=self.scores[order],
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
    labels = torch.arange(len(scores), device=scores.device)
    return _coded(mask_logits, geometry, queries, labels, scores)


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
    found = _coded(mask_logits, geometry, queries, labels, p[queries, labels])
    return without_duplicates(found, nested=NESTED_SHARE)


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
    coded: dict[int, CodedMask] = {}
    certainty: dict[int, float] = {}
    for query in dict.fromkeys(queries.tolist()):  # one query may stand for several classes
        logits, row, column = geometry.crop(mask_logits[query])
        inside = logits > 0
        total = float(logits.sigmoid()[inside].sum())
        certainty[query] = total / (int(inside.sum()) + 1e-6)
        coded[query] = CodedMask.of_crop(inside.cpu().numpy(), row, column, geometry.image_hw)
    scores = top * top.new_tensor([certainty[query] for query in queries.tolist()])
    return RawSegments(
        image_hw=geometry.image_hw,
        coded=tuple(coded[query] for query in queries.tolist()),
        label_indices=labels,
        scores=scores,
    ).pick(scores >= threshold)


def _coded(
    mask_logits: Tensor, geometry: MaskGeometry, queries: Tensor, labels: Tensor, scores: Tensor
) -> RawSegments:
    """The masks of chosen queries, which may repeat."""
    coded: dict[int, CodedMask] = {}
    for query in dict.fromkeys(queries.tolist()):
        logits, row, column = geometry.crop(mask_logits[query])
        coded[query] = CodedMask.of_crop((logits > 0).cpu().numpy(), row, column, geometry.image_hw)
    return RawSegments(
        image_hw=geometry.image_hw,
        coded=tuple(coded[query] for query in queries.tolist()),
        label_indices=labels,
        scores=scores,
    )


def most_overlapping(candidates: RawSegments, prompt: BoolMask) -> RawSegments:
    """Interactive: the candidate whose mask overlaps the prompt region (H, W) most, by IoU."""
    if len(candidates.scores) == 0:
        return candidates
    overlaps = MaskRle.iou_matrix([m.rle for m in candidates.coded], [MaskRle.encode(prompt)])
    return candidates.pick(torch.tensor([int(overlaps[:, 0].argmax())]))


def semantic(class_logits: Tensor, mask_logits: Tensor, geometry: MaskGeometry) -> Tensor:
    """Class index of each pixel, (H, W) int64: argmax of the queries' class × mask probabilities."""
    p = probabilities(class_logits)
    bands = [_band_classes(p, logits) for _, logits in geometry.bands(mask_logits)]
    return torch.cat(bands)


def _band_classes(p: Tensor, logits: Tensor) -> Tensor:
    """(Q, K) probabilities and (Q, rows, W) logits → (rows, W) class of each pixel."""
    classes = (p.T @ logits.sigmoid().flatten(1)).argmax(dim=0)
    return classes.reshape(logits.shape[1:])


def stuff_regions(
    class_logits: Tensor, mask_logits: Tensor, geometry: MaskGeometry, *, threshold: float
) -> RawSegments:
    """One region a class that some query means with p ≥ `threshold`.

    Semantic segmentation gives every pixel to some class, so that one class alone would get the whole
    picture. Here a class gets a pixel only where a query that reaches the threshold covers it.
    """
    p = probabilities(class_logits)
    scores = p.max(dim=0).values
    masks = np.zeros((p.shape[1], *geometry.image_hw), np.bool_)
    for top, logits in geometry.bands(mask_logits):
        classes = _band_classes(p, logits)
        for index in (scores >= threshold).nonzero()[:, 0].tolist():
            covered = (logits[p[:, index] >= threshold] > 0).any(dim=0)
            masks[index, top : top + len(classes)] = ((classes == index) & covered).cpu().numpy()
    labels = torch.arange(len(scores), device=scores.device)
    return RawSegments.of_masks(masks, labels, scores, geometry.image_hw).pick(scores >= threshold)


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
    found: list[tuple[BoolMask, int, float]] = []
    if len(scores):
        owner, owned, areas = _compete(mask_logits[keep], scores, geometry, weigh_own=weigh_own)
        taken = np.bincount(owner.ravel(), minlength=len(scores))
        merged: dict[int, int] = {}
        for index, (label, score) in enumerate(zip(labels.tolist(), scores.tolist(), strict=True)):
            if areas[index] == 0 or taken[index] / areas[index] <= overlap:
                continue
            mask = (owner == index) & owned
            if label in stuff and label in merged:
                before, _, best = found[merged[label]]
                found[merged[label]] = (before | mask, label, max(best, score))
                continue
            if label in stuff:
                merged[label] = len(found)
            found.append((mask, label, score))
    return RawSegments.of_masks(
        np.array([f[0] for f in found], np.bool_).reshape(-1, *geometry.image_hw),
        torch.tensor([f[1] for f in found], dtype=torch.long, device=scores.device),
        torch.tensor([f[2] for f in found], device=scores.device),
        geometry.image_hw,
    )


def _compete(
    mask_logits: Tensor, scores: Tensor, geometry: MaskGeometry, *, weigh_own: bool
) -> tuple[NDArray[np.int64], BoolMask, NDArray[np.int64]]:
    """Who owns each pixel (H, W), whether it lies in its owner's own mask (H, W), area of each own mask."""
    owners, owned = [], []
    areas = torch.zeros(len(scores), dtype=torch.long, device=scores.device)
    for _, logits in geometry.bands(mask_logits):
        chances = logits.sigmoid()
        weighted = chances * scores[:, None, None]
        own = (weighted if weigh_own else chances) >= 0.5
        owner = weighted.argmax(dim=0)
        areas += own.flatten(1).sum(dim=1)
        owners.append(owner.cpu().numpy())
        owned.append(own.gather(0, owner[None])[0].cpu().numpy())
    return np.concatenate(owners), np.concatenate(owned), areas.cpu().numpy()


def without_duplicates(
    segments: RawSegments, iou: float = DUPLICATE_IOU, *, nested: float | None = None
) -> RawSegments:
    """Drop segments that repeat a better one of the same label.

    Args:
        segments: of any order.
        iou: overlap from which one repeats the other.
        nested: share from which the smaller of the two counts as inside the other, and the one with the
            lower score goes; None = nested segments stay.

    Returns:
        What is left, best score first.
    """
    order = segments.scores.argsort(descending=True, stable=True).tolist()
    codes = [mask.rle for mask in segments.coded]
    same = MaskRle.iou_matrix(codes, codes) >= iou
    if nested is not None:
        inside = MaskRle.inside_matrix(codes, codes) >= nested
        same |= inside | inside.T
    labels = segments.label_indices.tolist()
    kept: list[int] = []
    for index in order:
        if not any(same[index, k] for k in kept if labels[k] == labels[index]):
            kept.append(index)
    return segments.pick(torch.tensor(kept, dtype=torch.long))


def to_segments(raw: RawSegments, labels: Sequence[str], *, max_instances: int) -> Segments:
    """Best score first, at most `max_instances`, empty masks left out."""
    raw = raw.pick(torch.tensor([mask.box_xyxy[2] > 0 for mask in raw.coded], dtype=torch.bool))
    raw = raw.pick(raw.scores.argsort(descending=True, stable=True)[:max_instances])
    indices = raw.label_indices.cpu().numpy().astype(np.int32)
    return Segments(
        image_hw=raw.image_hw,
        masks=tuple(mask.rle for mask in raw.coded),
        labels=tuple(labels[i] for i in indices),
        label_indices=indices,
        scores=raw.scores.detach().cpu().numpy().astype(np.float32).clip(0, 1),
        boxes_xyxy=np.array([mask.box_xyxy for mask in raw.coded], np.float32).reshape(-1, 4),
    )
