"""Half-precision weights on CPUs without half-precision arithmetic.

A CPU without bfloat16 instructions multiplies bfloat16 matrices about seven times slower than float32
ones. There, matrices stay in memory in half precision and are widened chunk by chunk when they are used;
everything else is float32. A short step (generation) is bound by reading the weights, so it uses them
without widening.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHUNK_BYTES = 16 << 20  # of a widened matrix; fits into the last-level cache
_FEW_ROWS = 4  # up to this many rows, reading the narrow weights is faster than widening them


def computes_natively(device: torch.device, dtype: torch.dtype) -> bool:
    """Return True if the device multiplies matrices of this type at full speed."""
    if dtype == torch.float32 or device.type != "cpu":
        return True
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    names = (
        ("amx_fp16", "avx512_fp16")
        if dtype == torch.float16
        else ("amx_bf16", "amx_tile", "avx512_bf16", "bf16")
    )
    return any(bool(known.get(name)) for name in names)


class NarrowLinear(nn.Linear):
    """A linear layer whose weight is stored in a narrower type than it computes with."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight
        if input.dtype == weight.dtype:
            return F.linear(input, weight, self.bias)
        flat = input.flatten(0, -2)
        if len(flat) <= _FEW_ROWS:
            out = F.linear(flat.to(weight.dtype), weight).to(input.dtype)
        else:
            out = flat.new_empty((len(flat), len(weight)))
            step = max(1, CHUNK_BYTES // (weight.shape[1] * input.element_size()))
            for start in range(0, len(weight), step):
                chunk = weight[start : start + step].to(input.dtype)
                torch.mm(flat, chunk.T, out=out[:, start : start + step])
        if self.bias is not None:
            out += self.bias
        return out.unflatten(0, input.shape[:-1])


class HalfLinear(nn.Linear):
    """A linear layer that multiplies in the type of its weight and gives the type of its input."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input.to(self.weight.dtype), self.weight, self.bias).to(input.dtype)


class NarrowEmbedding(nn.Embedding):
    """An embedding whose table is stored in a narrower type than its output."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).float()


def store_weights_as(model: nn.Module, vocabulary: nn.Embedding, dtype: torch.dtype) -> None:
    """Store linear and vocabulary matrices in `dtype` and everything else in float32, in place."""
    vocabulary.__class__ = NarrowEmbedding
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = NarrowLinear
        for name, parameter in module.named_parameters(recurse=False):
            narrow = name == "weight" and isinstance(module, (NarrowLinear, NarrowEmbedding))
            parameter.data = parameter.data.to(dtype if narrow else torch.float32)
