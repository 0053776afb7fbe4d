"""Low-rank updates of linear layers (LoRA, arXiv 2106.09685): the matrices rest, two factors are trained.

X2SAM's text model was trained so. Checkpoints contain the sum, so that nothing else needs to know of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_BASE, _FIRST, _SECOND = ".base.weight", ".lora_A", ".lora_B"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """Settings of the updates; the defaults are X2SAM's."""

    rank: int = 128
    alpha: float = 256.0  # an update is alpha / rank · B · A
    dropout: float = 0.05  # of the inputs of the update


class LoraLinear(nn.Module):
    """A linear layer that rests, with a trained low-rank update."""

    def __init__(self, base: nn.Linear, config: LoraConfig) -> None:
        super().__init__()
        weight = base.weight
        self.base = base
        self.lora_A = nn.Parameter(weight.new_empty(config.rank, base.in_features))
        self.lora_B = nn.Parameter(weight.new_zeros(base.out_features, config.rank))
        nn.init.kaiming_uniform_(self.lora_A, a=5**0.5)
        self.scale = config.alpha / config.rank
        self.dropout = config.dropout

    def forward(self, x: Tensor) -> Tensor:
        update = F.linear(F.linear(F.dropout(x, self.dropout, self.training), self.lora_A), self.lora_B)
        result: Tensor = self.base(x) + self.scale * update
        return result


def add_lora(layers: nn.Module, config: LoraConfig) -> list[str]:
    """Give every linear layer inside a module an update that begins at zero, in place; return their names."""
    names = [name for name, module in layers.named_modules() if isinstance(module, nn.Linear)]
    for name in names:
        owner, _, attribute = name.rpartition(".")
        parent = layers.get_submodule(owner)
        setattr(parent, attribute, LoraLinear(getattr(parent, attribute), config))
    return names


def is_lora(name: str) -> bool:
    """Tell whether a parameter is a factor of an update."""
    return name.endswith((_FIRST, _SECOND))


def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """Return a network's tensors under its own names, with the updates added in float32."""
    state: Mapping[str, Tensor] = model.state_dict()
    scales = {name: module.scale for name, module in model.named_modules() if isinstance(module, LoraLinear)}
    merged: dict[str, Tensor] = {}
    for name, tensor in state.items():
        stem = name.removesuffix(_BASE)
        if stem in scales and name.endswith(_BASE):
            update = state[stem + _SECOND].float() @ state[stem + _FIRST].float()
            merged[f"{stem}.weight"] = torch.add(tensor.float(), update, alpha=scales[stem]).to(tensor.dtype)
        elif not is_lora(name):
            owner, _, bias = name.rpartition(".base.")
            merged[f"{owner}.{bias}" if owner in scales else name] = tensor
    return merged
