"""Class and mask logits → segments in camera pixels, one function per kind of task.

Class probabilities decide first which queries to keep. The mask of a kept query is then upsampled inside the
box where it can be positive, and encoded from that crop. Where queries compete for pixels (semantic,
panoptic), the image is processed in bands of rows. Nothing is ever built at the encoder's resolution.

Large images with many categories take seconds. Therefore every loop over queries, classes and bands calls
`check`, which raises when the request has no time left or was canceled.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from xsam.inference.mask_support import FIRM_LOGIT, firmness_of, runners_up
from xsam.inference.upsample import MaskGeometry
from xsam.types.masks import BoolMask, MaskRle
from xsam.types.requests import Segments

PANOPTIC_OVERLAP = 0.8
DUPLICATE_IOU = 0.7
SEVERAL_QUERIES = -1  # in `UnlabeledSegments.queries`
NESTED_SHARE = 0.85
"""Visible objects share no pixels: a mask with this share inside another one is a part of that object."""

CANDIDATE_SHARE = 0.35
"""Masks with at least this share of the best score are candidates; chosen on validation scenes."""

Check = Callable[[], None]
"""Called in every loop; raises an `XSamError` to end the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnlabeledSegments:
    """Masks with scores and label indices, before they are labeled and sorted.

    Attributes:
        image_hw: (H, W) in pixels.
        masks: (N,).
        label_indices: (N,) int64.
        scores: (N,) float32.
        firmness: (N,) float32 in [0, 1], see `firmness_of`; 1 where it was not measured.
        runners_up: (N,) float32, the best score of any other decoder query for the same label; 0 for none.
        queries: (N,) int64, of the decoder; −1 = several.
    """

    image_hw: tuple[int, int]
    masks: tuple[MaskRle, ...]
    label_indices: Tensor
    scores: Tensor
    firmness: Tensor
    runners_up: Tensor
    queries: Tensor

    @classmethod
    def of_masks(
        cls,
        masks: BoolMask,
        label_indices: Tensor,
        scores: Tensor,
        image_hw: tuple[int, int],
    ) -> UnlabeledSegments:
        """Encode whole masks (N, H, W), of no query in particular."""
        return cls(
            image_hw=image_hw,
            masks=tuple(MaskRle.encode_crop(mask, top=0, left=0, image_hw=image_hw) for mask in masks),
            label_indices=label_indices,
            scores=scores,
            firmness=torch.ones_like(scores),
            runners_up=torch.zeros_like(scores),
            queries=torch.full_like(label_indices, SEVERAL_QUERIES),
        )

    @classmethod
    def joined(cls, parts: Sequence[UnlabeledSegments]) -> UnlabeledSegments:
        """Return the segments of several parts of the same image, in their order."""
        columns = ("label_indices", "scores", "firmness", "runners_up", "queries")
        return cls(
            image_hw=parts[0].image_hw,
            masks=tuple(mask for part in parts for mask in part.masks),
            **{name: torch.cat([getattr(part, name) for part in parts]) for name in columns},
        )

    def pick(self, order: Tensor) -> UnlabeledSegments:
        """Select segments by an index tensor or a bool tensor."""
        indices = torch.arange(len(self.masks))[order.cpu()]
        return UnlabeledSegments(
            image_hw=self.image_hw,
            masks=tuple(self.masks[i] for i in indices.tolist()),
            label_indices=self.label_indices[order],
            scores=self.scores[order],
            firmness=self.firmness[order],
            runners_up=self.runners_up[order],
            queries=self.queries[order],
        )


def always_go_on() -> None:
    """Return at once: the check of callers without a deadline."""


def probabilities(class_logits: Tensor) -> Tensor:
    """Turn (Q, K + 1) logits into (Q, K) probabilities of the conditions; background takes its share."""
    return class_logits.float().softmax(dim=-1)[:, :-1]


