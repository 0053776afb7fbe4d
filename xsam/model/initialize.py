"""Random initialization for training from scratch.

Loading a checkpoint fills every tensor, so only training uses this. The stock blocks of the mask decoder are
plain modules that `transformers` initializes from outside; X-SAM's own layers keep PyTorch's defaults.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers.models.mask2former.modeling_mask2former import Mask2FormerPreTrainedModel
from transformers.models.sam.modeling_sam import SamVisionEncoder

from xsam.model.xsam import XSamModel

POSITION_STD = 0.02


def initialize_weights(model: XSamModel) -> None:
    """Fill what a fresh `XSamModel` leaves unset or degenerate, in place.

    The pixel decoder's level embedding is uninitialized memory and its sampling offsets lack their
    ring; the SAM encoder's default range of 1e-10 would leave it dead.
    """
    initializer = Mask2FormerPreTrainedModel(model.config.mask2former)
    for part in (model.segmentor.pixel_decoder, model.segmentor.decoder):
        # Depth first, parents last: a decoder layer overrides what its linear layers were given.
        part.apply(initializer._init_weights)
    encoder: SamVisionEncoder = model.segmentor.encoder
    for module in encoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if encoder.pos_embed is not None:
        nn.init.trunc_normal_(encoder.pos_embed, std=POSITION_STD)
    with torch.no_grad():
        model.segmentor.shared_image_embedding.positional_embedding.normal_()
