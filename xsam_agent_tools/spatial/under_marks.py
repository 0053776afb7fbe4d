"""What is under a mark: the object that somebody who points there sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xsam.types.masks import MaskRle
from xsam.types.visual_prompts import VisualPrompt

_MOST = 0.5  # share of a mark's points on an object, or of an object's pixels in a box


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Named:
    """A mask with its name, and its id if it has one."""

    label: str
    mask: MaskRle
    object_id: str = ""


def named_under(mark: VisualPrompt, named: Sequence[Named]) -> Named | None:
    """Return what most of a mark is on; None if that is nothing with a name.

    Points and scribbles are on the smallest mask with most of their points: the handle, not the whole pan. A
    box is around the largest mask that lies in it for the most part. What has an id comes first.
    """
    fitting = [item for item in named if _share(mark, item.mask) >= _MOST]
    if mark.box_xyxy is not None:
        fitting.sort(key=lambda item: (not item.object_id, -item.mask.area))
    else:
        fitting.sort(key=lambda item: (not item.object_id, item.mask.area))
    return fitting[0] if fitting else None


def _share(mark: VisualPrompt, mask: MaskRle) -> float:
    """Return the share of a mark's points on the mask, or of the mask's pixels in a box."""
    if not mask.area:
        return 0.0
    pixels = mask.decode()
    if mark.box_xyxy is not None:
        x_min, y_min, x_max, y_max = (max(0, round(value)) for value in mark.box_xyxy)
        return float(np.count_nonzero(pixels[y_min:y_max, x_min:x_max])) / mask.area
    if mark.points_xy is None:
        return 0.0
    columns, rows = np.rint(mark.points_xy).astype(int).T
    return float(pixels[rows, columns].mean())
