"""`import xsam` and `import xsam_agent_tools` stay light: no PyTorch and no ROS."""

from __future__ import annotations

import subprocess
import sys

import pytest

import xsam
from tests.docs.documents import ROOT

HEAVY = ("torch", "transformers", "rclpy", "sensor_msgs", "xsam_ros")


def loaded_by(statement: str, names: tuple[str, ...]) -> list[str]:
    """Return which of the modules a fresh interpreter has loaded after the statement."""
    code = f"import sys; {statement}; print(*sorted(set({names!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    "module", ["xsam", "xsam.draw.overlay", "xsam.sim", "xsam.cli", "xsam.wire.conversion"]
)
def test_xsam_is_light(module: str) -> None:
    assert loaded_by(f"import {module}", (*HEAVY, "langchain_core", "langgraph", "mcp")) == []


def test_agent_tools_are_light() -> None:
    assert loaded_by("import xsam_agent_tools", HEAVY) == []


def test_public_names_resolve_lazily() -> None:
    """Listing the public names of `xsam` must not load the model either."""
    assert loaded_by("import xsam; dir(xsam); xsam.Frame", HEAVY) == []


def test_importing_xsam_alone_loads_no_numpy() -> None:
    """It took 0.15 s, most of them NumPy's; now every name is imported on first use."""
    assert loaded_by("import xsam; xsam.XSamError", ("numpy", "pycocotools")) == []
    assert loaded_by("import xsam; xsam.Query", ("numpy",)) == ["numpy"]


def test_every_public_name_is_there() -> None:
    for name in xsam.__all__:
        assert getattr(xsam, name) is not None
    assert set(xsam.__all__) <= set(dir(xsam))
    with pytest.raises(AttributeError, match="no attribute 'Segmentor'"):
        _ = xsam.Segmentor


@pytest.mark.slow
def test_segmenting_loads_only_what_it_uses() -> None:
    """Model classes of transformers, and PyTorch's compiler with them, took half of a cold start."""
    statement = (
        "import numpy as np; from xsam import XSam; "
        "XSam.load('tiny').segment(np.zeros((64, 96, 3), np.uint8), 'the red mug')"
    )
    unused = ("transformers.modeling_utils", "torch._dynamo", "torch.distributed.tensor", "sympy", "scipy")
    assert loaded_by(statement, unused) == []
