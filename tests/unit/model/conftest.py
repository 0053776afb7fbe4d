"""Tiny random networks, and noise as their input."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from support.golden import GOLDEN
from xsam.model.xsam import XSamModel
from xsam.weights.checkpoint import load_checkpoint


@pytest.fixture(scope="module", params=["a", "c"])
def model(request: pytest.FixtureRequest) -> XSamModel:
    torch.set_num_threads(1)
    network, _ = load_checkpoint(GOLDEN / request.param)
    return network.requires_grad_(False)


@pytest.fixture
def noise() -> Callable[..., Tensor]:
    """Return normally distributed numbers of a shape, the same in every test."""
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator)
