"""Images and clips → the patches that Qwen3-VL's vision tower reads.

Sides are rounded to multiples of a merged patch, and the area (of a clip: the volume) is kept within bounds
by scaling down or up. Images are resized by Pillow, clips by PyTorch's antialiased kernel on 8-bit values,
because that is what the weights were trained with; the two differ by a gray level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

_FRAMES_PER_PATCH = 2


def fitted_hw(
    image_hw: tuple[int, int], bounds: tuple[int, int], step: int, *, frames: int = 1
) -> tuple[int, int]:
    """Return the size (H, W) that an image or a clip is resized to.

    Args:
        image_hw: original size, pixels.
        bounds: smallest and largest area, or volume with the frames, pixels.
        step: both sides become multiples of this.
        frames: of a clip; an odd last frame counts twice.
    """
    height, width = image_hw
    depth = 1 if frames == 1 else math.ceil(frames / _FRAMES_PER_PATCH) * _FRAMES_PER_PATCH
    fitted = tuple(max(step, round(side / step) * step) for side in image_hw)
    volume = depth * fitted[0] * fitted[1]
    if volume > bounds[1]:
        shrink = math.sqrt(frames * height * width / bounds[1])
        fitted = tuple(max(step, math.floor(side / shrink / step) * step) for side in image_hw)
    elif volume < bounds[0]:
        grow = math.sqrt(bounds[0] / (frames * height * width))
        fitted = tuple(math.ceil(side * grow / step) * step for side in image_hw)
    return fitted[0], fitted[1]


def image_patches(rgb: NDArray[np.uint8], size: tuple[int, int], *, patch: int, merge: int) -> Tensor:
    """Cut an image into patches.

    Args:
        rgb: (H, W, 3) uint8.
        size: (height, width) to resize to; see `fitted_hw`.
        patch: side of a patch, pixels.
        merge: patches per side of a merged patch.

    Returns:
        (h · w, 3 · 2 · patch²) float32 in reading order of the merged patches.
    """
    resized = Image.fromarray(rgb).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None]
    return _patches(pixels.expand(_FRAMES_PER_PATCH, -1, -1, -1), patch, merge)


def clip_patches(
    frames: Sequence[NDArray[np.uint8]], size: tuple[int, int], *, patch: int, merge: int
) -> Tensor:
    """Cut a clip into patches of two frames each; an odd last frame is repeated.

    Args:
        frames: T images (H, W, 3) uint8 of one size.
        size: (height, width) to resize to; see `fitted_hw`.
        patch: side of a patch, pixels.
        merge: patches per side of a merged patch.

    Returns:
        (⌈T / 2⌉ · h · w, 3 · 2 · patch²) float32.
    """
    clip = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous()
    clip = F.interpolate(clip, size=size, mode="bicubic", align_corners=False, antialias=True)
    if len(clip) % _FRAMES_PER_PATCH:
        clip = torch.cat([clip, clip[-1:]])
    return _patches(clip, patch, merge)


def _patches(pixels: Tensor, patch: int, merge: int) -> Tensor:
    values = (pixels.float() / 255.0 - 0.5) / 0.5
    frames, channels, height, width = values.shape
    rows, columns = height // (patch * merge), width // (patch * merge)
    grid = values.reshape(
        *(frames // _FRAMES_PER_PATCH, _FRAMES_PER_PATCH, channels, rows, merge, patch, columns, merge, patch)
    )
    # to (t, row, column, row in the merged patch, column in it, channel, frame, y, x)
    return grid.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(-1, channels * _FRAMES_PER_PATCH * patch * patch)
