"""Weight files as people have them: wrappers, prefixes, folders of frameworks, and what is no weight file."""

from __future__ import annotations

import gzip
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from xsam import CheckpointError, XSam
from xsam.config import XSamConfig
from xsam.model.xsam import XSamModel
from xsam.weights.checkpoint import load_weights
from xsam.weights.files import sha256_of_file
from xsam.weights.weight_files import find_weights, read_tensors

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "data"
TENSORS = {"a": torch.ones(2), "b.c": torch.zeros(3)}


def _assert_read(path: Path) -> None:
    found = read_tensors(path)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


def _prefixed(prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in TENSORS.items()}


# -- wrappers


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": TENSORS, "meta": {"epoch": 3, "time": "today"}, "optimizer": {"state": {}}},
        {"model_state_dict": TENSORS, "epoch": 3},
        {"module": TENSORS, "ds_version": "0.14", "param_shapes": [{"a": torch.Size([2])}]},
        {"model": TENSORS, "iteration": 7},
        _prefixed("module."),
        _prefixed("_orig_mod."),
        _prefixed("module._orig_mod."),
        {"state_dict": _prefixed("module."), "meta": {}},
    ],
)
def test_wrappers_of_training_frameworks(tmp_path: Path, content: dict[str, Any]) -> None:
    torch.save(content, tmp_path / "pytorch_model.bin")
    _assert_read(tmp_path)


