"""Connector: SAM hidden states at three depths → a feature pyramid for the pixel decoder."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from xsam.model.projectors import ChannelLayerNorm, shuffle_grid


class ConnectorLevel(nn.Module):
    """conv1×1 · norm · conv3×3 · norm · conv1×1 · norm, then a pixel shuffle by `scale`."""

    def __init__(self, in_channels: int, hidden: int, scale: float) -> None:
        super().__init__()
        out_channels = int(in_channels * scale)
        self.scale = scale
        self.model = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 1, bias=False),
            ChannelLayerNorm(hidden),
            nn.Conv2d(hidden, hidden, 3, padding=1, bias=False),
            ChannelLayerNorm(hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            ChannelLayerNorm(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Transform (B, C, H, W) to (B, C / scale, H·scale, W·scale)."""
        x = self.model(x).permute(0, 2, 3, 1)
        return shuffle_grid(x, self.scale).permute(0, 3, 1, 2)


class SegConnector(nn.Module):
    """One `ConnectorLevel` per selected SAM layer."""

    def __init__(self, in_channels: int, hidden: int, scales: Sequence[float]) -> None:
        super().__init__()
        self.model = nn.ModuleList(ConnectorLevel(in_channels, hidden, scale) for scale in scales)

    def forward(self, hidden_states: Sequence[Tensor]) -> list[Tensor]:
        """Turn channels-last SAM states (B, H, W, C), one per level, into a channels-first pyramid."""
        return [
            level(state.permute(0, 3, 1, 2)) for level, state in zip(self.model, hidden_states, strict=True)
        ]

    @staticmethod
    def out_channels(in_channels: int, scales: Sequence[float]) -> list[int]:
        """Return the channels of each pyramid level, in the order of `scales`."""
        return [int(in_channels / scale) for scale in scales]
