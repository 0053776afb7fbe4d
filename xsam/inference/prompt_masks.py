"""Visual prompts → the pixels that they cover. No PyTorch: training data and scoring draw prompts, too."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from xsam.types.masks import BoolMask
from xsam.types.requests import PromptKind, VisualPrompt

PROMPT_RADIUS_SHARE = 0.01  # of the longest image side: half the width of points and scribbles


def prompt_mask(prompts: Sequence[VisualPrompt], image_hw: tuple[int, int]) -> BoolMask:
    """Draw the positive prompts minus the negative ones as a mask (H, W) in original pixels.

    Points become discs and scribbles become strokes of 1 % of the longest side. If the negatives leave
    nothing, the positives alone count.
    """
    positive = np.zeros(image_hw, np.uint8)
    negative = np.zeros(image_hw, np.uint8)
    for prompt in prompts:
        _paint(positive if prompt.positive else negative, prompt)
    kept = (positive > 0) & (negative == 0)
    return kept if kept.any() else positive > 0


def _paint(canvas: NDArray[np.uint8], prompt: VisualPrompt) -> None:
    height, width = canvas.shape
    radius = max(1, round(PROMPT_RADIUS_SHARE * max(height, width)))
    if prompt.kind is PromptKind.MASK:
        canvas[prompt.mask] = 1
    elif prompt.kind is PromptKind.BOX:
        assert prompt.box_xyxy is not None
        x_min, y_min, x_max, y_max = prompt.box_xyxy
        left, top = max(0, int(x_min)), max(0, int(y_min))
        canvas[top : max(top + 1, round(y_max)), left : max(left + 1, round(x_max))] = 1
    else:
        assert prompt.points_xy is not None
        # A point near the right or lower border rounds to a pixel outside.
        points = np.clip(np.round(prompt.points_xy), 0, (width - 1, height - 1)).astype(np.int32)
        for x_px, y_px in points.tolist():
            cv2.circle(canvas, (x_px, y_px), radius, 1, thickness=-1)
        if prompt.kind is PromptKind.SCRIBBLE:
            cv2.polylines(canvas, [points.reshape(-1, 1, 2)], False, 1, thickness=2 * radius + 1)
