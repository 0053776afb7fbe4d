"""The full-size model has exactly the tensors of the published one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from xsam.config import full_config
from xsam.model.xsam import XSamModel
from xsam.weights.checkpoint import module_name

MANIFEST = Path(__file__).parent / "data" / "manifest_phi3_siglip2_saml.json"


@pytest.mark.parametrize("released", [True, False])
def test_names_and_shapes(released: bool) -> None:
    manifest = json.loads(MANIFEST.read_text())["tensors"]
    with torch.device("meta"):
        model = XSamModel(full_config(released=released))
    assert {module_name(name): tuple(shape) for name, shape in manifest.items()} == {
        name: tuple(tensor.shape) for name, tensor in model.state_dict().items()
    }
