"""SigLIP's vision encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xsam.model.blocks.parts import ACTIVATIONS, LayerStack, activate

if TYPE_CHECKING:
    from transformers import SiglipVisionConfig


class PatchPositions(nn.Module):
    """Patches of an image, embedded, plus a learned code of their positions."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        width, side = config.hidden_size, config.patch_size
        self.patch_embedding = nn.Conv2d(config.num_channels, width, side, stride=side)
        self.position_embedding = nn.Embedding((config.image_size // side) ** 2, width)

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed (B, 3, S, S) as (B, positions, C)."""
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        embedded: Tensor = patches + self.position_embedding.weight
        return embedded


class SiglipAttention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads, self.dropout = config.num_attention_heads, float(config.attention_dropout)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended = F.scaled_dot_product_attention(
            query, key, value, dropout_p=self.dropout if self.training else 0.0
        )
        out: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return out


class SiglipFeedForward(nn.Module):
    """Two linear layers with an activation in between."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(activate(self.activation, self.fc1(x)))
        return out


class SiglipLayer(nn.Module):
    """One pre-norm layer."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = SiglipAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = SiglipFeedForward(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        out: Tensor = x + self.mlp(self.layer_norm2(x))
        return out


class SiglipLayers(nn.Module):
    """The list of layers."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(SiglipLayer(config) for _ in range(config.num_hidden_layers))


class PoolingHead(nn.Module):
    """Attention pooling. A part of the published checkpoint that X-SAM never runs."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.attention = nn.MultiheadAttention(
            config.hidden_size, config.num_attention_heads, batch_first=True
        )
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = SiglipFeedForward(config)


class SiglipEncoder(LayerStack):
    """All parameters of the published encoder; `xsam.model.encoders` runs the layers that are used."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.embeddings = PatchPositions(config)
        self.encoder = SiglipLayers(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        if getattr(config, "vision_use_head", True):
            self.head = PoolingHead(config)
