"""Mask2Former's pixel decoder: deformable attention over the pyramid, then the finest level on top.

Sampling every channel of every head point by point takes most of the block's time on a CPU; there, a sampled
point is four rows of a table, and a query's 48 points are one weighted sum of rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from xsam.model.blocks.mask2former import (
    LEVELS,
    POINTS,
    DeformableAttention,
    PixelDecoder,
    PixelDecoderLayer,
    sine_code,
)
from xsam.model.blocks.parts import activate


def decode_pixels(module: PixelDecoder, pyramid: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
    """Run the pixel decoder.

    Args:
        pyramid: (B, C, H, W), fine to coarse.

    Returns:
        Three scales (B, C, H, W), coarse to fine, and the mask features (B, C, H, W).
    """
    levels = list(pyramid[::-1][:LEVELS])
    sizes = [(x.shape[2], x.shape[3]) for x in levels]
    tokens, level_positions = [], []
    for index, x in enumerate(levels):
        tokens.append(module.input_projections[index](x).flatten(2).transpose(1, 2))
        code = sine_code(sizes[index], tokens[-1].shape[-1], like=x)
        level_positions.append(code + module.level_embed[index])
    x, positions = torch.cat(tokens, dim=1), torch.cat(level_positions)
    centers = _cell_centers(sizes, x.device)
    for layer in module.encoder.layers:
        x = _layer(layer, x, positions, centers, sizes)
    outputs = [
        part.transpose(1, 2).unflatten(2, size)
        for part, size in zip(x.split([h * w for h, w in sizes], dim=1), sizes, strict=True)
    ]
    for (project, smooth), features in zip(module.finer_levels(), pyramid[: module.finer][::-1], strict=True):
        lateral = project(features)
        # In channels-last strides, which those of a transposed view are not: 15 times as fast, on a CPU.
        coarse = outputs[-1].clone(memory_format=torch.channels_last)
        up = F.interpolate(coarse, size=lateral.shape[-2:], mode="bilinear", align_corners=False)
        outputs.append(smooth(lateral + up))
    return tuple(outputs[:LEVELS]), module.mask_projection(outputs[-1])


def _cell_centers(sizes: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """Return the (S, 2) centers (x, y) of all cells of all levels, in [0, 1], float32."""
    grids = []
    for height, width in sizes:
        rows = torch.arange(0.5, height, dtype=torch.float32, device=device) / height
        columns = torch.arange(0.5, width, dtype=torch.float32, device=device) / width
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        grids.append(torch.stack([x, y], dim=-1).flatten(0, 1))
    return torch.cat(grids)


def _layer(
    layer: PixelDecoderLayer,
    x: Tensor,
    positions: Tensor,
    centers: Tensor,
    sizes: Sequence[tuple[int, int]],
) -> Tensor:
    """Run one post-norm layer: deformable attention of every cell to all levels, feed-forward."""
    attended = layer.dropout(_attention(layer.self_attn, x, positions, centers, sizes))
    x = layer.self_attn_layer_norm(x + attended)
    return layer.final_layer_norm(x + layer.dropout(layer.fc2(layer.dropout(activate(F.relu, layer.fc1(x))))))


def _attention(
    module: DeformableAttention,
    x: Tensor,
    positions: Tensor,
    centers: Tensor,
    sizes: Sequence[tuple[int, int]],
) -> Tensor:
    heads = module.heads
    value = module.value_proj(x).unflatten(-1, (heads, -1))
    queries = x + positions
    offsets = module.sampling_offsets(queries).unflatten(-1, (heads, LEVELS, POINTS, 2))
    weights = module.attention_weights(queries).unflatten(-1, (heads, LEVELS * POINTS)).softmax(dim=-1)
    by_rows = x.device.type == "cpu" and not torch.is_grad_enabled()
    attended = [
        (sample_weighted if by_rows else sample_grids)(v, sizes, centers, o, w)
        for v, o, w in zip(value, offsets, weights, strict=True)
    ]
    return module.output_proj(torch.stack(attended))


def sample_grids(
    value: Tensor, sizes: Sequence[tuple[int, int]], centers: Tensor, offsets: Tensor, weights: Tensor
) -> Tensor:
    """Sum weighted bilinear samples of one image's maps; the way for training and for a GPU.

    See `sample_weighted`, which it equals. Half precision is too coarse for places, and samples have the type
    of their places: both are float32.
    """
    count = len(offsets)
    sampled = []
    for level, (part, (height, width)) in enumerate(
        zip(value.split([h * w for h, w in sizes]), sizes, strict=True)
    ):
        x, y = offsets[:, :, level].float().unbind(-1)
        # (Q, heads, P, 2); no tensor of the size: copying it to a GPU would wait for the layers before
        places = centers[:, None, None] + torch.stack([x / width, y / height], dim=-1)
        maps = part.permute(1, 2, 0).unflatten(-1, (height, width)).float()
        sampled.append(
            F.grid_sample(
                maps,
                (2 * places - 1).transpose(0, 1),
                mode="bilinear",
                padding_mode="zeros",
                align_corners=False,
            )
        )
    # (heads, C, Q, L · P), weighted and summed over the samples
    summed = (torch.cat(sampled, dim=-1) * weights.transpose(0, 1)[:, None]).sum(dim=-1)
    return summed.permute(2, 0, 1).reshape(count, -1).to(value.dtype)


def sample_weighted(
    value: Tensor, sizes: Sequence[tuple[int, int]], centers: Tensor, offsets: Tensor, weights: Tensor
) -> Tensor:
    """Sum weighted bilinear samples of one image's maps, zero outside (`align_corners=False`).

    Every map gets a border of zeros and samples farther out are clamped to it, so that no corner of a sample
    needs a bounds check.

    Args:
        value: (S, heads, C), the cells of all L maps, one map after the other.
        sizes: (height, width) of each map.
        centers: (Q, 2) position of each query, (x, y) in [0, 1], float32.
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
    centers = centers[:, None, None]
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
