"""Logits with known probabilities, and masks read back as pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from xsam.inference.postprocess import UnlabeledSegments
from xsam.inference.upsample import MaskGeometry

# An image of 2×3 pixels fills the upper part of a square of 3×3, so upsampling changes nothing.
SMALL = MaskGeometry(side=3, scaled_hw=(2, 3), image_hw=(2, 3))


def class_logits(*rows: Sequence[float]) -> Tensor:
    """Return class logits whose softmax gives these probabilities; background gets the rest."""
    return torch.tensor([[*row, 1 - sum(row)] for row in rows], dtype=torch.float64).log().float() + 1.7


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def mask_logits(*pictures: Sequence[Sequence[float]]) -> Tensor:
    """Return mask logits whose sigmoid gives these 2×3 probabilities; the padding row is "object"."""
    return torch.tensor([[[logit(p) for p in row] for row in picture] + [[9.0] * 3] for picture in pictures])


def decoded(found: UnlabeledSegments) -> Tensor:
    decoded_masks = [mask.decode() for mask in found.masks]
    return torch.from_numpy(np.array(decoded_masks, np.bool_).reshape(-1, *found.image_hw))


def pixels(mask: Tensor) -> set[tuple[int, int]]:
    return {(int(row), int(column)) for row, column in mask.nonzero()}


NO, YES = 0.1, 0.9
LEFT = [[YES, NO, NO], [YES, NO, NO]]
TOP = [[YES, YES, YES], [NO, NO, NO]]
CORNER = [[NO, NO, NO], [NO, NO, YES]]
