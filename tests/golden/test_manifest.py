"""The full-size model has exactly the tensors of the published one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from xsam.config import full_config
from xsam.config.presets import full_x2sam_config
from xsam.config.x2sam import X2SamConfig
from xsam.config.x2sam_schema import x2sam_misfits
from xsam.model.x2sam import X2SamModel
from xsam.model.xsam import XSamModel
from xsam.weights.checkpoint import module_name
from xsam.weights.x2sam import MergedTensors

MANIFEST = Path(__file__).parent / "data" / "manifest_phi3_siglip2_saml.json"
X2SAM_MANIFEST = Path(__file__).parent / "data_x2sam" / "manifest_x2sam_qwen3vl4b.json"


@pytest.mark.parametrize("released", [True, False])
def test_names_and_shapes(released: bool) -> None:
    manifest = json.loads(MANIFEST.read_text())["tensors"]
    with torch.device("meta"):
        model = XSamModel(full_config(released=released))
    assert {module_name(name): tuple(shape) for name, shape in manifest.items()} == {
        name: tuple(tensor.shape) for name, tensor in model.state_dict().items()
    }


@pytest.mark.parametrize("release_time", [True, False])
def test_names_and_shapes_of_x2sam(release_time: bool) -> None:
    manifest = json.loads(X2SAM_MANIFEST.read_text())
    saved = dict(manifest["saved"])
    if release_time:  # files written then have seven tensors more
        saved.update(manifest["saved_by_release_time_code_only"])
    given, base = (
        {name: torch.empty(shape, device="meta") for name, shape in part.items()}
        for part in (saved, manifest["from_base_repository"])
    )
    with torch.device("meta"):
        model = X2SamModel(full_x2sam_config())
    assert {name: tuple(tensor.shape) for name, tensor in MergedTensors(given, base).items()} == {
        name: tuple(tensor.shape) for name, tensor in model.state_dict().items()
    }


def test_the_full_x2sam_configuration_is_valid_and_reads_back() -> None:
    config = full_x2sam_config()
    assert x2sam_misfits(config) == []
    again = X2SamConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again.to_dict() == config.to_dict()
