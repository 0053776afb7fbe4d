"""Which of several masks a person points at: for models that give a mask for every object.

The reference takes the mask with the highest IoU with the prompt region, whatever the prompt
(`most_overlapping`). A point or a stroke shows only a part of an object, so that rule prefers small
masks; and a box says where the object ends.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from xsam.inference.postprocess import CodedMask, RawSegments, most_overlapping
from xsam.inference.preprocess import prompt_mask
from xsam.types.masks import BoolMask
from xsam.types.requests import PromptKind, VisualPrompt

CANDIDATE_SHARE = 0.35
"""Masks with at least this share of the best score are candidates; chosen on validation scenes."""

_WHOLE = (PromptKind.BOX, PromptKind.MASK)


def pointed_at(
    candidates: RawSegments, prompts: Sequence[VisualPrompt], image_hw: tuple[int, int]
) -> RawSegments:
    """The candidate that the prompts point at.

    * A box or a mask shows the whole object: the highest IoU wins, and what reaches out of the boxes is
      cut off when there are only boxes.
    * Points and strokes show a part: what covers most of them wins, weighed by the root of the score.

    Args:
        candidates: for the one condition of the prompts.
        prompts: at least one positive.
        image_hw: (H, W) of the camera image.

    Returns:
        One segment, or none if there was no candidate.
    """
    if not candidates.coded:
        return candidates
    region = prompt_mask(prompts, image_hw)
    kinds = {prompt.kind for prompt in prompts if prompt.positive}
    if kinds.isdisjoint(_WHOLE):
        covered = candidates.masks.numpy()[:, region].mean(axis=1)
        fit = covered * candidates.scores.detach().cpu().numpy() ** 0.5
        return candidates.pick(torch.tensor([int(np.argmax(fit))]))
    best = most_overlapping(candidates, region)
    return _cut(best, region) if kinds == {PromptKind.BOX} else best


def _cut(segment: RawSegments, region: BoolMask) -> RawSegments:
    """The part inside the region; all of it, if there is none."""
    inside = segment.coded[0].rle.decode() & region
    if not inside.any():
        return segment
    return RawSegments(
        image_hw=segment.image_hw,
        coded=(CodedMask.of_crop(inside, 0, 0, segment.image_hw),),
        label_indices=segment.label_indices,
        scores=segment.scores,
    )
