"""Two-layer projectors and the pixel shuffle that shortens the SAM token grid."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MlpProjector(nn.Module):
    """Linear → GELU (exact) → Linear; used for both visual branches and for the LLM's output."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(in_dim, out_dim), nn.GELU(), nn.Linear(out_dim, out_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Project (..., in_dim) to (..., out_dim)."""
        return self.model(x)


def shuffle_grid(grid: Tensor, scale: float) -> Tensor:
    """Trade resolution for channels on a channels-last grid, or vice versa.

    Not `torch.pixel_shuffle`: the channels of a cell are ordered differently, so that ½ puts the
    four states of a cell one after the other, row offset slower.

    Args:
        grid: (B, H, W, C).
        scale: ½ halves both sides, 2 doubles them, 1 does nothing.

    Returns:
        (B, H·scale, W·scale, C / scale²).
    """
    batch, height, width, channels = grid.shape
    if scale < 1:
        step = round(1 / scale)
        cells = grid.reshape(batch, height // step, step, width // step, step, channels)
        cells = cells.permute(0, 1, 3, 2, 4, 5)
        return cells.reshape(batch, height // step, width // step, step * step * channels)
    step = round(scale)
    cells = grid.reshape(batch, height, width, step, step, channels // step**2)  # column offset slower
    return cells.permute(0, 1, 4, 2, 3, 5).reshape(batch, height * step, width * step, channels // step**2)


class ChannelLayerNorm(nn.Module):
    """LayerNorm over the channels of (B, C, H, W)."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        normed = nn.functional.layer_norm(
            x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps
        )
        return normed.permute(0, 3, 1, 2)
