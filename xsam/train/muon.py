"""Muon in float32: momentum whose matrix is orthogonalized before it is applied.

Source: K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024), and
arXiv 2502.16982 for the weight decay and the scale of the update. `torch.optim.Muon` iterates in bfloat16,
which CPUs without bfloat16 instructions emulate: there, a step took longer than the whole backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """The Muon optimizer, for parameters with two dimensions.

    Args:
        params: parameters or parameter groups.
        lr: learning rate as for AdamW: the update is scaled to the typical RMS of AdamW's updates.
        momentum: Nesterov momentum of the gradient.
        weight_decay: decoupled weight decay.
    """

    def __init__(
        self, params: Iterable[Any], *, lr: float = 1e-3, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        if any(p.ndim != 2 for group in self.param_groups for p in group["params"]):
            raise ValueError("Muon only supports parameters with two dimensions")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Apply one update."""
        if closure is not None:
            raise ValueError("Muon does not support closures")
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                updates = []
                for parameter in parameters:
                    buffer = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                    buffer.lerp_(parameter.grad, 1 - group["momentum"])
                    updates.append(parameter.grad.lerp(buffer, group["momentum"]))
                scale = group["lr"] * 0.2 * max(shape) ** 0.5
                for parameter, update in zip(parameters, orthogonalize(torch.stack(updates)), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update, alpha=-scale)


def orthogonalize(matrices: Tensor) -> Tensor:
    """Bring all singular values of (N, R, C) matrices close to 1 by a quintic Newton–Schulz iteration."""
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.float().mT if tall else matrices.float()
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return (x.mT if tall else x).to(matrices.dtype)