def test_a_prefix_of_some_names_stays(tmp_path: Path) -> None:
    save_file({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "model.safetensors")
    assert read_tensors(tmp_path).keys() == {"module.a", "b"}


def test_the_log_of_mmengine_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`iter_N.pth` has the tensors, and a log of classes that are not installed here."""

    class HistoryBuffer:
        def __init__(self) -> None:
            self.values = np.arange(3.0)
            self.last = np.float64(0.5)

    HistoryBuffer.__module__ = "mmengine.logging.history_buffer"
    HistoryBuffer.__qualname__ = "HistoryBuffer"
    with monkeypatch.context() as patch:
        for name in ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer"):
            patch.setitem(sys.modules, name, ModuleType(name))
        patch.setattr(
            sys.modules["mmengine.logging.history_buffer"], "HistoryBuffer", HistoryBuffer, raising=False
        )
        hub = {"log_scalars": {"loss": HistoryBuffer()}}
        torch.save({"state_dict": TENSORS, "meta": {}, "message_hub": hub}, tmp_path / "iter_200.pth")
    _assert_read(tmp_path)


def test_other_classes_are_named_and_not_loaded(tmp_path: Path) -> None:
    torch.save({"state_dict": TENSORS, "args": Path("somewhere")}, tmp_path / "iter_1.pth")
    with pytest.raises(CheckpointError, match=r"contains more than tensors and is not loaded: pathlib"):
        read_tensors(tmp_path)


# -- folders


@pytest.mark.parametrize("name", ["iter_3000.pth", "weights.pt", "my.safetensors", "epoch_2.bin", "x.ckpt"])
def test_a_single_file_of_any_name(tmp_path: Path, name: str) -> None:
    if name.endswith(".safetensors"):
        save_file(TENSORS, tmp_path / name)
    else:
        torch.save(TENSORS, tmp_path / name)
    torch.save({"state": {}}, tmp_path / "optimizer.pt")
    (tmp_path / "training_args.bin").write_bytes(b"x")
    _assert_read(tmp_path)


def test_the_newest_file_of_mmengine(tmp_path: Path) -> None:
    torch.save({"x": torch.ones(1)}, tmp_path / "iter_1.pth")
    torch.save(TENSORS, tmp_path / "iter_2.pth")
    with pytest.raises(CheckpointError, match=r"has 2 files that may be the weights: iter_1.pth, iter_2.pth"):
        find_weights(tmp_path)
    (tmp_path / "last_checkpoint").write_text("/cluster/run/iter_2.pth")
    _assert_read(tmp_path)


@pytest.mark.parametrize(
    "pattern", ["model-{:05d}-of-00002.safetensors", "pytorch_model-{:05d}-of-00002.bin"]
)
def test_shards_without_an_index(tmp_path: Path, pattern: str) -> None:
    for number, (name, tensor) in enumerate(TENSORS.items(), start=1):
        file = tmp_path / pattern.format(number)
        if file.suffix == ".bin":
            torch.save({name: tensor}, file)
        else:
            save_file({name: tensor}, file)
    _assert_read(tmp_path)
    (tmp_path / pattern.format(2)).unlink()
    with pytest.raises(CheckpointError, match=r"1 shard\(s\) of 2 are missing: .*-00002-of-00002"):
        find_weights(tmp_path)


def test_shards_of_two_checkpoints(tmp_path: Path) -> None:
    for name in ("model-00001-of-00001.safetensors", "model-00001-of-00003.safetensors"):
        save_file(TENSORS, tmp_path / name)
    with pytest.raises(CheckpointError, match="has shards of 2 checkpoints and no index"):
        find_weights(tmp_path)


@pytest.mark.parametrize("name", ["iter_9.pth", "global_step9"])
def test_states_of_deepspeed(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    torch.save({"module": TENSORS, "ds_config": {}}, folder / "mp_rank_00_model_states.pt")
    torch.save({"optimizer_state_dict": {}}, folder / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt")
    _assert_read(folder)
    (tmp_path / "latest").write_text(name)
    _assert_read(tmp_path)


def test_states_that_deepspeed_divided(tmp_path: Path) -> None:
    for rank in range(2):
        torch.save({"module": {}}, tmp_path / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
    with pytest.raises(CheckpointError, match="DeepSpeed divided among 2 files") as caught:
        find_weights(tmp_path)
    assert "zero_to_fp32.py" in caught.value.hint


def test_only_a_part_of_the_model() -> None:
    """Weights of stage 1 have the segmentor alone."""
    with torch.device("meta"):
        model = XSamModel(XSamConfig.read(GOLDEN / "a" / "config.json"))
    tensors = load_file(GOLDEN / "a" / "model.safetensors")
    segmentor = {name: t for name, t in tensors.items() if name.startswith("segmentor.")}
    with pytest.raises(CheckpointError, match="do not match the model") as caught:
        load_weights(model, segmentor)
    assert "the file has nothing of bg_embeds, llm, llm_projector" in caught.value.hint
    assert "an early stage of training" in caught.value.hint
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, TENSORS)
    assert "none of the tensors is X-SAM's" in caught.value.hint


# -- content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n", "is a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html><head>Sign in</head></html>", "is an HTML page"),
        (b"\xef\xbb\xbf<HTML>", "is an HTML page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is an XML document"),
        (b'{"error": "Entry not found"}', "is a JSON text"),
        (gzip.compress(b"weights", mtime=0), "is a gzip archive"),
        (b"GGUF\x03\0\0\0", "is a GGUF file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "not a weight file"),
        (b"\x93NUMPY\x01\0v\0{'descr': '<f4'}", "not a weight file"),
        (b"\x08\x07\x12\x07pytorch", "not a weight file"),
        (b"", "it is empty"),
        (bytes(4000), "begins with zeros only"),
    ],
)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_what_people_take_for_weights_is_named(
    tmp_path: Path, content: bytes, message: str, name: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_tensors(tmp_path)
    assert f"{tmp_path / name} is" in caught.value.message
    assert message in caught.value.message
    assert caught.value.hint


def test_the_content_decides_and_not_the_name(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "pytorch_model.bin")
    _assert_read(tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    torch.save(TENSORS, tmp_path / "model.safetensors")
    _assert_read(tmp_path)


def test_a_pointer_in_the_place_of_the_tokenizer(tmp_path: Path) -> None:
    folder = shutil.copytree(GOLDEN / "a", tmp_path / "a")
    (folder / "tokenizer" / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is a Git LFS pointer"):
        XSam.load(folder, device="cpu")


# -- the model card


def test_weights_that_are_not_those_of_the_card(tmp_path: Path) -> None:
    """One flipped bit was loaded without a word."""
    folder = shutil.copytree(ROOT / "xsam" / "assets" / "tiny", tmp_path / "tiny")
    XSam.load(folder, device="cpu")
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1000] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="is not the file of the model card") as caught:
        XSam.load(folder, device="cpu")
    assert sha256_of_file(folder / "model.safetensors") in caught.value.message
    (folder / "README.md").unlink()
    XSam.load(folder, device="cpu")


def test_new_weights_set_the_old_card_aside(tmp_path: Path) -> None:
    engine = XSam.load("tiny", device="cpu")
    shutil.copy(ROOT / "xsam" / "assets" / "tiny" / "README.md", tmp_path)
    from xsam.weights.checkpoint import load_checkpoint, save_checkpoint

    model, tokenizer = load_checkpoint(GOLDEN / "a")
    save_checkpoint(model, tokenizer, tmp_path)
    assert not (tmp_path / "README.md").exists()
    assert (tmp_path / "README.old.md").is_file()
    assert XSam.load(tmp_path, device="cpu").config.llm.vocab_size != engine.config.llm.vocab_size


def test_an_index_that_is_too_deep(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="is not a valid index"):
        find_weights(tmp_path)
