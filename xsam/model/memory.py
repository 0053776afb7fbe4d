"""Memory of a video: what was seen and segmented in the last frames conditions the features of the next.

After a frame is decoded, its features and masks are encoded to three small maps, one for each scale of the
pixel decoder. Before the next frame is decoded, each of its scales attends to the maps in the bank. Only the
gap in frames enters, so a video may be of any length; a bank never grows beyond its capacity.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xsam.config.x2sam import MemoryConfig
from xsam.model.blocks.mask2former import sine_code
from xsam.model.projectors import ChannelLayerNorm

_MIN_PROBABILITY = 1e-6
_FEATURE_POSITION_SHARE = 0.1
_PERIOD = 10_000.0


def sine_position(like: Tensor) -> Tensor:
    """Return the (1, C, H, W) sine code of the cells of a map (B, C, H, W)."""
    channels, height, width = like.shape[1:]
    return sine_code((height, width), channels, like=like).T.unflatten(-1, (height, width))[None]


def gap_code(gap: int, channels: int, *, like: Tensor) -> Tensor:
    """Return the (C,) code of a distance of `gap` frames."""
    half = channels // 2
    frequencies = _PERIOD ** (-torch.arange(half, device=like.device, dtype=torch.float32) / half)
    angles = gap * frequencies
    return torch.cat([angles.sin(), angles.cos()]).to(like.dtype)


def axial_rotation(height: int, width: int, channels: int, *, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines and sines (H · W, C) of the axial rotary code of a grid: first half x, second half y."""
    quarter = channels // 4
    exponent = torch.arange(quarter, device=like.device, dtype=torch.float32) * 4 / channels
    frequencies = _PERIOD**-exponent
    rows, columns = torch.meshgrid(
        torch.arange(height, device=like.device, dtype=torch.float32),
        torch.arange(width, device=like.device, dtype=torch.float32),
        indexing="ij",
    )
    angles = torch.cat([grid.reshape(-1, 1) * frequencies for grid in (columns, rows)], dim=1)
    angles = angles.repeat_interleave(2, dim=1)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class GridCodes:
    """Codes of the cells of a grid, which are the same for every frame."""

    position: Tensor  # (1, C, H, W), see `sine_position`
    rotation: tuple[Tensor, Tensor]  # (H · W, C) each, see `axial_rotation`


class GridCodeCache:
    """Codes of the grids that were seen last, by size, device and data type.

    It belongs to a network, so that its memory is released together with the weights.
    """

    def __init__(self, most: int = 4) -> None:
        """Keep the codes of at most so many grids; a network has three."""
        self._most = most
        self._codes: dict[tuple[Any, ...], GridCodes] = {}

    def __len__(self) -> int:
        return len(self._codes)

    def of(self, like: Tensor) -> GridCodes:
        """Return the codes of the grid of a map (B, C, H, W)."""
        key = (like.shape[1:], like.device, like.dtype)
        codes = self._codes.pop(key, None)
        if codes is None:
            # Those made for inference could not be used in training later.
            with torch.inference_mode(False), torch.no_grad():
                codes = _grid_codes(like)
            while len(self._codes) >= self._most:
                del self._codes[next(iter(self._codes))]
        self._codes[key] = codes  # the newest last
        return codes


