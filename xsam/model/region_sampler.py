"""Region sampler: a region mask → a few tokens read off the projected SAM feature map."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from xsam.config import RegionSamplerConfig


def region_points(mask: Tensor, count: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Choose `count` pixels of a region.

    The reference draws them at random. Here they are evenly spaced, so that results are repeatable; with a
    `generator` (training) they are random as in the reference.

    Args:
        mask: (H, W), nonzero inside the region; at least one pixel.

    Returns:
        (count, 2) float32, (row, column) divided by (H, W).
    """
    pixels = mask.nonzero()
    size = torch.tensor(mask.shape, device=mask.device)
    if generator is not None:
        if len(pixels) >= count:
            chosen = torch.randperm(len(pixels), generator=generator)[:count]
        else:
            extra = torch.randint(len(pixels), (count - len(pixels),), generator=generator)
            chosen = torch.cat([torch.arange(len(pixels)), extra])
        chosen = chosen.to(mask.device)
    else:
        chosen = torch.arange(count, device=mask.device) * len(pixels) // count
    return (pixels[chosen] / size).float()


def sample_regions(features: Tensor, points: Tensor, config: RegionSamplerConfig) -> Tensor:
    """Read region tokens off a feature map.

    Args:
        features: (R, D, H, W), the `seg_projector` map of each region's image.
        points: (R, N, 2), (row, column) in [0, 1].

    Returns:
        (R, tokens per region, D).

    Source: bilinear with `align_corners=True`; 64 averages of 4 points (current layout) or one
    maximum of all (released layout).
    """
    grid = points.flip(-1).float() * 2 - 1  # half precision is too coarse for places
    sampled = F.grid_sample(features.float(), grid[:, :, None], mode="bilinear", align_corners=True)
    sampled = sampled.squeeze(-1).to(features.dtype)  # (R, D, N)
    if config.pooling_mode == "max":
        return F.adaptive_max_pool1d(sampled, config.pooling_output_size or 1).transpose(1, 2)
    return F.avg_pool1d(sampled, config.pooling_kernel_size or 1).transpose(1, 2)
