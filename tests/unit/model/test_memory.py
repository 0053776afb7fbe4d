"""The video memory: codes of grids are computed once, and the cache of them is bounded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import xsam.model.memory
from xsam.config.x2sam import MemoryConfig
from xsam.model.memory import (
    GridCodeCache,
    MemoryAttention,
    MemoryBank,
    axial_rotation,
    sine_position,
)

CONFIG = MemoryConfig(
    capacity=2, channels=16, attention_layers=2, attention_heads=1, feed_forward_size=24, fuser_size=8
)
SIZES = ((3, 5), (6, 10), (12, 20))


@pytest.fixture
def attention() -> MemoryAttention:
    torch.manual_seed(3)
    return MemoryAttention(CONFIG).eval()


def _scales(noise: Callable[..., Tensor]) -> list[Tensor]:
    return [noise(1, CONFIG.channels, *size) for size in SIZES]


def _bank(attention: MemoryAttention, noise: Callable[..., Tensor]) -> MemoryBank:
    bank = MemoryBank(CONFIG.capacity)
    for frame in range(2):
        bank.push(attention.entry(frame, [noise(1, CONFIG.channels, *SIZES[0]) for _ in SIZES]))
    return bank


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(4, 4), (1, 7), (9, 2)])
def test_kept_codes_are_those_of_the_formulas(size: tuple[int, int], dtype: torch.dtype) -> None:
    cache, like = GridCodeCache(), torch.zeros(2, 16, *size, dtype=dtype)
    for _ in range(2):
        codes = cache.of(like)
        assert torch.equal(codes.position, sine_position(like))
        for kept, computed in zip(codes.rotation, axial_rotation(*size, 16, like=like), strict=True):
            assert torch.equal(kept, computed)
            assert kept.dtype == dtype


@torch.no_grad()
def test_each_size_is_computed_once(
    attention: MemoryAttention, noise: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[tuple[int, ...]] = []

    def counted(height: int, width: int, channels: int, *, like: Tensor) -> tuple[Tensor, Tensor]:
        computed.append((height, width))
        return axial_rotation(height, width, channels, like=like)

    monkeypatch.setattr(xsam.model.memory, "axial_rotation", counted)
    bank = _bank(attention, noise)
    results = [attention(scales, bank, 2) for scales in [_scales(noise)] * 3]
    assert sorted(computed) == sorted(SIZES)
    for again in results[1:]:
        for one, other in zip(results[0], again, strict=True):
            assert torch.equal(one, other)


def test_the_cache_is_bounded_and_keeps_the_newest() -> None:
    cache = GridCodeCache(most=2)
    first = torch.zeros(1, 8, 2, 2)
    kept = cache.of(first)
    for side in (3, 4, 5):
        cache.of(torch.zeros(1, 8, side, side))
        assert cache.of(first) is kept  # used in between, so it is not the oldest
        assert len(cache) == 2
    cache.of(torch.zeros(1, 8, 6, 6))
    cache.of(torch.zeros(1, 8, 7, 7))
    assert cache.of(first) is not kept


def test_a_network_can_be_trained_after_it_was_used(
    attention: MemoryAttention, noise: Callable[..., Tensor]
) -> None:
    """What is made in inference mode cannot be kept for gradients, and codes outlive the mode."""
    scales = _scales(noise)
    with torch.inference_mode():
        attention([scale.clone() for scale in scales], _bank(attention, noise), 2)
    with torch.no_grad():
        bank = _bank(attention, noise)
    sum(output.square().mean() for output in attention(scales, bank, 2)).backward()
    gradient = attention.layers[0].self_attn.q_proj.weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


@torch.no_grad()
def test_the_check_of_a_deadline_acts_inside_the_memory_attention(
    attention: MemoryAttention, noise: Callable[..., Tensor]
) -> None:
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 4:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        attention(_scales(noise), _bank(attention, noise), 2, check=check)
    assert len(calls) == 4 < len(SIZES) * CONFIG.attention_layers