def best_query(
    class_logits: Tensor, mask_logits: Tensor, geometry: MaskGeometry, *, check: Check = always_go_on
) -> UnlabeledSegments:
    """Select the best query for each condition: referring, reasoning, grounded conversation.

    Returns:
        One segment per condition, in their order; the score is the probability.
    """
    p = probabilities(class_logits)
    queries = p.argmax(dim=0)
    labels = torch.arange(p.shape[1], device=p.device)
    return encode_queries(p, mask_logits, geometry, queries, labels, check)


def matching_queries(
    class_logits: Tensor,
    mask_logits: Tensor,
    geometry: MaskGeometry,
    *,
    threshold: float = 0.5,
    check: Check = always_go_on,
) -> UnlabeledSegments:
    """Select every query that matches a condition, for models trained with one mask per object.

    For each condition: all queries with p > `threshold`, duplicates removed, or else the best one.
    """
    p = probabilities(class_logits)
    chosen = p > threshold
    chosen[p.argmax(dim=0), torch.arange(p.shape[1], device=p.device)] = True
    labels, queries = chosen.T.nonzero(as_tuple=True)
    found = encode_queries(p, mask_logits, geometry, queries, labels, check)
    return without_duplicates(found, nested=NESTED_SHARE, check=check)


def instances(
    class_logits: Tensor,
    mask_logits: Tensor,
    geometry: MaskGeometry,
    *,
    threshold: float,
    check: Check = always_go_on,
) -> UnlabeledSegments:
    """Select the top Q (query, class) pairs with p · mean mask probability inside the mask ≥ `threshold`."""
    p = probabilities(class_logits)
    count, classes = p.shape
    top, flat = p.flatten().topk(min(count, p.numel()), sorted=False)
    queries, labels = flat // classes, flat % classes
    possible = top >= threshold  # the mask factor can only lower the score
    top, queries, labels = top[possible], queries[possible], labels[possible]
    masks: dict[int, MaskRle] = {}
    certainty: dict[int, float] = {}
    firmness: dict[int, float] = {}
    for query in dict.fromkeys(queries.tolist()):  # one query may stand for several classes
        check()
        logits, row, column = geometry.crop(mask_logits[query])
        inside = logits > 0
        total, area = torch.stack(
            [(logits.sigmoid() * inside).sum().double(), inside.sum().double()]
        ).tolist()
        certainty[query] = total / (area + 1e-6)
        masks[query] = _encode_crop(inside, row, column, geometry)
        firmness[query] = firmness_of(logits)
    scores = top * top.new_tensor([certainty[query] for query in queries.tolist()])
    return UnlabeledSegments(
        image_hw=geometry.image_hw,
        masks=tuple(masks[query] for query in queries.tolist()),
        label_indices=labels,
        scores=scores,
        firmness=top.new_tensor([firmness[query] for query in queries.tolist()]),
        runners_up=runners_up(p, queries, labels),
        queries=queries,
    ).pick(scores >= threshold)


def encode_queries(
    p: Tensor, mask_logits: Tensor, geometry: MaskGeometry, queries: Tensor, labels: Tensor, check: Check
) -> UnlabeledSegments:
    """Encode the masks of the selected queries (N,), which may repeat; scores are their `p` (Q, K)."""
    masks: dict[int, MaskRle] = {}
    firmness: dict[int, float] = {}
    for query in dict.fromkeys(queries.tolist()):
        check()
        logits, row, column = geometry.crop(mask_logits[query])
        masks[query] = _encode_crop(logits > 0, row, column, geometry)
        firmness[query] = firmness_of(logits)
    return UnlabeledSegments(
        image_hw=geometry.image_hw,
        masks=tuple(masks[query] for query in queries.tolist()),
        label_indices=labels,
        scores=p[queries, labels],
        firmness=p.new_tensor([firmness[query] for query in queries.tolist()]),
        runners_up=runners_up(p, queries, labels),
        queries=queries,
    )


def _encode_crop(inside: Tensor, top: int, left: int, geometry: MaskGeometry) -> MaskRle:
    return MaskRle.encode_crop(inside.cpu().numpy(), top=top, left=left, image_hw=geometry.image_hw)


