"""SAM's image encoder.

No work is done on the padding of the last windows, and attention biases are made in chunks that fit a CPU's
cache, all in one buffer, instead of one for all heads.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xsam.model.blocks.parts import ACTIVATIONS, LayerStack, activate
from xsam.model.projectors import ChannelLayerNorm

if TYPE_CHECKING:
    from transformers import SamVisionConfig

BIAS_BYTES = {"cpu": 16 << 20, "cuda": 256 << 20}


class PatchGrid(nn.Module):
    """Patches of an image, embedded."""

    def __init__(self, config: SamVisionConfig) -> None:
        super().__init__()
        side = config.patch_size
        self.projection = nn.Conv2d(config.num_channels, config.hidden_size, side, stride=side)

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed (B, 3, S, S) as (B, H, W, C)."""
        grid: Tensor = self.projection(pixels).permute(0, 2, 3, 1)
        return grid.contiguous()  # or every layer would keep the strides, and copy its input twice


class SamAttention(nn.Module):
    """Attention with relative positions within a window, or over the whole grid."""

    def __init__(self, config: SamVisionConfig, size: int) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.qkv_bias)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.use_rel_pos = config.use_rel_pos
        if self.use_rel_pos:
            shape = (2 * size - 1, config.hidden_size // self.heads)
            self.rel_pos_h = nn.Parameter(torch.zeros(shape))
            self.rel_pos_w = nn.Parameter(torch.zeros(shape))

    def attend(self, qkv: Tensor) -> Tensor:
        """Attend within each of N grids: (N, H, W, 3 · C) → (N, H, W, C), before the last projection.

        With relative positions the bias of a query is the sum of one by row and one by column of the key.
        """
        _, height, width, _ = qkv.shape
        query, key, value = qkv.flatten(1, 2).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if not self.use_rel_pos:
            out = F.scaled_dot_product_attention(query, key, value)
        else:
            grid = query.unflatten(2, (height, width))
            rows = _relative(self.rel_pos_h, height).to(qkv.dtype)
            columns = _relative(self.rel_pos_w, width).to(qkv.dtype)
            by_row = torch.einsum("nahwc,hkc->nahwk", grid, rows)
            by_column = torch.einsum("nahwc,wkc->nahwk", grid, columns)
            if torch.is_grad_enabled():
                bias = (by_row[..., None] + by_column[..., None, :]).flatten(4).flatten(2, 3)
                out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
            else:
                out = _attend_in_chunks(query, key, value, by_row, by_column)
        return out.transpose(1, 2).flatten(2).unflatten(1, (height, width))


class SamFeedForward(nn.Module):
    """Two linear layers with an activation in between."""

    def __init__(self, config: SamVisionConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.hidden_act]
        self.lin1 = nn.Linear(config.hidden_size, config.mlp_dim)
        self.lin2 = nn.Linear(config.mlp_dim, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.lin2(activate(self.activation, self.lin1(x)))
        return out


class SamLayer(nn.Module):
    """One pre-norm layer."""

    def __init__(self, config: SamVisionConfig, window: int) -> None:
        super().__init__()
        self.window = window  # cells along a side; 0 = the whole grid
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attn = SamAttention(config, window or config.image_size // config.patch_size)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = SamFeedForward(config)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (B, H, W, C)."""
        batch, height, width, _ = x.shape
        attention, window = self.attn, self.window
        qkv = attention.qkv(self.layer_norm1(x))
        if window == 0:
            attended = attention.attend(qkv)
        else:
            # Padding of the last windows is attended to by real cells. Its input is 0: its qkv is the bias.
            down, across = -(-height // window), -(-width // window)
            if (down * window, across * window) != (height, width):
                filled = qkv.new_zeros((batch, down * window, across * window, qkv.shape[-1]))
                if attention.qkv.bias is not None:
                    filled += attention.qkv.bias.to(qkv.dtype)
                filled[:, :height, :width] = qkv
                qkv = filled
            cells = qkv.unflatten(2, (across, window)).unflatten(1, (down, window)).transpose(2, 3)
            attended = attention.attend(cells.flatten(0, 2))
            attended = attended.unflatten(0, (batch, down, across)).transpose(2, 3)
            attended = attended.flatten(3, 4).flatten(1, 2)[:, :height, :width]
        x = x + attention.proj(attended)
        return x + self.mlp(self.layer_norm2(x))


class SamNeck(nn.Module):
    """Two convolutions. A part of the published checkpoint that X-SAM never runs."""

    def __init__(self, config: SamVisionConfig) -> None:
        super().__init__()
        channels = config.output_channels
        self.conv1 = nn.Conv2d(config.hidden_size, channels, 1, bias=False)
        self.layer_norm1 = ChannelLayerNorm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.layer_norm2 = ChannelLayerNorm(channels)


class SamEncoder(LayerStack):
    """All parameters of the published encoder."""

    def __init__(self, config: SamVisionConfig) -> None:
        super().__init__()
        grid = config.image_size // config.patch_size
        self.patch_embed = PatchGrid(config)
        self.pos_embed = None
        if config.use_abs_pos:
            self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, config.hidden_size))
        self.layers = nn.ModuleList(
            SamLayer(config, 0 if index in config.global_attn_indexes else config.window_size)
            for index in range(config.num_hidden_layers)
        )
        self.neck = SamNeck(config)


class PromptPositions(nn.Module):
    """Frequencies of SAM's code of positions. A part of the published checkpoint that X-SAM never uses."""

    def __init__(self, config: SamVisionConfig) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.zeros(2, config.num_pos_feats))


def _relative(table: Tensor, size: int) -> Tensor:
    """Expand a table by distance (2 · size − 1, C) to one by query and key (size, size, C)."""
    index = torch.arange(size, device=table.device)
    return table[index[:, None] - index + size - 1]


def _attend_in_chunks(query: Tensor, key: Tensor, value: Tensor, by_row: Tensor, by_column: Tensor) -> Tensor:
    """Attend with the bias of a few heads, or of a few rows of queries of one head, at a time.

    Args:
        query, key, value: (N, heads, H · W, C).
        by_row: (N, heads, H, W, H) bias of each query for each row of keys.
        by_column: (N, heads, H, W, W), likewise for columns.
    """
    count, heads, height, width, _ = by_row.shape
    line = count * width * height * width * query.element_size()  # of one head
    max_bytes = BIAS_BYTES.get(query.device.type, BIAS_BYTES["cuda"])
    rows = max(1, min(height, max_bytes // line))
    step = max(1, min(heads, max_bytes // (line * rows))) if rows == height else 1
    out = torch.empty_like(query)
    buffer = query.new_empty(count * step * rows * width * height * width)
    for first in range(0, heads, step):
        group = slice(first, min(first + step, heads))
        for top in range(0, height, rows):
            lines = slice(top, min(top + rows, height))
            part = slice(top * width, lines.stop * width)
            shape = (count, group.stop - first, lines.stop - top, width, height, width)
            terms = by_row[:, group, lines, :, :, None], by_column[:, group, lines, :, None]
            if torch.compiler.is_compiling():  # it does not know strides of `out`
                bias = terms[0] + terms[1]
            else:
                bias = torch.add(*terms, out=buffer[: math.prod(shape)].view(shape))
            out[:, group, part] = F.scaled_dot_product_attention(
                query[:, group, part],
                key[:, group],
                value[:, group],
                attn_mask=bias.flatten(4).flatten(2, 3),
            )
    return out
