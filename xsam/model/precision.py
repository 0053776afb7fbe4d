"""Half-precision weights on processors that cannot compute with them.

A CPU without bfloat16 instructions multiplies bfloat16 matrices about seven times slower than float32
ones. There, matrices stay in memory as they are in the file, and each is widened piece by piece when it
is used; everything else is float32. A short step (generation) is limited by reading the weights, so it
uses them as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_PIECE_BYTES = 16 << 20  # of a widened matrix; fits into the last cache
_FEW_ROWS = 4  # up to so many rows the weights are read faster than they are widened


def computes_natively(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether matrices of this type are multiplied at full speed there."""
    if dtype == torch.float32 or device.type != "cpu":
        return True
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    names = (
        ("amx_fp16", "avx512_fp16")
        if dtype == torch.float16
        else ("amx_bf16", "amx_tile", "avx512_bf16", "bf16")
    )
    return any(bool(known.get(name)) for name in names)


class StoredLinear(nn.Linear):
    """A linear layer whose weight is narrower than what it computes with."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight
        if input.dtype == weight.dtype:
            return F.linear(input, weight, self.bias)
        flat = input.flatten(0, -2)
        if len(flat) <= _FEW_ROWS:
            out = F.linear(flat.to(weight.dtype), weight).to(input.dtype)
        else:
            out = flat.new_empty((len(flat), len(weight)))
            step = max(1, _PIECE_BYTES // (weight.shape[1] * input.element_size()))
            for start in range(0, len(weight), step):
                piece = weight[start : start + step].to(input.dtype)
                torch.mm(flat, piece.T, out=out[:, start : start + step])
        if self.bias is not None:
            out += self.bias
        return out.unflatten(0, input.shape[:-1])


class StoredEmbedding(nn.Embedding):
    """An embedding whose table is narrower than what it is used with."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).float()


def store_narrow(model: nn.Module, vocabulary: nn.Embedding, dtype: torch.dtype) -> None:
    """Keep the matrices of linear layers and of the vocabulary in `dtype`, all else in float32, in place."""
    vocabulary.__class__ = StoredEmbedding
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = StoredLinear
        for name, parameter in module.named_parameters(recurse=False):
            narrow = name == "weight" and isinstance(module, (StoredLinear, StoredEmbedding))
            parameter.data = parameter.data.to(dtype if narrow else torch.float32)
