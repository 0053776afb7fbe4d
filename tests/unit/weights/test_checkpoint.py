"""Strict loading: every tensor of the file used, every tensor of the model filled, nothing unpickled."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models, normalizers
from torch import Tensor

from support.golden import GOLDEN, GOLDEN_QWEN3
from xsam import CheckpointError
from xsam.config import XSamConfig
from xsam.model.xsam import XSamModel
from xsam.weights.checkpoint import (
    find_weights,
    is_released_layout,
    load_checkpoint,
    load_weights,
    module_name,
    read_tensors,
    resolve_model,
    save_checkpoint,
)
from xsam.weights.files import sha256_of_file
from xsam.weights.tokenizer_files import load_tokenizer, open_tokenizer


def _tensors(variant: str = "a") -> dict[str, Tensor]:
    return load_file(GOLDEN / variant / "model.safetensors")


def _empty_model(variant: str = "a") -> XSamModel:
    with torch.device("meta"):
        return XSamModel(XSamConfig.read(GOLDEN / variant / "config.json"))


def _refusal(tensors: dict[str, Tensor]) -> str:
    """Return the message of `load_weights`; the model must be unchanged afterwards."""
    model = _empty_model()
    before = dict(model.named_parameters())
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, tensors)
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    return caught.value.message


# -- one tensor with two names


def _tied() -> tuple[XSamModel, dict[str, Tensor]]:
    with torch.device("meta"):
        model = XSamModel(XSamConfig.read(GOLDEN_QWEN3 / "e" / "config.json"))
    return model, load_file(GOLDEN_QWEN3 / "e" / "model.safetensors")


EMBEDDING, HEAD = "llm.model.embed_tokens.weight", "llm.lm_head.weight"


@pytest.mark.parametrize("left_out", [None, EMBEDDING, HEAD])
def test_a_tied_tensor_may_have_either_name_or_both(left_out: str | None) -> None:
    model, tensors = _tied()
    expected = tensors[EMBEDDING].clone()
    tensors.pop(left_out, None)
    load_weights(model, tensors)
    assert torch.equal(model.llm.lm_head.weight, expected)
    assert model.llm.lm_head.weight is model.llm.model.embed_tokens.weight  # once in memory


def test_a_tied_tensor_with_two_values_is_refused() -> None:
    model, tensors = _tied()
    tensors[HEAD] = tensors[HEAD] + 1
    with pytest.raises(CheckpointError, match="differ") as caught:
        load_weights(model, tensors)
    assert "tie_word_embeddings" in caught.value.hint


def test_a_tied_tensor_without_any_name_is_missing() -> None:
    model, tensors = _tied()
    del tensors[HEAD], tensors[EMBEDDING]
    with pytest.raises(CheckpointError, match="2 missing"):
        load_weights(model, tensors)


# -- tensors into a model


@pytest.mark.parametrize(("variant", "released"), [("a", False), ("c", True)])
def test_both_layouts_fill_the_model(variant: str, released: bool) -> None:
    tensors, model = _tensors(variant), _empty_model(variant)
    assert is_released_layout(list(tensors)) is released
    load_weights(model, tensors)
    state = model.state_dict()
    assert state.keys() == {module_name(name) for name in tensors}
    assert all(torch.equal(state[module_name(name)], tensor) for name, tensor in tensors.items())


def test_missing_tensors_are_counted_and_the_first_ten_named() -> None:
    tensors = _tensors()
    lost = sorted(tensors)[5:17]
    message = _refusal({name: tensor for name, tensor in tensors.items() if name not in lost})
    names = sorted(module_name(name) for name in lost)
    assert "12 missing: " + ", ".join(names[:10]) + " … and 2 more" in message
    assert names[10] not in message


def test_extra_tensors_are_named() -> None:
    message = _refusal({**_tensors(), "llm.adapter.lora_a": torch.zeros(1)})
    assert message.endswith("1 extra: llm.adapter.lora_a")


def test_wrong_shapes_are_named_with_both_shapes() -> None:
    tensors = _tensors()
    name = next(n for n, t in tensors.items() if t.ndim == 2)
    rows, columns = tensors[name].shape
    tensors[name] = torch.zeros(columns + 1, rows)
    wanted = f"1 of another shape: {module_name(name)} ({columns + 1}, {rows}) instead of ({rows}, {columns})"
    assert wanted in _refusal(tensors)


def test_all_kinds_of_misfits_are_reported_at_once() -> None:
    tensors = _tensors()
    first, second, *_ = sorted(tensors)
    del tensors[first]
    tensors[second] = torch.zeros(1, 2, 3, 4, 5)
    message = _refusal({**tensors, "stranger": torch.zeros(1)})
    assert all(part in message for part in ("1 missing", "1 extra", "1 of another shape"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused(value: float) -> None:
    tensors = _tensors()
    name = sorted(n for n, t in tensors.items() if t.ndim == 1)[0]
    tensors[name] = tensors[name].clone()
    tensors[name][-1] = value
    assert _refusal(tensors) == f"1 tensor(s) contain NaN or infinity: {module_name(name)}"


def test_the_same_tensor_under_both_layouts_names_is_refused() -> None:
    tensors = _tensors()
    name = next(n for n in tensors if n.startswith("vision_encoder."))
    tensors[name.replace("vision_encoder.", "visual_encoder.", 1)] = tensors[name].clone()
    assert "two tensors of the file are both" in _refusal(tensors)


# -- files into tensors


class _Code:
    """Object that creates a folder when it is unpickled."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.made),))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, zipped: bool) -> None:
    """The message must not pass on torch's advice to switch `weights_only` off."""
    made = tmp_path / "made by the pickle"
    file = tmp_path / "pytorch_model.bin"
    torch.save({"weight": torch.zeros(2), "code": _Code(made)}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="contains more than tensors and is not loaded") as caught:
        read_tensors(tmp_path)
    assert not made.exists()
    assert "weights_only" not in str(caught.value)
    torch.load(file, weights_only=False)  # without protection it does run
    assert made.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_bin_files_of_both_generations_are_read(tmp_path: Path, zipped: bool) -> None:
    expected = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}
    torch.save(expected, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    found = read_tensors(tmp_path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_state_dict_wrapper_is_opened(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(1)}}, tmp_path / "pytorch_model.bin")
    assert read_tensors(tmp_path).keys() == {"a"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "contains a list instead of named tensors"),
        (torch.zeros(1), "contains a Tensor instead of named tensors"),
        ({"state_dict": [1]}, "contains a list instead of named tensors"),
        ({"a": torch.zeros(1), "epoch": 3}, "not named tensors: epoch"),
        ({7: torch.zeros(1)}, "not named tensors: 7"),
    ],
)
def test_a_bin_file_must_contain_named_tensors(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=message):
        read_tensors(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_reported_as_damaged(tmp_path: Path, name: str, share: float) -> None:
    file = tmp_path / name
    tensors = {"a": torch.zeros(4000), "b": torch.ones(7)}
    if name.endswith(".bin"):
        torch.save(tensors, file)
    else:
        save_file(tensors, file)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError) as caught:
        read_tensors(tmp_path)
    assert str(file) in caught.value.message


