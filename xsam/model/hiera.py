"""SAM 2's encoder: a Hiera backbone and a feature pyramid, run once per frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from transformers import Sam2VisionModel

_STATE_STAGE = -2  # the stage whose output becomes region tokens: a sixteenth of the image's resolution


def encode_hiera(model: Sam2VisionModel, pixels: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """Encode images.

    Args:
        pixels: (B, 3, S, S), ImageNet-normalized.

    Returns:
        Three maps (B, C, H, W), fine to coarse (1/4, 1/8 and 1/16), and the (B, S / 16, S / 16, D) states
        that the region sampler reads, channels-last.
    """
    stages = model.backbone(pixels).intermediate_hidden_states
    pyramid, _ = model.neck(stages)  # coarse to fine
    return tuple(pyramid[-model.num_feature_levels :][::-1]), stages[_STATE_STAGE]
