"""Initial checkpoint from base models: every tensor has the right origin, and the rest is reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    Mask2FormerForUniversalSegmentation,
    Phi3ForCausalLM,
    SamConfig,
    SamModel,
    SiglipConfig,
    SiglipVisionModel,
)

from xsam.config import tiny_config
from xsam.errors import CheckpointError
from xsam.train.assemble import assemble
from xsam.train.tokenizer import build_tiny_tokenizer
from xsam.weights.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow  # the file takes several seconds


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write four base models with random weights, as `from_pretrained` expects them."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = build_tiny_tokenizer()
    config = tiny_config(vocab_size=len(tokenizer))
    torch.manual_seed(1)
    Phi3ForCausalLM(config.llm).save_pretrained(folder / "llm")
    tokenizer.save_pretrained(folder / "llm")
    SiglipVisionModel(config.vision_encoder).save_pretrained(folder / "vision")
    SamModel(SamConfig(vision_config=config.sam)).save_pretrained(folder / "sam")
    Mask2FormerForUniversalSegmentation(config.mask2former).save_pretrained(folder / "mask2former")
    return {name: folder / name for name in ("llm", "vision", "sam", "mask2former")}


def test_every_base_tensor_is_used_and_new_ones_are_named(base: dict[str, Path], tmp_path: Path) -> None:
    own = tiny_config(vocab_size=1)
    result = assemble(**base, out=tmp_path, own=own)
    model, _ = load_checkpoint(tmp_path)
    written = model.state_dict()
    llm = load_file(base["llm"] / "model.safetensors")
    assert result.taken["llm"] == len(llm)
    for name, value in llm.items():
        assert torch.equal(written[f"llm.{name}"], value.to(torch.bfloat16).float()), name
    mask2former = load_file(base["mask2former"] / "model.safetensors")
    name = "decoder.layers.0.fc1.weight"
    expected = mask2former[f"model.transformer_module.{name}"].to(torch.bfloat16).float()
    assert torch.equal(written[f"segmentor.decoder.{name}"], expected)
    new = set(result.new)
    assert {"bg_embeds.weight", "llm_projector.model.0.weight"} <= new
    # The pixel decoder's inputs have the connector's channels, not the backbone's.
    assert "segmentor.pixel_decoder.input_projections.0.0.weight" in new
    assert not any(name.startswith(("llm.", "segmentor.encoder.", "vision_encoder.")) for name in new)
    assert len(new) + sum(result.taken.values()) == len(written)


def test_a_longer_vocabulary_keeps_the_old_rows(base: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = build_tiny_tokenizer()
    tokenizer.add_tokens(["neverheard"])
    folder = tmp_path / "llm"
    folder.mkdir()
    for file in base["llm"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tokenizer.save_pretrained(folder)
    assemble(**{**base, "llm": folder}, out=tmp_path / "out", own=tiny_config(vocab_size=1))
    rows = load_checkpoint(tmp_path / "out")[0].llm.model.embed_tokens.weight
    old = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    assert len(rows) == len(old) + 1
    assert torch.equal(rows[:-1], old.to(torch.bfloat16).float())
    torch.testing.assert_close(rows[-1], old.mean(dim=0), atol=1e-2, rtol=1e-2)


def test_a_folder_of_something_else_is_refused(base: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        assemble(**{**base, "sam": tmp_path}, out=tmp_path / "out", own=tiny_config(vocab_size=1))
    swapped = {**base, "mask2former": tmp_path / "odd"}
    (tmp_path / "odd").mkdir()
    for file in base["sam"].iterdir():
        (tmp_path / "odd" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(CheckpointError, match="mask2former"):
        assemble(**swapped, out=tmp_path / "out", own=tiny_config(vocab_size=1))


def test_siglip_may_be_the_vision_half_or_the_whole_model(base: dict[str, Path], tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    vision = json.loads((base["vision"] / "config.json").read_text())
    SiglipConfig(vision_config=vision).save_pretrained(whole)
    (whole / "model.safetensors").write_bytes((base["vision"] / "model.safetensors").read_bytes())
    own = tiny_config(vocab_size=1)
    first = assemble(**base, out=tmp_path / "a", own=own)
    second = assemble(**{**base, "vision": whole}, out=tmp_path / "b", own=own)
    assert first.taken == second.taken