def _write_shards(folder: Path, groups: dict[str, dict[str, Tensor]]) -> Path:
    for name, tensors in groups.items():
        save_file(tensors, folder / name)
    index = folder / "model.safetensors.index.json"
    shard_of = {tensor: name for name, tensors in groups.items() for tensor in tensors}
    index.write_text(json.dumps({"metadata": {}, "weight_map": shard_of}))
    return index


def test_shards_are_joined(tmp_path: Path) -> None:
    _write_shards(tmp_path, {"1.safetensors": {"a": torch.ones(1)}, "2.safetensors": {"b": torch.ones(2)}})
    assert {name: len(t) for name, t in read_tensors(tmp_path).items()} == {"a": 1, "b": 2}


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    _write_shards(tmp_path, {"1.safetensors": {"a": torch.ones(1)}, "2.safetensors": {"b": torch.ones(2)}})
    (tmp_path / "2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"1 shard\(s\) .* are missing: 2\.safetensors") as caught:
        read_tensors(tmp_path)
    assert "download" in caught.value.hint


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    one = {"a": torch.ones(1), "b": torch.ones(1)}
    _write_shards(
        tmp_path, {"1.safetensors": one, "2.safetensors": {"b": torch.zeros(1), "c": torch.ones(1)}}
    )
    with pytest.raises(CheckpointError, match="repeats tensors of another shard: b"):
        read_tensors(tmp_path)


@pytest.mark.parametrize("shard", ["../secret.safetensors", "{absolute}", "sub/secret.safetensors", 5])
def test_an_index_may_not_point_outside_its_folder(tmp_path: Path, shard: object) -> None:
    secret = tmp_path / "secret.safetensors"
    save_file({"a": torch.ones(1)}, secret)
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    shutil.copy(secret, folder / "sub")
    listed = str(secret) if shard == "{absolute}" else shard
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": listed}}))
    with pytest.raises(CheckpointError, match="lists a shard outside its folder"):
        read_tensors(folder)


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": ["x"]}}', "\xff"]
)
def test_a_damaged_index_is_reported(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError, match="is not a valid index"):
        find_weights(tmp_path)


