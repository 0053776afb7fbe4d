"""Camera image → the two encoders' tensors; visual prompts → region masks.

Source: section 3.1 of the paper and the processors of the released checkpoint. Resizing is Pillow's
(antialiased), because that is what the weights were trained with.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from xsam.config import XSamConfig
from xsam.types.masks import BoolMask
from xsam.types.requests import PromptKind, VisualPrompt

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)
_RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
PROMPT_RADIUS_SHARE = 0.01  # of the longest image side: half the width of points and scribbles


def scaled_hw(image_hw: tuple[int, int], longest_px: int) -> tuple[int, int]:
    """Return the size (H, W) after the longest edge is resized to `longest_px`; at least one pixel each."""
    scale = longest_px / max(image_hw)
    height, width = (max(1, int(side * scale + 0.5)) for side in image_hw)
    return (height, width)


def vision_pixels(rgb: NDArray[np.uint8], config: XSamConfig) -> Tensor:
    """Prepare an image for the SigLIP branch: plain resize to a square, mean = std = 0.5.

    Args:
        rgb: (H, W, 3) uint8.

    Returns:
        (3, s, s) float32.
    """
    side = config.vision_encoder.image_size
    resized = Image.fromarray(rgb).resize((side, side), _RESAMPLE[config.vision_resample])
    return torch.from_numpy((np.asarray(resized, np.float32) / 255.0 - 0.5) / 0.5).permute(2, 0, 1)


def segmentation_pixels(rgb: NDArray[np.uint8], config: XSamConfig) -> Tensor:
    """Prepare an image for the SAM branch: longest edge to S, ImageNet statistics, zeros right and below.

    Args:
        rgb: (H, W, 3) uint8.

    Returns:
        (3, S, S) float32.
    """
    side = config.sam.image_size
    height, width = scaled_hw((rgb.shape[0], rgb.shape[1]), side)
    resized = Image.fromarray(rgb).resize((width, height), Image.Resampling.BILINEAR)
    values = (np.asarray(resized, np.float32) / 255.0 - IMAGENET_MEAN) / IMAGENET_STD
    pixels = torch.zeros(3, side, side)
    pixels[:, :height, :width] = torch.from_numpy(values).permute(2, 0, 1)
    return pixels


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


def square_mask(mask: BoolMask, config: XSamConfig) -> Tensor:
    """Resize a mask in original pixels to the SAM branch's square, like the image but by nearest neighbor.

    Returns:
        (S, S) bool.
    """
    side = config.sam.image_size
    height, width = scaled_hw((mask.shape[0], mask.shape[1]), side)
    resized = Image.fromarray(mask.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
    square = torch.zeros(side, side, dtype=torch.bool)
    square[:height, :width] = torch.from_numpy(np.array(resized) > 0)
    return square


def region_mask(mask: BoolMask, config: XSamConfig) -> Tensor:
    """Resize a region with at least one pixel to the SAM branch's square.

    A region too small to survive the resize keeps its nearest pixel.

    Returns:
        (S, S) uint8, at least one pixel set.
    """
    square = square_mask(mask, config).to(torch.uint8)
    if not square.any():
        height, width = scaled_hw((mask.shape[0], mask.shape[1]), config.sam.image_size)
        rows, columns = np.nonzero(mask)
        middle = len(rows) // 2
        square[
            min(height - 1, int(rows[middle] * height / mask.shape[0])),
            min(width - 1, int(columns[middle] * width / mask.shape[1])),
        ] = 1
    return square
