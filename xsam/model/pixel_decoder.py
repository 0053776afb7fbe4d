"""Mask2Former's pixel decoder: deformable attention over the pyramid, then the finest level on top.

The parameters are those of `transformers`' `Mask2FormerPixelDecoder`. Its stock forward pass samples every
channel of every head point by point, which takes most of the block's time on a CPU; here a sampled point is
four rows of a table, and a query's 48 points are one weighted sum of rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoder,
    Mask2FormerPixelDecoderEncoderLayer,
    Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention,
)


def decode_pixels(
    module: Mask2FormerPixelDecoder, pyramid: Sequence[Tensor]
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Run the pixel decoder.

    Args:
        pyramid: (B, C, H, W), fine to coarse.

    Returns:
        Three scales (B, C, H, W), coarse to fine, and the mask features (B, C, H, W).
    """
    if torch.is_grad_enabled() or pyramid[0].device.type != "cpu":
        stock = module(pyramid)
        return tuple(stock.multi_scale_features), stock.mask_features
    levels = list(pyramid[::-1][: module.num_feature_levels])
    sizes = [(x.shape[2], x.shape[3]) for x in levels]
    tokens, level_positions = [], []
    for index, x in enumerate(levels):
        tokens.append(module.input_projections[index](x).flatten(2).transpose(1, 2))
        position = module.position_embedding(x.shape, x.device, x.dtype).flatten(2).transpose(1, 2)
        level_positions.append(position + module.level_embed[index])
    x, positions = torch.cat(tokens, dim=1), torch.cat(level_positions, dim=1)
    centers = _cell_centers(sizes, x)
    for layer in module.encoder.layers:
        x = _layer(layer, x, positions, centers, sizes)
    outputs = [
        part.transpose(1, 2).unflatten(2, size)
        for part, size in zip(x.split([h * w for h, w in sizes], dim=1), sizes, strict=True)
    ]
    finer = pyramid[: module.num_fpn_levels][::-1]
    for index, feature in enumerate(finer):
        lateral = module.lateral_convolutions[index](feature)
        up = F.interpolate(outputs[-1], size=lateral.shape[-2:], mode="bilinear", align_corners=False)
        outputs.append(module.output_convolutions[index](lateral + up))
    return tuple(outputs[: module.num_feature_levels]), module.mask_projection(outputs[-1])


def _cell_centers(sizes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """Return the (S, 2) centers (x, y) of all cells of all levels, in [0, 1]."""
    grids = []
    for height, width in sizes:
        rows = torch.arange(0.5, height, dtype=like.dtype, device=like.device) / height
        columns = torch.arange(0.5, width, dtype=like.dtype, device=like.device) / width
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        grids.append(torch.stack([x, y], dim=-1).flatten(0, 1))
    return torch.cat(grids)


def _layer(
    layer: Mask2FormerPixelDecoderEncoderLayer,
    x: Tensor,
    positions: Tensor,
    centers: Tensor,
    sizes: Sequence[tuple[int, int]],
) -> Tensor:
    """Run one post-norm layer: deformable attention of every cell to all levels, feed-forward."""
    x = layer.self_attn_layer_norm(x + _attention(layer.self_attn, x, positions, centers, sizes))
    return layer.final_layer_norm(x + layer.fc2(layer.activation_fn(layer.fc1(x))))


def _attention(
    module: Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention,
    x: Tensor,
    positions: Tensor,
    centers: Tensor,
    sizes: Sequence[tuple[int, int]],
) -> Tensor:
    heads, levels, points = module.n_heads, module.n_levels, module.n_points
    value = module.value_proj(x).unflatten(-1, (heads, -1))
    queries = x + positions
    offsets = module.sampling_offsets(queries).unflatten(-1, (heads, levels, points, 2))
    weights = module.attention_weights(queries).unflatten(-1, (heads, levels * points)).softmax(dim=-1)
    attended = [
        sample_weighted(v, sizes, centers, o, w) for v, o, w in zip(value, offsets, weights, strict=True)
    ]
    return module.output_proj(torch.stack(attended))


def sample_weighted(
    value: Tensor, sizes: Sequence[tuple[int, int]], centers: Tensor, offsets: Tensor, weights: Tensor
) -> Tensor:
    """Sum weighted bilinear samples of one image's maps, zero outside (`align_corners=False`).

    Every map gets a border of zeros and samples farther out are clamped to it, so that no corner of a sample
    needs a bounds check.

    Args:
        value: (S, heads, C), the cells of all L maps, one map after the other.
        sizes: (height, width) of each map.
        centers: (Q, 2) position of each query, (x, y) in [0, 1].
        offsets: (Q, heads, L, P, 2) of the samples from the query, in cells of the map.
        weights: (Q, heads, L · P).

    Returns:
        (Q, heads · C).
    """
    count, heads, levels, points, _ = offsets.shape
    width = value.shape[-1]
    parts = value.split([h * w for h, w in sizes])
    bordered = [
        F.pad(part.unflatten(0, size), (0, 0, 0, 0, 1, 1, 1, 1)).flatten(0, 1)
        for part, size in zip(parts, sizes, strict=True)
    ]
    pitches = [w + 2 for _, w in sizes]
    table = torch.cat([*bordered, value.new_zeros(max(pitches) + 2, heads, width)])
    starts = [0]
    for part in bordered[:-1]:
        starts.append(starts[-1] + len(part))

    def per_sample(numbers: Sequence[int]) -> Tensor:  # (L · P,)
        tensor = torch.tensor(numbers, dtype=torch.float32, device=value.device)
        return tensor.repeat_interleave(points)

    across, down, pitch = (per_sample(n) for n in ([w for _, w in sizes], [h for h, _ in sizes], pitches))
    offsets = offsets.flatten(2, 3).float()
    centers = centers.float()[:, None, None]
    # In cells of the map with its border: its first cell is at 1.
    x = torch.minimum((centers[..., 0] * across + offsets[..., 0]).add_(0.5).clamp_min_(0.0), across + 1)
    y = torch.minimum((centers[..., 1] * down + offsets[..., 1]).add_(0.5).clamp_min_(0.0), down + 1)
    left, top = x.floor(), y.floor()
    right_share, bottom_share = x.sub_(left), y.sub_(top)
    cell = top.mul_(pitch).add_(left).add_(per_sample(starts)).mul_(heads).int()
    cell += torch.arange(heads, dtype=torch.int32, device=value.device)[:, None]

    rows = torch.empty((count, heads, 4, levels * points), dtype=torch.int32, device=value.device)
    shares = torch.empty((count, heads, 4, levels * points), dtype=value.dtype, device=value.device)
    below = (pitch * heads).int()
    rows[:, :, 0] = cell
    rows[:, :, 1] = cell + heads
    rows[:, :, 2] = cell + below
    rows[:, :, 3] = cell + (below + heads)
    lower = weights * bottom_share
    upper = weights - lower
    shares[:, :, 1] = upper * right_share
    shares[:, :, 3] = lower * right_share
    shares[:, :, 0] = upper - shares[:, :, 1]
    shares[:, :, 2] = lower - shares[:, :, 3]
    summed = F.embedding_bag(
        rows.view(count * heads, -1),
        table.view(-1, width),
        per_sample_weights=shares.view(count * heads, -1),
        mode="sum",
    )
    return summed.view(count, heads * width)
