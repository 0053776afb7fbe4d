"""Go on training a checkpoint with larger pictures."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.nn import functional as F

from xsam.errors import TrainingConfigError
from xsam.model.xsam import XSamModel

_POSITIONS = "segmentor.encoder.pos_embed"


def at_image_size(model: XSamModel, side: int) -> XSamModel:
    """The same weights for another input size of the SAM branch.

    Everything but positions is independent of the size. Absolute positions are resized bicubically, relative
    ones of the layers that see the whole picture linearly, as SAM's own code does at run time.

    Args:
        model: left as it is.
        side: input side in pixels; two by two patches must fill it, since they become one token.

    Returns:
        A new model in float32 on the CPU, or `model` itself if it has this size.

    Raises:
        TrainingConfigError: `side` does not fit the patches.
    """
    config = copy.deepcopy(model.config)
    if side == config.sam.image_size:
        return model
    unit = round(config.sam.patch_size / config.downsample_ratio)
    if side < unit or side % unit:
        raise TrainingConfigError(f"an image size must be a multiple of {unit} pixels, got {side}")
    config.sam.image_size = side
    resized = XSamModel(config)
    given = model.state_dict()
    state = {
        name: _fitted(name, given[name].float().cpu(), wanted.shape)
        for name, wanted in resized.state_dict().items()
    }
    resized.load_state_dict(state)
    return resized


def _fitted(name: str, tensor: Tensor, shape: torch.Size) -> Tensor:
    if tensor.shape == shape:
        return tensor
    if name == _POSITIONS:  # (1, h, w, C)
        moved = tensor.permute(0, 3, 1, 2)
        return F.interpolate(moved, size=shape[1:3], mode="bicubic", align_corners=False).permute(0, 2, 3, 1)
    if ".rel_pos_" in name:  # (2 · side − 1, C)
        return F.interpolate(tensor.T[None], size=shape[0], mode="linear", align_corners=False)[0].T
    raise TrainingConfigError(f"{name} has shape {tuple(tensor.shape)} and cannot become {tuple(shape)}")
