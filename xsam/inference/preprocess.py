"""Camera image → the two encoders' tensors; regions → masks at the encoder's size.

Source: section 3.1 of the paper and the processors of the released checkpoint. Resizing is Pillow's
(antialiased), because that is what the weights were trained with.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from xsam.config import XSamConfig
from xsam.types.masks import BoolMask

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)
_RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


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
