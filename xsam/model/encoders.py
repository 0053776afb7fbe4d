"""The two image encoders, run only as deep as their outputs are used.

Both are stock `transformers` modules and hold all their published parameters; the last SigLIP layer,
its pooling head, and the SAM neck are loaded but never run, because nothing uses their output. SAM's layers
run in our own code: no work on the padding of the last windows, and attention biases in chunks that fit a
CPU's cache instead of one for all heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import SiglipVisionModel
from transformers.models.sam.modeling_sam import SamVisionAttention, SamVisionEncoder, SamVisionLayer

BIAS_BYTES = {"cpu": 16 << 20, "cuda": 256 << 20}


def siglip_hidden_state(model: SiglipVisionModel, pixels: Tensor, select_layer: int) -> Tensor:
    """Compute the hidden state `select_layer` of SigLIP, equal to `hidden_states[select_layer]`.

    Args:
        pixels: (B, 3, S, S), normalized with mean = std = 0.5.
        select_layer: negative, counted from the end; −2 skips the last layer.

    Returns:
        (B, positions, C).
    """
    layers = model.encoder.layers
    depth = len(layers) + 1 + select_layer
    x = model.embeddings(pixels)
    for layer in layers[:depth]:
        x = layer(x, None)
    return x


def sam_hidden_states(model: SamVisionEncoder, pixels: Tensor, wanted: Sequence[int]) -> dict[int, Tensor]:
    """Compute hidden states of the SAM encoder, channels-last.

    Args:
        pixels: (B, 3, S, S), ImageNet-normalized, zero-padded right and bottom.
        wanted: indices; 0 is the patch embedding + position, i the output of layer i.

    Returns:
        index → (B, H, W, C).
    """
    x = model.patch_embed(pixels)
    if model.pos_embed is not None:
        x = x + model.pos_embed
    states = {0: x}
    for index, layer in enumerate(model.layers[: max(wanted)], start=1):
        x = layer(x) if torch.is_grad_enabled() else _sam_layer(layer, x)
        if index in wanted:
            states[index] = x
    return {index: states[index] for index in wanted}


def _sam_layer(layer: SamVisionLayer, x: Tensor) -> Tensor:
    """Run one layer on (B, H, W, C); equal to the stock layer."""
    batch, height, width, _ = x.shape
    attention, window = layer.attn, layer.window_size
    qkv = attention.qkv(layer.layer_norm1(x))
    if window == 0:
        attended = _sam_attention(attention, qkv)
    else:
        # Padding of the last windows is attended to by real cells; its input is 0, so its qkv is the bias.
        down, across = -(-height // window), -(-width // window)
        if (down * window, across * window) != (height, width):
            filled = qkv.new_zeros((batch, down * window, across * window, qkv.shape[-1]))
            if attention.qkv.bias is not None:
                filled += attention.qkv.bias.to(qkv.dtype)
            filled[:, :height, :width] = qkv
            qkv = filled
        cells = qkv.unflatten(2, (across, window)).unflatten(1, (down, window)).transpose(2, 3)
        attended = _sam_attention(attention, cells.flatten(0, 2))
        attended = attended.unflatten(0, (batch, down, across)).transpose(2, 3)
        attended = attended.flatten(3, 4).flatten(1, 2)[:, :height, :width]
    x = x + attention.proj(attended)
    return x + layer.mlp(layer.layer_norm2(x))


def _sam_attention(attention: SamVisionAttention, qkv: Tensor) -> Tensor:
    """Attention within each of N grids, (N, H, W, 3 · C) → (N, H, W, C).

    With relative positions the bias of a query is the sum of one by row and one by column of the key.
    """
    _, height, width, _ = qkv.shape
    heads = attention.num_attention_heads
    query, key, value = qkv.flatten(1, 2).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    if not attention.use_rel_pos:
        out = F.scaled_dot_product_attention(query, key, value)
    else:
        grid = query.unflatten(2, (height, width))
        by_row = torch.einsum("nahwc,hkc->nahwk", grid, _relative(attention.rel_pos_h, height).to(qkv.dtype))
        by_column = torch.einsum(
            "nahwc,wkc->nahwk", grid, _relative(attention.rel_pos_w, width).to(qkv.dtype)
        )
        out = torch.empty_like(query)
        rows, step = _bias_chunks(qkv, heads, height, width)
        for first in range(0, heads, step):
            group = slice(first, first + step)
            for top in range(0, height, rows):
                part, lines = slice(top * width, (top + rows) * width), slice(top, top + rows)
                bias = by_row[:, group, lines, :, :, None] + by_column[:, group, lines, :, None]
                out[:, group, part] = F.scaled_dot_product_attention(
                    query[:, group, part],
                    key[:, group],
                    value[:, group],
                    attn_mask=bias.flatten(-2).flatten(2, 3),
                )
    return out.transpose(1, 2).flatten(2).unflatten(1, (height, width))


def _relative(table: Tensor, size: int) -> Tensor:
    """Expand a table by distance (2 · size − 1, C) to one by query and key (size, size, C)."""
    index = torch.arange(size, device=table.device)
    return table[index[:, None] - index + size - 1]


def _bias_chunks(qkv: Tensor, heads: int, height: int, width: int) -> tuple[int, int]:
    """Return how many rows of queries and how many heads get their attention bias at a time."""
    line = len(qkv) * width * height * width * qkv.element_size()  # of one head
    max_bytes = BIAS_BYTES.get(qkv.device.type, BIAS_BYTES["cuda"])
    rows = max(1, min(height, max_bytes // line))
    return rows, max(1, min(heads, max_bytes // (line * rows))) if rows == height else 1
