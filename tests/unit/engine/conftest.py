"""Engines around the tiny random models."""

from __future__ import annotations

import pytest

import xsam.inference.forward
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
