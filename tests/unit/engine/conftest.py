"""Engines around the tiny random models."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

import xsam.inference.forward
from support.golden import GOLDEN_X2SAM
from tests.unit.engine.asking import parts
from xsam import XSam


@pytest.fixture(params=["a", "c"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> XSam:
    """Create an engine on shared weights that generates few tokens: each takes a forward pass."""
    monkeypatch.setattr(xsam.inference.forward, "MAX_NEW_TOKENS", 5)
    return XSam(*parts(request.param), model_id=request.param)


@pytest.fixture
def one_engine(monkeypatch: pytest.MonkeyPatch) -> XSam:
    monkeypatch.setattr(xsam.inference.forward, "MAX_NEW_TOKENS", 5)
    return XSam(*parts("a"), model_id="a")


@pytest.fixture(scope="session")
def x2sam() -> XSam:
    """Load a model with a memory of three frames; tests of sessions share it, and must not change it."""
    return XSam.load(GOLDEN_X2SAM / "x2a", threads=1)


@pytest.fixture(scope="session")
def clip() -> list[NDArray[np.uint8]]:
    """Draw nine frames of a bright square that moves over noise."""
    noise = np.random.default_rng(5).integers(0, 80, (48, 72, 3), dtype=np.uint8)
    frames = []
    for step in range(9):
        frame = noise.copy()
        frame[10:30, 5 + 4 * step : 25 + 4 * step] = (220, 60, 40)
        frame.flags.writeable = False
        frames.append(frame)
    return frames
