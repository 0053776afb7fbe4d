"""Parts that several blocks share: activations, and stacks of layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


def _tanh_gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


# By the names of `hidden_act` in `config.json`.
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "swish": F.silu,
    "gelu": F.gelu,
    "gelu_new": _tanh_gelu,
    "gelu_fast": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "quick_gelu": _quick_gelu,
    "relu": F.relu,
}

_IN_PLACE: Mapping[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] = {
    F.silu: partial(F.silu, inplace=True),
    F.gelu: torch.ops.aten.gelu_,
    _tanh_gelu: partial(torch.ops.aten.gelu_, approximate="tanh"),
    F.relu: torch.relu_,
}


def activate(activation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply an activation to a tensor that nobody else reads, in its own memory if there are no gradients.

    Fresh memory is cold, and the system has to find its pages: for a wide layer on a CPU, that takes longer
    than the activation.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return activation(x)
    return _IN_PLACE.get(activation, activation)(x)


class LayerStack(nn.Module):
    """A network of layers that training may run twice: once forward, once more for their gradients."""

    recompute = False  # the layers' inner states

    def gradient_checkpointing_enable(self) -> None:
        """Keep only what goes from layer to layer, and compute the rest again for the gradients."""
        self.recompute = True

    def run_layer(self, layer: nn.Module, *arguments: Any) -> Tensor:
        """Run one layer."""
        if self.recompute and self.training and torch.is_grad_enabled():
            states: Tensor = checkpoint(layer, *arguments, use_reentrant=False)
        else:
            states = layer(*arguments)
        return states
