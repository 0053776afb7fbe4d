"""The parameters of the model reach `XSam.load`, with the values that stand for its defaults."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from xsam.engine import XSam
from xsam_ros.node.node import load_engine
from xsam_ros.node.parameters import NodeParameters

_LOAD = inspect.signature(XSam.load)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replace `XSam.load` and return the arguments that it gets."""
    arguments: dict[str, Any] = {}

    def load(*positional: Any, **named: Any) -> None:
        arguments.update(_LOAD.bind(*positional, **named).arguments)

    monkeypatch.setattr(XSam, "load", load)
    return arguments


def test_defaults_are_those_of_the_engine(loaded: dict[str, Any]) -> None:
    load_engine(NodeParameters())
    assert loaded == {name: option.default for name, option in _LOAD.parameters.items()}


def test_every_option_is_a_parameter(loaded: dict[str, Any]) -> None:
    options: dict[str, Any] = {
        "model": "/models/large",
        "device": "cuda",
        "dtype": "bfloat16",
        "llm_device": "cuda:1",
        "llm_weights": "int8",
        "compiled": True,
        "threads": 3,
        "frame_cache_mib": 512,
    }
    load_engine(NodeParameters(**options))
    assert loaded == options
