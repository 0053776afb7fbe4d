"""Mask2Former's pixel decoder and masked-attention decoder.

These hold parameters; `xsam.model.pixel_decoder` and `xsam.model.mask_decoder` run them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from xsam.model.blocks.parts import ACTIVATIONS

if TYPE_CHECKING:
    from transformers import Mask2FormerConfig

LEVELS = 3  # scales that attention reads
POINTS = 4  # samples for each query, head and scale
_GROUPS = 32
_PERIOD = 10_000.0


def sine_code(size: tuple[int, int], channels: int, *, like: Tensor) -> Tensor:
    """Return the (H · W, C) code of the cells of a map: half of the channels for y, half for x."""
    half = channels // 2
    exponents = 2 * torch.div(torch.arange(half, device=like.device), 2, rounding_mode="floor") / half
    periods = _PERIOD ** exponents.float()
    codes = []
    for count in size:
        angles = torch.arange(1, count + 1, dtype=torch.float32, device=like.device)
        angles = (angles / (count + 1e-6) * 2 * math.pi)[:, None] / periods
        codes.append(torch.stack([angles[:, 0::2].sin(), angles[:, 1::2].cos()], dim=2).flatten(1))
    rows, columns = codes
    whole = [rows[:, None].expand(-1, len(columns), -1).flatten(0, 1), columns.repeat(len(rows), 1)]
    return torch.cat(whole, dim=1).to(like.dtype)


class DeformableAttention(nn.Module):
    """Attention of every cell to a few points of each scale."""

    def __init__(self, config: Mask2FormerConfig) -> None:
        super().__init__()
        width, heads = config.feature_size, config.num_attention_heads
        self.heads = heads
        self.sampling_offsets = nn.Linear(width, heads * LEVELS * POINTS * 2)
        self.attention_weights = nn.Linear(width, heads * LEVELS * POINTS)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)


class PixelDecoderLayer(nn.Module):
    """One post-norm layer: deformable attention and feed-forward (ReLU)."""

    def __init__(self, config: Mask2FormerConfig) -> None:
        super().__init__()
        width = config.feature_size
        self.dropout = nn.Dropout(config.dropout)
        self.self_attn = DeformableAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, config.encoder_feedforward_dim)
        self.fc2 = nn.Linear(config.encoder_feedforward_dim, width)
        self.final_layer_norm = nn.LayerNorm(width)


class PixelDecoderLayers(nn.Module):
    """The list of layers."""

    def __init__(self, config: Mask2FormerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(PixelDecoderLayer(config) for _ in range(config.encoder_layers))


def _convolution(channels: int, width: int, *, side: int = 1, bias: bool = False) -> list[nn.Module]:
    return [nn.Conv2d(channels, width, side, padding=side // 2, bias=bias), nn.GroupNorm(_GROUPS, width)]


class PixelDecoder(nn.Module):
    """Deformable attention over the three coarsest levels of a pyramid, then finer levels on top.

    Args:
        config: of Mask2Former.
        channels: of each level of the pyramid, fine to coarse.
    """

    def __init__(self, config: Mask2FormerConfig, channels: Sequence[int]) -> None:
        super().__init__()
        width = config.feature_size
        self.level_embed = nn.Parameter(torch.empty(LEVELS, width))
        self.input_projections = nn.ModuleList(
            nn.Sequential(*_convolution(count, width, bias=True)) for count in channels[-LEVELS:][::-1]
        )
        self.encoder = PixelDecoderLayers(config)
        self.mask_projection = nn.Conv2d(width, config.mask_feature_size, 1)
        coarsest = min(config.feature_strides[-LEVELS:])
        self.finer = round(math.log2(coarsest / config.common_stride))  # levels on top
        for index, count in enumerate(channels[: self.finer], start=1):
            self.add_module(f"adapter_{index}", nn.Sequential(*_convolution(count, width)))
            self.add_module(f"layer_{index}", nn.Sequential(*_convolution(width, width, side=3), nn.ReLU()))

    def finer_levels(self) -> list[tuple[nn.Module, nn.Module]]:
        """Return the projection of each finer level and its output convolution, coarse to fine."""
        return [
            (self.get_submodule(f"adapter_{index}"), self.get_submodule(f"layer_{index}"))
            for index in range(self.finer, 0, -1)
        ]


class QueryAttention(nn.Module):
    """Parameters of the queries' attention to each other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)


class QueryLayer(nn.Module):
    """Parameters of one post-norm layer: cross-attention, self-attention, feed-forward."""

    # Of X2SAM only: see `xsam.model.mask_decoder.add_text_attention`.
    text_cross_attn: nn.MultiheadAttention
    text_cross_attn_layer_norm: nn.LayerNorm

    def __init__(self, config: Mask2FormerConfig) -> None:
        super().__init__()
        width = config.hidden_dim
        self.self_attn = QueryAttention(width)
        self.activation = ACTIVATIONS[config.activation_function]
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.cross_attn = nn.MultiheadAttention(width, config.num_attention_heads, config.dropout)
        self.cross_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, config.dim_feedforward)
        self.fc2 = nn.Linear(config.dim_feedforward, width)
        self.final_layer_norm = nn.LayerNorm(width)


class MaskEmbedder(nn.Sequential):
    """Three linear layers with ReLU in between; the checkpoints count an activation with its layer."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__(
            nn.Sequential(nn.Linear(width, width), nn.ReLU()),
            nn.Sequential(nn.Linear(width, width), nn.ReLU()),
            nn.Sequential(nn.Linear(width, out)),
        )


class MaskPredictor(nn.Module):
    """Query states → embeddings whose product with the mask features is a mask."""

    def __init__(self, config: Mask2FormerConfig) -> None:
        super().__init__()
        self.mask_embedder = MaskEmbedder(config.hidden_dim, config.mask_feature_size)


class QueryLayers(nn.Module):
    """The list of layers, the norm before each prediction, and the mask predictor."""

    def __init__(self, config: Mask2FormerConfig) -> None:
        super().__init__()
        # The first prediction is made before the first layer.
        self.layers = nn.ModuleList(QueryLayer(config) for _ in range(config.decoder_layers - 1))
        self.layernorm = nn.LayerNorm(config.hidden_dim)
        self.mask_predictor = MaskPredictor(config)


class MaskDecoder(nn.Module):
    """Learned queries, projections of the three scales, and the decoder's layers."""

    def __init__(self, config: Mask2FormerConfig) -> None:
        super().__init__()
        width, features = config.hidden_dim, config.feature_size
        projected = features != width or config.enforce_input_projection
        self.queries_embedder = nn.Embedding(config.num_queries, width)
        self.queries_features = nn.Embedding(config.num_queries, width)
        self.input_projections = nn.ModuleList(
            nn.Conv2d(features, width, 1) if projected else nn.Sequential() for _ in range(LEVELS)
        )
        self.decoder = QueryLayers(config)
        self.level_embed = nn.Embedding(LEVELS, width)
        self.mask_places: nn.Module | None = None  # see `xsam.model.mask_decoder.add_mask_places`
