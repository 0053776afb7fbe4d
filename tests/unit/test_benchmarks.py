"""Benchmarks that call what has no other caller."""

from __future__ import annotations

import pytest

from benchmarks import growth


def test_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    """It called a function with an argument that was gone, and nobody noticed."""
    small = {"SIDES": (64, 96, 128), "CLASSES": (4, 8), "INSTANCES": (2, 4), "PROMPTS": (1, 2)}
    for name, sizes in small.items():
        monkeypatch.setattr(growth, name, sizes)
    monkeypatch.setattr(growth, "REPETITIONS", 1)
    figures = growth.measure_growth(lambda _: None)
    assert figures["curves"].keys() == figures["powers"].keys()
    assert all(min(curve["seconds"]) > 0 for curve in figures["curves"].values())