def panoptic(
    class_logits: Tensor,
    mask_logits: Tensor,
    geometry: MaskGeometry,
    *,
    stuff: Collection[int],
    threshold: float = 0.5,
    overlap: float = PANOPTIC_OVERLAP,
    weigh_own: bool = True,
    every_pixel: bool = False,
    check: Check = always_go_on,
) -> UnlabeledSegments:
    """Build segments that do not overlap: each pixel belongs to its most likely query or to none.

    Queries whose best class reaches `threshold` compete with mask probability × class probability.
    A segment that lost too many pixels to others is dropped; those of one stuff class are merged.

    Args:
        weigh_own: the area that a query may lose is that of mask × class probability ≥ 0.5, as in the
            reference. A score below 0.5 then never gives a segment, whatever the threshold.
        every_pixel: give a segment every pixel where it is the most likely one, however unlikely, as the
            reference does. A single mug would get the whole image, so by default a segment gets only pixels
            where its mask probability is ≥ 0.5.
        check: called in every loop; may raise.
    """
    p = probabilities(class_logits)
    scores, labels = p.max(dim=-1)
    keep = (scores >= threshold).nonzero()[:, 0]
    scores, labels = scores[keep], labels[keep]
    seconds, queries = runners_up(p, keep, labels).tolist(), keep.tolist()
    found: list[tuple[int, float, int, float, float]] = []  # label, score, query, firmness, runner-up
    segment_of = np.full(len(scores), -1, np.int32)  # what becomes of each query
    if len(scores):
        owner, owned, areas, firmness = _compete(
            mask_logits[keep], scores, geometry, weigh_own=weigh_own, check=check
        )
        taken = np.bincount(owner.ravel(), minlength=len(scores))
        merged: dict[int, int] = {}
        for index, (label, score) in enumerate(zip(labels.tolist(), scores.tolist(), strict=True)):
            check()
            if areas[index] == 0 or taken[index] / areas[index] <= overlap:
                continue
            segment_of[index] = len(found)
            if label in stuff and label in merged:
                _, best, _, *others = found[merged[label]]
                segment_of[index] = merged[label]
                found[merged[label]] = (label, max(best, score), SEVERAL_QUERIES, *others)
                continue
            if label in stuff:
                merged[label] = len(found)
            found.append((label, score, queries[index], float(firmness[index]), seconds[index]))
        segments = segment_of[owner]
        if not every_pixel:
            segments[~owned] = -1
    return UnlabeledSegments(
        image_hw=geometry.image_hw,
        masks=encode_labels(segments, range(len(found)), check) if found else (),
        label_indices=torch.tensor([f[0] for f in found], dtype=torch.long, device=scores.device),
        scores=torch.tensor([f[1] for f in found], device=scores.device),
        queries=torch.tensor([f[2] for f in found], dtype=torch.long, device=scores.device),
        firmness=torch.tensor([f[3] for f in found], device=scores.device),
        runners_up=torch.tensor([f[4] for f in found], device=scores.device),
    )


def _compete(
    mask_logits: Tensor, scores: Tensor, geometry: MaskGeometry, *, weigh_own: bool, check: Check
) -> tuple[NDArray[np.int32], BoolMask, NDArray[np.int64], NDArray[np.float32]]:
    """Return each pixel's owner and whether it is in its mask (H, W), own areas and firmness (N,)."""
    owners, owned = [], []
    areas = torch.zeros(len(scores), dtype=torch.long, device=scores.device)
    firm, loose = torch.zeros_like(areas), torch.zeros_like(areas)
    for _, logits in geometry.bands(mask_logits):
        check()
        chances = logits.sigmoid()
        weighted = chances * scores[:, None, None]
        own = (weighted if weigh_own else chances) >= 0.5
        owner = weighted.max(dim=0).indices
        areas += own.flatten(1).sum(dim=1)
        firm += (logits > FIRM_LOGIT).flatten(1).sum(dim=1)
        loose += (logits > -FIRM_LOGIT).flatten(1).sum(dim=1)
        owners.append(owner.to(torch.int32).cpu().numpy())
        owned.append((chances.gather(0, owner[None])[0] >= 0.5).cpu().numpy())
    firmness = (firm / loose.clamp(min=1)).cpu().numpy()
    return np.concatenate(owners), np.concatenate(owned), areas.cpu().numpy(), firmness


