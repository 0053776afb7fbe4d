"""Which of the candidate masks a visual prompt points at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from xsam.inference.postprocess import (
    Check,
    UnlabeledSegments,
    always_go_on,
    encode_queries,
    probabilities,
)
from xsam.inference.upsample import MaskGeometry
from xsam.types.masks import BoolMask, MaskRle
from xsam.types.requests import PromptKind, VisualPrompt

_WHOLE_OBJECT = (PromptKind.BOX, PromptKind.MASK)


def most_overlapping(candidates: UnlabeledSegments, region: BoolMask) -> UnlabeledSegments:
    """Select the candidate with the highest IoU with the prompt region (H, W), as the reference does."""
    if len(candidates.scores) == 0:
        return candidates
    overlaps = MaskRle.iou_matrix(candidates.masks, [MaskRle.encode(region)])
    return candidates.pick(torch.tensor([int(overlaps[:, 0].argmax())]))


Reference: TypeAlias = tuple[MaskRle, float]
"""Mask of an object in an earlier frame of a video, and its weight."""

REFERENCE_SHARE = 0.2
MAX_REFERENCES = 4


def followed(
    class_logits: Tensor,
    mask_logits: Tensor,
    geometry: MaskGeometry,
    references: Sequence[Reference],
    *,
    threshold: float,
    check: Check = always_go_on,
) -> UnlabeledSegments:
    """Select the object of an INTERACTIVE query in a later frame of a video.

    Args:
        class_logits: (Q, 2), the object and the background.
        mask_logits: (Q, h, w).
        geometry: mapping to the camera image.
        references: masks of the object in earlier frames with their weights; at least one.
        threshold: queries below this probability are left out, unless none reaches it.
        check: called for each mask; may raise.

    Returns:
        One segment; its score is 0.8 · probability + 0.2 · mean IoU with the references, as in the reference
        implementation of X2SAM.
    """
    p = probabilities(class_logits)[:, 0]
    queries = (p >= threshold).nonzero()[:, 0]
    if not len(queries):
        queries = p.argmax()[None]
    labels = torch.zeros_like(queries)
    candidates = encode_queries(p[:, None], mask_logits, geometry, queries, labels, check)
    masks, weights = zip(*references, strict=True)
    overlaps = MaskRle.iou_matrix(candidates.masks, masks)
    agreement = torch.from_numpy(overlaps @ np.array(weights) / sum(weights)).to(p)
    scores = REFERENCE_SHARE * agreement + (1 - REFERENCE_SHARE) * candidates.scores
    best = scores.argmax()[None]
    return replace(candidates, scores=scores).pick(best)


def pointed_at(
    candidates: UnlabeledSegments, prompts: Sequence[VisualPrompt], region: BoolMask
) -> UnlabeledSegments:
    """Select the candidate that the prompts point at, for models that give a mask for every object.

    The reference takes the highest IoU with the prompt region (`most_overlapping`), whatever the prompt.
    A point or a scribble shows only a part of an object, so that rule prefers small masks; and a box says
    where the object ends. Therefore:

    * A box or a mask shows the whole object: the highest IoU wins, and what reaches out of the boxes is
      cut off when there are only boxes.
    * Points and scribbles show a part: the mask that covers most of them wins, weighted by the square root
      of its score.

    Args:
        candidates: masks for the one condition of the prompts.
        prompts: at least one positive.
        region: (H, W) bool, what the prompts cover (`prompt_mask`).

    Returns:
        One segment, or none if there was no candidate.
    """
    if not candidates.masks:
        return candidates
    kinds = {prompt.kind for prompt in prompts if prompt.positive}
    if kinds.isdisjoint(_WHOLE_OBJECT):
        covered = np.array([_covered(mask, region) for mask in candidates.masks])
        fit = covered * candidates.scores.detach().cpu().numpy() ** 0.5
        return candidates.pick(torch.tensor([int(np.argmax(fit))]))
    best = most_overlapping(candidates, region)
    return _cut(best, region) if kinds == {PromptKind.BOX} else best


def _covered(mask: MaskRle, region: BoolMask) -> float:
    """Return the share of a region's pixels that a mask covers."""
    crop = mask.crop()
    return float(np.count_nonzero(region[crop.window] & crop.pixels)) / max(1, int(np.count_nonzero(region)))


def _cut(segment: UnlabeledSegments, region: BoolMask) -> UnlabeledSegments:
    """Cut a segment to the region; keep it whole if nothing would be left."""
    crop = segment.masks[0].crop()
    inside = region[crop.window] & crop.pixels
    if not inside.any():
        return segment
    cut = MaskRle.encode_crop(inside, top=crop.top, left=crop.left, image_hw=segment.image_hw)
    return replace(segment, masks=(cut,))
