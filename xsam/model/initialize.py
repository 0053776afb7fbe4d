"""Random initialization for training from scratch, with the distributions of the published blocks.

Loading a checkpoint fills every tensor, so only training uses this. X-SAM's own layers keep PyTorch's
defaults.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from xsam.model.blocks.mask2former import POINTS, DeformableAttention, MaskDecoder, PixelDecoder, QueryLayer
from xsam.model.blocks.sam import SamEncoder
from xsam.model.blocks.siglip import PoolingHead, SiglipAttention, SiglipEncoder, SiglipFeedForward
from xsam.model.blocks.text import CausalText
from xsam.model.xsam import XSamModel

POSITION_STD = 0.02


@torch.no_grad()
def initialize_weights(model: XSamModel) -> None:
    """Fill what a fresh `XSamModel` leaves unset or degenerate, in place."""
    _text(model.llm, model.config.llm.initializer_range)
    _siglip(model.vision_encoder)
    _sam(model.segmentor.encoder)
    _pixel_decoder(model.segmentor.pixel_decoder)
    _mask_decoder(model.segmentor.decoder, model.config.mask2former.init_xavier_std)
    model.segmentor.shared_image_embedding.positional_embedding.normal_()


def _text(llm: CausalText, std: float) -> None:
    for module in llm.modules():
        if isinstance(module, nn.Linear):
            module.weight.normal_(std=std)
        elif isinstance(module, nn.Embedding):
            module.weight.normal_(std=std)
            if module.padding_idx is not None:
                module.weight[module.padding_idx] = 0.0


def _siglip(encoder: SiglipEncoder) -> None:
    positions = encoder.embeddings.position_embedding.weight
    positions.normal_(std=positions.shape[1] ** -0.5)
    patches = encoder.embeddings.patch_embedding
    patches.weight.normal_(std=patches.weight[0].numel() ** -0.5)
    nn.init.zeros_(patches.bias)
    for module in encoder.modules():
        if isinstance(module, SiglipAttention):
            for linear in (module.q_proj, module.k_proj, module.v_proj, module.out_proj):
                _xavier(linear)
        elif isinstance(module, SiglipFeedForward):
            for linear in (module.fc1, module.fc2):
                nn.init.xavier_uniform_(linear.weight)
                linear.bias.normal_(std=1e-6)
        elif isinstance(module, PoolingHead):
            nn.init.xavier_uniform_(module.probe)


def _sam(encoder: SamEncoder) -> None:
    """Fill SAM's encoder; the published range of 1e-10 would leave it dead."""
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


def _pixel_decoder(decoder: PixelDecoder) -> None:
    """Fill the pixel decoder; at first, a head samples along a direction of its own."""
    decoder.level_embed.normal_()
    for module in decoder.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.weight.normal_(std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in decoder.modules():
        if isinstance(module, DeformableAttention):
            for zero in (module.sampling_offsets, module.attention_weights):
                nn.init.zeros_(zero.weight)
                nn.init.zeros_(zero.bias)
            module.sampling_offsets.bias.copy_(_ring(module.heads, len(module.sampling_offsets.bias)))
            _xavier(module.value_proj)
            _xavier(module.output_proj)


def _ring(heads: int, count: int) -> Tensor:
    """Return offsets (x, y) of all heads, scales and points, flat; point p is p cells away."""
    angles = torch.arange(heads) * (2.0 * math.pi / heads)
    directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
    directions = directions / directions.abs().amax(dim=-1, keepdim=True)
    levels = count // (heads * POINTS * 2)
    distance = torch.arange(1, POINTS + 1)[:, None]
    return (directions[:, None, None] * distance).expand(heads, levels, POINTS, 2).flatten()


def _mask_decoder(decoder: MaskDecoder, gain: float) -> None:
    """Fill the mask decoder; queries and the mask predictor keep PyTorch's defaults."""
    for projection in decoder.input_projections:
        if isinstance(projection, nn.Conv2d):
            nn.init.xavier_uniform_(projection.weight, gain=gain)
            nn.init.zeros_(projection.bias)
    for layer in decoder.decoder.layers:
        assert isinstance(layer, QueryLayer)
        for name, parameter in layer.named_parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter, gain=gain)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)


def _xavier(linear: nn.Linear) -> None:
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
