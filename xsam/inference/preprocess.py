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
from xsam.config.square import Square
from xsam.types.masks import BoolMask

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)
_RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


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


def segmentation_pixels(rgb: NDArray[np.uint8], square: Square) -> Tensor:
    """Prepare an image for the segmentation encoder: resized into its square, ImageNet statistics.

    Args:
        rgb: (H, W, 3) uint8.
        square: of the model's configuration.

    Returns:
        (3, S, S) float32.
    """
    side = square.side
    height, width = square.scaled_hw((rgb.shape[0], rgb.shape[1]))
    resized = Image.fromarray(rgb).resize((width, height), Image.Resampling.BILINEAR)
    values = (np.asarray(resized, np.float32) / 255.0 - IMAGENET_MEAN) / IMAGENET_STD
    pixels = torch.zeros(3, side, side)
    pixels[:, :height, :width] = torch.from_numpy(values).permute(2, 0, 1)
    return pixels


def square_mask(mask: BoolMask, square: Square) -> Tensor:
    """Resize a mask in original pixels into the square, like the image but by nearest neighbor.

    Returns:
        (S, S) bool.
    """
    height, width = square.scaled_hw((mask.shape[0], mask.shape[1]))
    resized = Image.fromarray(mask.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
    filled = torch.zeros(square.side, square.side, dtype=torch.bool)
    filled[:height, :width] = torch.from_numpy(np.array(resized) > 0)
    return filled


def region_mask(mask: BoolMask, square: Square) -> Tensor:
    """Resize a region with at least one pixel into the square.

    A region too small to survive the resize keeps its nearest pixel.

    Returns:
        (S, S) uint8, at least one pixel set.
    """
    filled = square_mask(mask, square).to(torch.uint8)
    if not filled.any():
        height, width = square.scaled_hw((mask.shape[0], mask.shape[1]))
        rows, columns = np.nonzero(mask)
        middle = len(rows) // 2
        filled[
            min(height - 1, int(rows[middle] * height / mask.shape[0])),
            min(width - 1, int(columns[middle] * width / mask.shape[1])),
        ] = 1
    return filled
