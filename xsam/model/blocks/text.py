"""Phi-3 and Qwen3: decoder-only language models that differ in how their matrices are stored."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xsam.model.blocks.parts import ACTIVATIONS, LayerStack

if TYPE_CHECKING:
    from transformers import Phi3Config, Qwen3Config


class RmsNorm(nn.Module):
    """Division by the root mean square over the last dimension, in float32, times a weight."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.eps)
        return self.weight * normed.to(x.dtype)


class RotaryEmbedding(nn.Module):
    """Angles of the rotary position code; not part of a checkpoint, so built with its values in any case."""

    frequencies: Tensor

    def __init__(self, config: Phi3Config | Qwen3Config) -> None:
        super().__init__()
        rope = config.rope_parameters or {}
        size = int(head_size(config) * rope.get("partial_rotary_factor", 1.0))
        exponents = torch.arange(0, size, 2, dtype=torch.float, device="cpu") / size
        self.register_buffer("frequencies", 1.0 / rope["rope_theta"] ** exponents, persistent=False)

    @torch.no_grad()
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines (B, L, d) of positions (B, L), in the data type of `x`."""
        half = position_ids[..., None].float() * self.frequencies.to(x.device)
        angles = torch.cat([half, half], dim=-1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def rotate_heads(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first channels of (B, heads, L, d) by angles (B, L, d or less): channel i with i + half."""
    cos, sin = cos[:, None], sin[:, None]
    size = cos.shape[-1]
    turned = heads if size == heads.shape[-1] else heads[..., :size]
    first, second = turned.chunk(2, dim=-1)
    rotated = turned * cos + torch.cat([-second, first], dim=-1) * sin
    return rotated if size == heads.shape[-1] else torch.cat([rotated, heads[..., size:]], dim=-1)


def head_size(config: Phi3Config | Qwen3Config) -> int:
    """Return the channels of an attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _key_heads(config: Phi3Config | Qwen3Config) -> int:
    return int(config.num_key_value_heads or config.num_attention_heads)


class PackedAttention(nn.Module):
    """Attention of Phi-3: one matrix for queries, keys and values."""

    def __init__(self, config: Phi3Config | Qwen3Config) -> None:
        super().__init__()
        self.head_dim = head_size(config)
        self.scaling = 1 / math.sqrt(self.head_dim)
        self.dropout = float(config.attention_dropout)
        self.sizes = [
            count * self.head_dim for count in (config.num_attention_heads, *[_key_heads(config)] * 2)
        ]
        self.qkv_proj = nn.Linear(config.hidden_size, sum(self.sizes), bias=False)
        self.o_proj = nn.Linear(self.sizes[0], config.hidden_size, bias=False)

    def project_heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project (B, L, D) to queries, keys and values (B, heads, L, d), before the rotary embedding."""
        query, key, value = (
            part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for part in self.qkv_proj(x).split(self.sizes, dim=-1)
        )
        return query, key, value


class SplitAttention(nn.Module):
    """Attention of Qwen3: three matrices, and queries and keys are normed head by head."""

    def __init__(self, config: Phi3Config | Qwen3Config) -> None:
        super().__init__()
        self.head_dim = head_size(config)
        self.scaling = 1 / math.sqrt(self.head_dim)
        self.dropout = float(config.attention_dropout)
        queries, keys = (count * self.head_dim for count in (config.num_attention_heads, _key_heads(config)))
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=False)
        self.q_norm = RmsNorm(self.head_dim, config.rms_norm_eps)
        self.k_norm = RmsNorm(self.head_dim, config.rms_norm_eps)

    def project_heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project (B, L, D) to queries, keys and values (B, heads, L, d), before the rotary embedding."""
        query, key, value = (
            project(x).unflatten(-1, (-1, self.head_dim))
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.q_norm(query).transpose(1, 2), self.k_norm(key).transpose(1, 2), value.transpose(1, 2)


class PackedFeedForward(nn.Module):
    """Gated feed-forward of Phi-3: one matrix for the gate and what it lets through."""

    def __init__(self, config: Phi3Config | Qwen3Config) -> None:
        super().__init__()
        self.gate_up_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        projected: Tensor = self.down_proj(self.activation(gate) * up)
        return projected


class SplitFeedForward(nn.Module):
    """Gated feed-forward of Qwen3."""

    def __init__(self, config: Phi3Config | Qwen3Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))
        return projected


class TextLayer(nn.Module):
    """One pre-norm layer."""

    def __init__(self, config: Phi3Config | Qwen3Config) -> None:
        super().__init__()
        packed = config.model_type == "phi3"
        self.self_attn = PackedAttention(config) if packed else SplitAttention(config)
        self.mlp = PackedFeedForward(config) if packed else SplitFeedForward(config)
        self.input_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.dropout = nn.Dropout(getattr(config, "resid_pdrop", 0.0))

    def forward(self, x: Tensor, visible: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Transform (B, L, D); `visible` is (B or 1, 1, L, L) bool."""
        attention = self.self_attn
        query, key, value = attention.project_heads(self.input_layernorm(x))
        attended = F.scaled_dot_product_attention(
            rotate_heads(query, cos, sin),
            rotate_heads(key, cos, sin),
            value,
            attn_mask=visible,
            dropout_p=attention.dropout if self.training else 0.0,
            scale=attention.scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        x = x + self.dropout(attention.o_proj(attended.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.mlp(self.post_attention_layernorm(x)))


class TextModel(LayerStack):
    """Vocabulary, layers and final norm."""

    def __init__(self, config: Phi3Config | Qwen3Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(TextLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = RotaryEmbedding(config)

    def forward(self, embeds: Tensor, positions: Tensor, visible: Tensor) -> Tensor:
        """Compute the last hidden states (B, L, D).

        Args:
            embeds: (B, L, D).
            positions: (B or 1, L) int64.
            visible: (B or 1, 1, L, L) bool, True where a query (row) attends to a key.
        """
        cos, sin = self.rotary_emb(embeds, positions)
        for layer in self.layers:
            embeds = self.run_layer(layer, embeds, visible, cos, sin)
        states: Tensor = self.norm(embeds)
        return states


class CausalText(nn.Module):
    """A language model with its head."""

    def __init__(self, config: Phi3Config | Qwen3Config) -> None:
        super().__init__()
        self.config = config
        self.model = TextModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def gradient_checkpointing_enable(self) -> None:
        """See `LayerStack`."""
        self.model.gradient_checkpointing_enable()
