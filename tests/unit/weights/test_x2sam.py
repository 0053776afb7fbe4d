"""Released weights of X2SAM: low-rank updates merged into the base model, strictly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from support.golden import GOLDEN_X2SAM
from xsam import CheckpointError, InvalidOptionError, Query, XSam
from xsam.weights.convert import convert
from xsam.weights.x2sam import MergedTensors

X2A = GOLDEN_X2SAM / "x2a"
TEXT = "vlm.model.language_model."
RANK, ALPHA = 2, 6
SCALE = ALPHA / RANK


def _is_matrix(name: str) -> bool:
    return name.startswith(f"{TEXT}layers.") and name.endswith("_proj.weight")


def _is_base(name: str) -> bool:
    return name.startswith("vlm.") and "merger" not in name and not name.startswith("vlm.lm_head")


def _released(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Write a model in the released layout and its base model beside it; return both as dictionaries."""
    tensors = load_file(X2A / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    base, trained = {}, {}
    for name, tensor in tensors.items():
        if _is_base(name):
            base[name.removeprefix("vlm.")] = tensor
        if _is_matrix(name):
            stem = f"vlm.base_model.model.{name.removeprefix('vlm.').removesuffix('.weight')}"
            for factor, shape in (("A", (RANK, tensor.shape[1])), ("B", (len(tensor), RANK))):
                trained[f"{stem}.lora_{factor}.default.weight"] = (
                    torch.randn(shape, generator=generator) * 0.1
                )
        elif not _is_base(name) or "embed_tokens" in name:
            trained[name.replace("vlm.", "vlm.base_model.model.", 1)] = tensor
    base["model.language_model.embed_tokens.weight"] = torch.zeros(410, 48, dtype=torch.bfloat16)
    config = json.loads((X2A / "config.json").read_text())
    config["x2sam"]["lora"] = {"r": RANK, "lora_alpha": ALPHA}
    stage = folder / "stage"
    stage.mkdir(parents=True)
    (stage / "config.json").write_text(json.dumps(config))
    shutil.copytree(X2A / "tokenizer", stage / "tokenizer")
    save_file(trained, stage / "model.safetensors")
    (folder / "base").mkdir()
    save_file(base, folder / "base" / "model.safetensors")
    return trained, base


def test_updates_are_added_in_float32_and_the_rest_is_replaced(tmp_path: Path) -> None:
    trained, base = _released(tmp_path)
    merged = MergedTensors(trained, base, scale=SCALE)
    assert set(merged) == set(load_file(X2A / "model.safetensors"))
    name = f"{TEXT}layers.1.mlp.up_proj.weight"
    stem = "vlm.base_model.model.model.language_model.layers.1.mlp.up_proj.lora_"
    expected = base[name.removeprefix("vlm.")].double()
    expected += (
        3.0 * trained[f"{stem}B.default.weight"].double() @ trained[f"{stem}A.default.weight"].double()
    )
    assert merged[name].dtype == torch.float32
    torch.testing.assert_close(merged[name].double(), expected, rtol=1e-5, atol=1e-6)
    embedding = f"{TEXT}embed_tokens.weight"
    assert merged[embedding].shape == (376, 48)  # the trained one, not the base model's 410 rows


@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.slow
def test_a_released_file_is_converted_and_answers(tmp_path: Path, extra: bool) -> None:
    trained, base = _released(tmp_path)
    if extra:  # constants that files of the release time have
        trained["segmentor.class_predictor.cls_bias"] = torch.zeros(1)
        trained["segmentor.pixel_decoder.encoder.layers.0.self_attn.n_points_scale"] = torch.ones(12)
        save_file(trained, tmp_path / "stage" / "model.safetensors")
    report = convert(tmp_path / "stage", tmp_path / "out", base=tmp_path / "base", dtype="float32")
    assert (report.layout, report.vocab_size) == ("released", 376)
    written = load_file(tmp_path / "out" / "model.safetensors")
    merged = MergedTensors(trained, base, scale=SCALE)
    for name in (f"{TEXT}layers.0.self_attn.q_proj.weight", "vlm.model.visual.merger.norm.bias"):
        torch.testing.assert_close(written[name], merged[name].float(), rtol=0, atol=0)
    result = XSam.load(tmp_path / "out").segment(np.zeros((48, 64, 3), np.uint8), Query(text="the mug"))
    assert result.code == ""


def test_keeping_the_dtype_keeps_that_of_the_base_model(tmp_path: Path) -> None:
    _released(tmp_path)
    convert(tmp_path / "stage", tmp_path / "out", base=tmp_path / "base")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert {written[name].dtype for name in written if _is_matrix(name)} == {torch.bfloat16}


def test_a_released_file_without_its_base_model_is_refused(tmp_path: Path) -> None:
    _released(tmp_path)
    with pytest.raises(CheckpointError, match="no base matrix") as caught:
        convert(tmp_path / "stage", tmp_path / "out")
    assert "--base" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_half_an_update_and_one_that_does_not_fit_are_refused(tmp_path: Path) -> None:
    trained, base = _released(tmp_path)
    factors = sorted(name for name in trained if "lora_A" in name)
    without = {name: tensor for name, tensor in trained.items() if name != factors[0]}
    with pytest.raises(CheckpointError, match="has only lora_B"):
        MergedTensors(without, base)
    wrong = {**trained, factors[1]: torch.zeros(RANK, 7)}
    with pytest.raises(CheckpointError, match="do not fit the base model"):
        MergedTensors(wrong, base)


@pytest.mark.parametrize("missing", ["segmentor.no_memory_embedding", "bg_embeds.weight"])
def test_a_missing_tensor_is_named(tmp_path: Path, missing: str) -> None:
    trained, _ = _released(tmp_path)
    del trained[missing]
    save_file(trained, tmp_path / "stage" / "model.safetensors")
    with pytest.raises(CheckpointError, match=missing):
        convert(tmp_path / "stage", tmp_path / "out", base=tmp_path / "base")


def test_an_unknown_tensor_is_named(tmp_path: Path) -> None:
    trained, _ = _released(tmp_path)
    trained["segmentor.surprise"] = torch.zeros(3)
    save_file(trained, tmp_path / "stage" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"segmentor\.surprise"):
        convert(tmp_path / "stage", tmp_path / "out", base=tmp_path / "base")


def test_weights_of_x_sam_take_no_base_model(tmp_path: Path) -> None:
    source = GOLDEN_X2SAM.parent / "data" / "a"
    with pytest.raises(InvalidOptionError, match="no base model"):
        convert(source, tmp_path / "out", base=tmp_path)