def test_paths_without_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no weights in") as caught:
        find_weights(tmp_path)
    assert "pytorch_model.bin" in caught.value.hint
    with pytest.raises(CheckpointError, match="no such file"):
        find_weights(tmp_path / "model.safetensors")


# -- tokenizers and whole folders


def _phi3_like(folder: Path) -> Tokenizer:
    """A tokenizer built the way Phi-3's is: every text between two tags begins with "▁"."""
    pieces = ["<unk>", "<s>", "</s>", "▁", *"abcdefghijklmnopqrstuvwxyz", "▁t", "▁th", "▁the"]
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e")]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in ("<unk>", "<s>", "<|endoftext|>")])
    tokenizer.add_special_tokens([AddedToken("<|end|>", rstrip=True, normalized=False)])
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "<|endoftext|>", "unk_token": "<unk>", "legacy": False}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**settings, "tokenizer_class": "LlamaTokenizer"})
    )
    return tokenizer


def test_the_tokenizer_file_is_taken_as_it_is(tmp_path: Path) -> None:
    """Without a config.json next to Phi-3's files, `AutoTokenizer` turned them into a Llama tokenizer: the
    first word after a tag lost its "▁" and became other tokens than in training.
    """
    raw = _phi3_like(tmp_path / "phi3")
    opened = open_tokenizer(tmp_path / "phi3")
    text = "the<|end|>the <|end|> the"
    assert opened.encode(text, add_special_tokens=False) == raw.encode(text, add_special_tokens=False).ids
    opened.save_pretrained(tmp_path / "again")
    assert open_tokenizer(tmp_path / "again").encode(text) == opened.encode(text)


def test_a_tokenizer_without_our_tokens_is_refused(tmp_path: Path) -> None:
    _phi3_like(tmp_path / "phi3")
    with pytest.raises(CheckpointError, match="lacks <SEG>, <p>, </p>") as caught:
        load_tokenizer(tmp_path / "phi3")
    assert "xsam convert" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no tokenizer.json"), ("{", "cannot open"), ("{}", "cannot open")]
)
def test_damaged_tokenizers(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(tmp_path)
    with pytest.raises(CheckpointError, match="no tokenizer folder"):
        load_tokenizer(tmp_path / "nowhere")


def test_a_folder_opens_ready_for_use() -> None:
    model, tokenizer = load_checkpoint(GOLDEN / "c", dtype=torch.bfloat16)
    assert not model.training
    assert model.llm.lm_head.weight.dtype is torch.bfloat16
    assert len(tokenizer) == model.config.llm.vocab_size
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


def test_a_saved_folder_is_readable_by_all_users(tmp_path: Path) -> None:
    """safetensors writes files that only their owner may read."""
    model, tokenizer = load_checkpoint(GOLDEN / "a")
    save_checkpoint(model, tokenizer, tmp_path)
    again, _ = load_checkpoint(tmp_path)
    expected = model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.state_dict().items())
    modes = {path.stat().st_mode for path in tmp_path.iterdir() if path.is_file()}
    assert len(modes) == 1


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(GOLDEN / "a", tmp_path / "a")
    tokenizer = open_tokenizer(folder / "tokenizer")
    tokenizer.add_tokens(["one", "more"])
    tokenizer.save_pretrained(folder / "tokenizer")
    with pytest.raises(CheckpointError, match="the tokenizer has 425 tokens, the model 423"):
        load_checkpoint(folder)


def test_models_are_found_by_name_or_folder(tmp_path: Path) -> None:
    assert resolve_model("tiny")[1] == "tiny"
    assert resolve_model(tmp_path) == (tmp_path, tmp_path.name)
    with pytest.raises(CheckpointError, match="no model 'huge'") as caught:
        resolve_model("huge")
    assert "tiny" in caught.value.hint


def test_sha256_is_the_standard_one(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert (
        sha256_of_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


@pytest.mark.parametrize(
    "content", ["[]", "7", '{"llm": 1, "vision_encoder": {}, "sam": {}, "mask2former": {}, "xsam": {}}']
)
def test_a_malformed_config_is_a_checkpoint_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match="config"):
        XSamConfig.read(tmp_path / "config.json")
