"""Whether a mask obeys the marks that it was asked for with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xsam.types.masks import BoolMask
from xsam.types.visual_prompts import PromptKind, VisualPrompt

_MIN_COVERED = 0.5  # share of a point, scribble or mask prompt
_MIN_COVERED_BOX = 0.1  # a box around an object contains background, too
_MIN_IN_BOX = 0.5  # share of the mask in a box that was drawn around all of the object


def obeys_mark(mask: BoolMask, mark: VisualPrompt, *, whole_object: bool = False) -> bool:
    """Return whether a mask (H, W) covers a positive mark, or excludes a negative one.

    Args:
        mask: the result.
        mark: what was drawn, in pixels of the mask's image.
        whole_object: a positive box was drawn around all that is meant, so the mask must not go far beyond.
    """
    height, width = mask.shape
    if mark.points_xy is not None:
        columns, rows = np.clip(np.rint(mark.points_xy), 0, (width - 1, height - 1)).astype(int).T
        covered = mask[rows, columns]
    elif mark.box_xyxy is not None:
        x_min, y_min, x_max, y_max = mark.box_xyxy
        left, top = max(0, int(x_min)), max(0, int(y_min))
        covered = mask[top : max(top + 1, round(y_max)), left : max(left + 1, round(x_max))]
        inside, everything = np.count_nonzero(covered), np.count_nonzero(mask)
        if mark.positive and whole_object and inside < _MIN_IN_BOX * everything:
            return False
    else:
        covered = mask[mark.mask] if mark.mask is not None else mask
    share = float(covered.mean()) if covered.size else 0.0
    if mark.positive:
        return share >= (_MIN_COVERED_BOX if mark.box_xyxy is not None else _MIN_COVERED)
    return share < _MIN_COVERED


def disobedience(mask: BoolMask, marks: Sequence[VisualPrompt]) -> str:
    """Return in words which marks the mask (H, W) of one object does not obey; "" if it obeys all.

    Mask prompts are left out: they say which object is meant, and it may have moved since.
    """
    drawn = [mark for mark in marks if mark.kind is not PromptKind.MASK]
    whole_object = sum(mark.positive for mark in marks) == 1
    broken = [mark for mark in drawn if not obeys_mark(mask, mark, whole_object=whole_object)]
    if not broken:
        return ""
    mark = broken[0]
    name = mark.kind.value if mark.positive else f"negative {mark.kind.value}"
    if len(broken) > 1:
        return f"the mask does not obey {len(broken)} of {len(drawn)} marks"
    if not mark.positive:
        return f"the mask contains the {name}"
    return (
        f"the mask misses the {name} or goes far beyond it" if mark.box_xyxy else f"the {name} is not on it"
    )