def encode_labels(label_map: NDArray[np.int32], labels: Sequence[int], check: Check) -> tuple[MaskRle, ...]:
    """Encode the region of each label in a map (H, W); −1 is no label. Each is read in its own box only."""
    from scipy.ndimage import find_objects  # imported late: most requests need no SciPy

    height, width = label_map.shape
    boxes = find_objects(label_map + 1, max_label=max(labels, default=0) + 1)
    masks = []
    for label in labels:
        check()
        box = boxes[label]
        region = np.zeros((0, 0), np.bool_) if box is None else label_map[box] == label
        top, left = (0, 0) if box is None else (box[0].start, box[1].start)
        masks.append(MaskRle.encode_crop(region, top=top, left=left, image_hw=(height, width)))
    return tuple(masks)


def without_duplicates(
    segments: UnlabeledSegments,
    iou: float = DUPLICATE_IOU,
    *,
    nested: float | None = None,
    check: Check = always_go_on,
) -> UnlabeledSegments:
    """Drop segments that repeat a better one of the same label.

    Args:
        segments: in any order.
        iou: overlap at which one repeats the other.
        nested: share at which one counts as inside the other, and the one with the lower score is dropped;
            None = nested segments stay.
        check: called in every loop; may raise.

    Returns:
        The remaining segments, best score first.
    """
    order = segments.scores.argsort(descending=True, stable=True).tolist()
    labels = segments.label_indices.tolist()
    kept: list[int] = []
    for index in order:
        check()
        better = [segments.masks[k] for k in kept if labels[k] == labels[index]]
        if not repeats(segments.masks[index], better, iou, nested):
            kept.append(index)
    return segments.pick(torch.tensor(kept, dtype=torch.long))


def repeats(mask: MaskRle, better: Sequence[MaskRle], iou: float, nested: float | None) -> bool:
    """Return whether a mask repeats one of several others, or lies inside one or around one."""
    if bool((MaskRle.iou_matrix([mask], better) >= iou).any()):
        return True
    if nested is None:
        return False
    inside = MaskRle.inside_matrix([mask], better) >= nested
    around = MaskRle.inside_matrix(better, [mask]) >= nested
    return bool(inside.any() or around.any())


def best_first(raw: UnlabeledSegments, *, max_instances: int) -> UnlabeledSegments:
    """Sort: best score first, at most `max_instances`, empty masks dropped."""
    raw = raw.pick(torch.tensor([mask.crop().pixels.size > 0 for mask in raw.masks], dtype=torch.bool))
    return raw.pick(raw.scores.argsort(descending=True, stable=True)[:max_instances])


def to_segments(raw: UnlabeledSegments, labels: Sequence[str], *, states: Tensor | None = None) -> Segments:
    """Label segments, in their order.

    Args:
        raw: the segments.
        labels: by label index.
        states: (Q, C) of the decoder's queries, by which objects are recognized in later frames.
    """
    indices = raw.label_indices.cpu().numpy().astype(np.int32)
    return Segments(
        image_hw=raw.image_hw,
        masks=raw.masks,
        labels=tuple(labels[i] for i in indices),
        label_indices=indices,
        scores=raw.scores.detach().cpu().numpy().astype(np.float32).clip(0, 1),
        boxes_xyxy=np.array([mask.crop().box_xyxy for mask in raw.masks], np.float32).reshape(-1, 4),
        embeddings=_embeddings(raw.queries, states),
    )


def _embeddings(queries: Tensor, states: Tensor | None) -> NDArray[np.float32]:
    """Return the unit states of queries (N, C); zeros where a segment has several."""
    if states is None:
        return np.zeros((len(queries), 0), np.float32)
    units = F.normalize(states.detach()[queries.clamp_min(0)].float(), dim=-1)
    units = units.masked_fill((queries < 0)[:, None], 0.0)
    return units.cpu().numpy()
