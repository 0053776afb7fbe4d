"""The parameters of the model reach `XSam.load`, with the values that stand for its defaults."""

from __future__ import annotations

import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from xsam import ModelError
from xsam.engine import XSam
from xsam_ros.node.engines import load_engine
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
    defaults = {name: option.default for name, option in _LOAD.parameters.items()}
    # A node runs for weeks beside others, mostly on frames that never come back.
    assert loaded == {**defaults, "frame_cache_mib": 256}


def test_missing_packages_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """After `colcon build` alone, the node failed with "No module named 'torch'"."""
    find_spec = importlib.util.find_spec

    def without_torch(name: str, package: str | None = None) -> Any:
        return None if name in ("torch", "safetensors") else find_spec(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without_torch)
    with pytest.raises(ModelError, match=r"not installed: torch, safetensors") as caught:
        load_engine(NodeParameters())
    assert "pip install '.[model]'" in caught.value.hint
    assert sys.executable in caught.value.hint


def test_what_the_client_of_a_server_needs_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client changed its library, and the node went on to look for the old one."""
    project = (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")
    (extra,) = re.findall(r"^remote = \[(.*)\]$", project, re.MULTILINE)
    needed = re.findall(r'"(\w+)', extra)
    assert needed
    find_spec = importlib.util.find_spec

    def without_client(name: str, package: str | None = None) -> Any:
        return None if name in needed else find_spec(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without_client)
    with pytest.raises(ModelError, match=f"not installed: {', '.join(needed)}"):
        load_engine(NodeParameters(engine="remote", server_url="http://127.0.0.1:1"))


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


def test_a_package_that_the_node_itself_needs_is_named() -> None:
    code = "import sys; sys.modules['cv2'] = None; from xsam_ros.segmenter_node import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "'cv2' is not installed; run pip install" in done.stderr
    assert "Traceback" not in done.stderr