def _grid_codes(like: Tensor) -> GridCodes:
    _, channels, height, width = like.shape
    rotation = axial_rotation(height, width, channels, like=like)
    return GridCodes(position=sine_position(like), rotation=rotation)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate neighboring pairs of channels of (B, N, C)."""
    cos, sin = rotation
    even, odd = x[..., 0::2], x[..., 1::2]
    return x * cos + torch.stack([-odd, even], dim=-1).flatten(-2) * sin


class _Attention(nn.Module):
    """Projections of one attention; the attention itself is in `MemoryAttentionLayer`."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(channels, channels)
        self.k_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.o_proj = nn.Linear(channels, channels)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend with projected (B, N, C) queries, (B, M, C) keys and values; return (B, N, C)."""
        query, key, value = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2).contiguous() for t in (query, key, value)
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.o_proj(attended.transpose(1, 2).flatten(2))


class MemoryAttentionLayer(nn.Module):
    """Self-attention, cross-attention to the memory and feed-forward, all pre-norm."""

    def __init__(self, config: MemoryConfig) -> None:
        super().__init__()
        width = config.channels
        self.self_attn = _Attention(width, config.attention_heads)
        self.cross_attn = _Attention(width, config.attention_heads)
        self.linear1 = nn.Linear(width, config.feed_forward_size)
        self.linear2 = nn.Linear(config.feed_forward_size, width)
        self.layer_norm1 = nn.LayerNorm(width)
        self.layer_norm2 = nn.LayerNorm(width)
        self.layer_norm3 = nn.LayerNorm(width)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], keys: Tensor, values: Tensor) -> Tensor:
        """Condition (B, N, C) on a memory.

        Args:
            x: cells of one scale.
            rotation: rotary code of the scale's grid.
            keys: (B, M, C) projected memory with its position, not rotated.
            values: (B, M, C) projected memory.
        """
        own, cross = self.self_attn, self.cross_attn
        normed = self.layer_norm1(x)
        x = x + own.attend(
            rotate(own.q_proj(normed), rotation), rotate(own.k_proj(normed), rotation), own.v_proj(normed)
        )
        x = x + cross.attend(rotate(cross.q_proj(self.layer_norm2(x)), rotation), keys, values)
        return x + self.linear2(F.relu(self.linear1(self.layer_norm3(x))))


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEntry:
    """What the bank keeps of a frame, already projected for every layer of the memory attention."""

    frame: int
    keys: tuple[tuple[Tensor, ...], ...]  # by layer and scale, (B, H · W, C), without the code of the gap
    values: tuple[tuple[Tensor, ...], ...]

    @property
    def nbytes(self) -> int:
        """Memory of all tensors, bytes."""
        tensors = [tensor for group in (self.keys, self.values) for row in group for tensor in row]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class MemoryBank:
    """The newest entries of a video, oldest first."""

    def __init__(self, capacity: int, entries: Iterable[MemoryEntry] = ()) -> None:
        self._entries: deque[MemoryEntry] = deque(entries, maxlen=capacity)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def capacity(self) -> int:
        """Number of frames that it remembers."""
        return self._entries.maxlen or 0

    @property
    def entries(self) -> tuple[MemoryEntry, ...]:
        return tuple(self._entries)

    @property
    def frames(self) -> tuple[int, ...]:
        """Indices of the frames in the bank."""
        return tuple(entry.frame for entry in self._entries)

    @property
    def nbytes(self) -> int:
        """Memory of all entries, bytes."""
        return sum(entry.nbytes for entry in self._entries)

    def push(self, entry: MemoryEntry) -> None:
        """Add the newest frame; drop the oldest beyond the capacity."""
        self._entries.append(entry)

    def with_entry(self, entry: MemoryEntry) -> MemoryBank:
        """Return a bank with the newest frame too, and leave this one as it is."""
        return MemoryBank(self.capacity, (*self._entries, entry))


class MemoryAttention(nn.Module):
    """Layers shared by all scales."""

    def __init__(self, config: MemoryConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MemoryAttentionLayer(config) for _ in range(config.attention_layers))
        self.layer_norm = nn.LayerNorm(config.channels)
        self.grid_codes = GridCodeCache()

    def entry(self, frame: int, maps: Sequence[Tensor]) -> MemoryEntry:
        """Project the maps of a frame once, for all frames that will read them.

        Args:
            frame: index of the frame in the video.
            maps: (B, C, H, W), one for each scale, coarse to fine; see `MemoryEncoder`.
        """
        attentions: list[Any] = [layer.cross_attn for layer in self.layers]
        tokens = [m.flatten(2).transpose(1, 2) for m in maps]
        positioned = [
            t + self.grid_codes.of(m).position.flatten(2).transpose(1, 2)
            for t, m in zip(tokens, maps, strict=True)
        ]
        return MemoryEntry(
            frame=frame,
            keys=tuple(tuple(attention.k_proj(t) for t in positioned) for attention in attentions),
            values=tuple(tuple(attention.v_proj(t) for t in tokens) for attention in attentions),
        )

    def forward(
        self,
        multi_scale: Sequence[Tensor],
        bank: MemoryBank,
        frame: int,
        *,
        check: Callable[[], None] = lambda: None,
    ) -> tuple[Tensor, ...]:
        """Replace each scale by its version conditioned on a filled bank.

        Args:
            multi_scale: (B, C, H, W), coarse to fine.
            bank: not empty.
            frame: index of the frame in the video.
            check: called before each layer, which takes long at full size; may raise.
        """
        channels = multi_scale[0].shape[1]
        codes = [gap_code(frame - entry.frame, channels, like=multi_scale[0]) for entry in bank.entries]
        memory = []
        for index, layer in enumerate(self.layers):
            # The projection is linear, so the code of the gap is projected alone and added.
            weight = layer.cross_attn.k_proj.weight
            shifts = [F.linear(code, weight) for code in codes]
            memory.append(
                [
                    (
                        torch.cat(
                            [e.keys[index][s] + shift for e, shift in zip(bank.entries, shifts, strict=True)],
                            dim=1,
                        ),
                        torch.cat([e.values[index][s] for e in bank.entries], dim=1),
                    )
                    for s in range(len(multi_scale))
                ]
            )
        return tuple(
            self._condition(features, [layer[s] for layer in memory], check)
            for s, features in enumerate(multi_scale)
        )

    def _condition(
        self, features: Tensor, memory: Sequence[tuple[Tensor, Tensor]], check: Callable[[], None]
    ) -> Tensor:
        height, width = features.shape[-2:]
        codes = self.grid_codes.of(features)
        x = (features + _FEATURE_POSITION_SHARE * codes.position).flatten(2).transpose(1, 2)
        for layer, (keys, values) in zip(self.layers, memory, strict=True):
            check()
            x = layer(x, codes.rotation, keys, values)
        return self.layer_norm(x).transpose(1, 2).unflatten(2, (height, width))


class _DownSamplerLayer(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1)
        self.layer_norm = ChannelLayerNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.layer_norm(self.conv(x)))


class FeatureDownSampler(nn.Module):
    """Halve a map several times, with four times the channels each time, and project it back."""

    def __init__(self, channels: int, halvings: int) -> None:
        super().__init__()
        widths = [channels * 4**i for i in range(halvings + 1)]
        self.layers = nn.ModuleList(
            _DownSamplerLayer(narrow, wide) for narrow, wide in itertools.pairwise(widths)
        )
        self.final_conv = nn.Conv2d(widths[-1], channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.final_conv(x)


class MemoryEncoder(nn.Module):
    """Fuse the features of a frame with the masks found in it."""

    def __init__(self, config: MemoryConfig) -> None:
        # Here, because importing them takes longer than importing PyTorch, and X-SAM needs neither.
        from transformers import Sam2VideoConfig
        from transformers.models.sam2_video.modeling_sam2_video import (
            Sam2VideoMaskDownSampler,
            Sam2VideoMemoryFuser,
        )

        super().__init__()
        self.scale, self.bias = config.mask_scale, config.mask_bias
        stock = Sam2VideoConfig(
            mask_downsampler_embed_dim=config.channels,
            mask_downsampler_kernel_size=3,
            mask_downsampler_stride=2,
            mask_downsampler_padding=1,
            mask_downsampler_total_stride=config.mask_stride,
            mask_downsampler_hidden_act="gelu",
            memory_fuser_num_layers=config.fuser_layers,
            memory_fuser_embed_dim=config.channels,
            memory_fuser_intermediate_dim=config.fuser_size,
            memory_fuser_kernel_size=config.fuser_kernel_size,
            memory_fuser_padding=config.fuser_kernel_size // 2,
            memory_fuser_hidden_act="gelu",
        )
        self.mask_downsampler = Sam2VideoMaskDownSampler(stock)
        self.vision_downsampler = nn.ModuleList(
            FeatureDownSampler(config.channels, stride.bit_length() - 1) for stride in config.feature_strides
        )
        self.memory_fuser = Sam2VideoMemoryFuser(stock)
        self.projection = nn.Conv2d(config.channels, config.channels, kernel_size=1)

    def forward(
        self, multi_scale: Sequence[Tensor], class_logits: Tensor, mask_logits: Tensor
    ) -> tuple[Tensor, ...]:
        """Encode a decoded frame.

        Args:
            multi_scale: (B, C, H, W) of the pixel decoder, coarse to fine, not conditioned on the memory.
            class_logits: (B, Q, K + 1), background last.
            mask_logits: (B, Q, h, w) at the resolution of the mask features.

        Returns:
            One map (B, C, H₀, W₀) for each scale, all of the size of the coarsest.
        """
        foreground = class_logits.float().softmax(dim=-1)[..., :-1].amax(dim=-1)
        logits = mask_logits.float()
        weights = (logits + foreground.clamp_min(_MIN_PROBABILITY).log()[..., None, None]).softmax(dim=1)
        union = (weights * logits.sigmoid()).sum(dim=1, keepdim=True).to(mask_logits.dtype)
        mask = self.mask_downsampler(self.scale * union + self.bias)
        return tuple(
            self.projection(self.memory_fuser(downsample(features) + mask))
            for downsample, features in zip(self.vision_downsampler, multi_scale, strict=True)
        )
