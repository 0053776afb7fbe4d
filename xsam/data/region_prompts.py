"""Random point, scribble, box, and mask prompts for objects, as a person might give them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from xsam.types.masks import BoolMask, box_of_mask
from xsam.types.requests import PromptKind, VisualPrompt


def draw_region_prompt(
    kind: PromptKind,
    mask: BoolMask,
    rng: np.random.Generator,
    *,
    box_offsets_px: ArrayLike = 0,
    scribble_points: int = 3,
    sort_scribble: bool = True,
) -> VisualPrompt:
    """Draw a prompt for an object.

    Args:
        kind: POINT is a random pixel of the object; SCRIBBLE, a line through random pixels of it; BOX, its
            bounding box; MASK, the object itself.
        mask: (H, W), not empty.
        rng: source of randomness.
        box_offsets_px: moves the sides of a box, (x_min, y_min, x_max, y_max); the result is clipped to the
            image and at least one pixel wide and high.
        scribble_points: number of points of a scribble.
        sort_scribble: order these points along the longer side of the object.
    """
    if kind is PromptKind.MASK:
        return VisualPrompt.from_mask(mask)
    if kind is PromptKind.BOX:
        height, width = mask.shape
        x_min, y_min, x_max, y_max = np.add(box_of_mask(mask), box_offsets_px).tolist()
        left, top = min(max(0, x_min), width - 1), min(max(0, y_min), height - 1)
        right, bottom = min(width, max(left + 1, x_max)), min(height, max(top + 1, y_max))
        return VisualPrompt.box(float(left), float(top), float(right), float(bottom))
    rows, columns = np.nonzero(mask)
    picks = rng.integers(len(rows), size=1 if kind is PromptKind.POINT else scribble_points)
    if kind is PromptKind.SCRIBBLE and sort_scribble:
        along = columns if np.ptp(columns) >= np.ptp(rows) else rows
        picks = picks[np.argsort(along[picks], kind="stable")]
    points = [(float(columns[pick]), float(rows[pick])) for pick in picks]
    return VisualPrompt.point(*points[0]) if kind is PromptKind.POINT else VisualPrompt.scribble(points)
