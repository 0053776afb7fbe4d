"""Published weights in, checkpoint folder out: the results must stay the same, bit by bit."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from support.golden import GOLDEN
from tests.unit.weights.published_files import as_bin, base_tokenizer, download_folder, nothing_left
from xsam import CheckpointError, InvalidOptionError, Query, VisualPrompt, XSam
from xsam.config import SPECIAL_TOKENS, XSamConfig, full_config
from xsam.inference import answers
from xsam.inference.results import Prediction
from xsam.weights import convert, published
from xsam.weights.checkpoint import module_name
from xsam.weights.files import sha256_of_file
from xsam.weights.tokenizer_files import open_tokenizer

EMBEDDING = "llm.model.embed_tokens.weight"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """The released layout the way it is published: `pytorch_model.bin`, with configuration and tokenizer."""
    return as_bin("c", tmp_path / "published")


@pytest.fixture
def small_full(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Golden c's configuration instead of the 4.6 B one; collects the requested layouts."""
    requested: list[bool] = []

    def stand_in(*, released: bool) -> XSamConfig:
        requested.append(released)
        config = XSamConfig.read(GOLDEN / "c" / "config.json")
        config.llm.vocab_size = 32014
        return config

    monkeypatch.setattr(published, "full_config", stand_in)
    return requested


# -- the same results


def _predictions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Prediction]:
    predictions: list[Prediction] = []
    compose: Callable[..., object] = answers.compose

    def spy(prediction: Prediction, *args: object, **named: object) -> object:
        predictions.append(prediction)
        return compose(prediction, *args, **named)

    with Image.open(GOLDEN / "c" / "image.png") as picture:
        rgb = np.asarray(picture.convert("RGB"))
    queries = [
        Query(text="the red mug"),
        Query(thing_classes=("cat", "dog"), stuff_classes=("sky",)),
        Query(prompts=(VisualPrompt.box(10, 10, 60, 60),)),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(answers, "compose", spy)
        results = XSam.load(folder, device="cpu").segment(rgb, queries)
    assert {result.code for result in results} == {""}
    return predictions


@pytest.mark.parametrize(("variant", "layout"), [("a", "current"), ("c", "released")])
@pytest.mark.slow
def test_the_logits_do_not_change(
    variant: str, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = as_bin(variant, tmp_path / "published"), tmp_path / "converted"
    report = convert.convert(source, out)
    assert report.layout == layout
    before = _predictions(GOLDEN / variant, monkeypatch)
    after = _predictions(out, monkeypatch)
    assert len(before) == len(after) == 3
    for old, new in zip(before, after, strict=True):
        assert old.class_logits is not None
        assert old.mask_logits is not None
        assert new.class_logits is not None
        assert new.mask_logits is not None
        assert torch.equal(old.class_logits, new.class_logits)
        assert torch.equal(old.mask_logits, new.mask_logits)


def test_both_layouts_get_the_models_own_names(released: Path, tmp_path: Path) -> None:
    original = load_file(GOLDEN / "c" / "model.safetensors")
    assert any(name.startswith("visual_encoder.") for name in original)
    report = convert.convert(released, tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written.keys() == {module_name(name) for name in original}
    assert all(torch.equal(written[module_name(name)], tensor) for name, tensor in original.items())
    assert report.tensor_count == len(original)
    assert report.parameter_count == sum(tensor.numel() for tensor in original.values())
    assert report.dtypes == {"float32": len(original)}
    assert (report.vocab_size, report.token_count, report.added_tokens, report.notes) == (423, 423, (), ())


def test_the_report_lists_every_file_with_its_hash(released: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = convert.convert(released, out)
    files = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    assert {"config.json", "model.safetensors", "tokenizer/tokenizer.json"} <= files.keys()
    assert report.sha256 == {name: sha256_of_file(path) for name, path in files.items()}
    assert report.size_bytes == sum(path.stat().st_size for path in files.values())


@pytest.mark.slow
def test_the_weights_can_be_read_by_whoever_can_read_the_rest(released: Path, tmp_path: Path) -> None:
    """safetensors writes files that only their owner may read; the robot's node may run as another user."""
    out = tmp_path / "out"
    convert.convert(released, out)
    assert len({path.stat().st_mode for path in out.rglob("*") if path.is_file()}) == 1


def test_converting_again_gives_the_same_weights_and_configuration(released: Path, tmp_path: Path) -> None:
    first = convert.convert(released, tmp_path / "one")
    second = convert.convert(tmp_path / "one", tmp_path / "two")
    assert second.layout == "current"
    for name in ("config.json", "model.safetensors", "tokenizer/tokenizer.json"):
        assert first.sha256[name] == second.sha256[name]


# -- shards and number formats


@pytest.mark.slow
def test_large_models_are_split_into_shards(
    released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, limit = tmp_path / "out", 500_000
    monkeypatch.setattr(convert, "MAX_SHARD_BYTES", limit)
    convert.convert(released, out)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    shards = sorted(out.glob("model-*.safetensors"))
    assert [p.name for p in shards] == [
        f"model-{n:05}-of-{len(shards):05}.safetensors" for n in range(1, len(shards) + 1)
    ]
    assert len(shards) > 2
    held = {p.name: list(load_file(p)) for p in shards}
    assert {name: file for file, names in held.items() for name in names} == index["weight_map"]
    sizes = [sum(t.nbytes for t in load_file(p).values()) for p in shards]
    assert sum(sizes) == index["metadata"]["total_size"]
    assert all(size <= limit or len(held[p.name]) == 1 for size, p in zip(sizes, shards, strict=True))
    assert convert.convert(out, tmp_path / "whole").tensor_count == len(index["weight_map"])


def test_released_shards_are_read(tmp_path: Path) -> None:
    source = as_bin("c", tmp_path / "published")
    tensors = torch.load(source / "pytorch_model.bin", weights_only=True)
    (source / "pytorch_model.bin").unlink()
    half = len(tensors) // 2
    shard_of = {name: f"{int(n >= half)}.safetensors" for n, name in enumerate(tensors)}
    for file in set(shard_of.values()):
        save_file({n: t for n, t in tensors.items() if shard_of[n] == file}, source / file)
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shard_of}))
    assert convert.convert(source, tmp_path / "out").layout == "released"
    (source / "1.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"missing: 1\.safetensors"):
        convert.convert(source, tmp_path / "second")
    assert nothing_left(tmp_path / "second")


def test_the_dtype_is_converted_on_request(released: Path, tmp_path: Path) -> None:
    report = convert.convert(released, tmp_path / "out", dtype="bfloat16")
    assert set(report.dtypes) == {"bfloat16"}
    written = load_file(tmp_path / "out" / "model.safetensors")
    original = load_file(GOLDEN / "c" / "model.safetensors")
    assert torch.equal(written[EMBEDDING], original[EMBEDDING].bfloat16())
    XSam.load(tmp_path / "out", device="cpu").warm_up()


def test_numbers_too_large_for_the_dtype_are_refused(released: Path, tmp_path: Path) -> None:
    tensors = torch.load(released / "pytorch_model.bin", weights_only=True)
    tensors[EMBEDDING][3, 3] = 1e6
    torch.save(tensors, released / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=f"{EMBEDDING} has values too large for float16"):
        convert.convert(released, tmp_path / "out", dtype="float16")
    assert nothing_left(tmp_path / "out")
    with pytest.raises(ValueError, match="dtype must be one of keep, float32, bfloat16, float16"):
        convert.convert(released, tmp_path / "out", dtype="int8")


def test_tensors_that_share_memory_are_written_separately(released: Path, tmp_path: Path) -> None:
    tensors = torch.load(released / "pytorch_model.bin", weights_only=True)
    tensors["llm.lm_head.weight"] = tensors[EMBEDDING]
    tensors["llm_projector.model.0.weight"] = tensors["llm_projector.model.0.weight"].T.contiguous().T
    torch.save(tensors, released / "pytorch_model.bin")
    convert.convert(released, tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("llm.lm_head.weight"), tensors[EMBEDDING])
        name = "llm_projector.model.0.weight"
        assert torch.equal(file.get_tensor(name), tensors[name])


# -- weights without our configuration


def test_the_download_folder_is_enough(tmp_path: Path, small_full: list[bool]) -> None:
    report = convert.convert(download_folder(tmp_path / "download"), tmp_path / "out")
    assert small_full == [True]
    assert (report.vocab_size, report.token_count) == (423, 423)  # 423 rows, not the usual 32,014
    assert report.added_tokens == ("<SEG>", "<p>", "</p>")
    assert report.notes == (
        "no config.json of X-SAM next to the weights: assumed to be the full-size model, released layout"
        " (1 token a region)",
    )
    tokenizer = open_tokenizer(tmp_path / "out" / "tokenizer")
    assert tokenizer.encode("<SEG><p></p>", add_special_tokens=False) == [420, 421, 422]
    XSam.load(tmp_path / "out", device="cpu").warm_up()


def test_a_bare_weight_file_needs_a_tokenizer(tmp_path: Path, small_full: list[bool]) -> None:
    file = tmp_path / "weights" / "pytorch_model.bin"
    file.parent.mkdir()
    torch.save(load_file(GOLDEN / "c" / "model.safetensors"), file)
    with pytest.raises(CheckpointError, match="no tokenizer next to the weights") as caught:
        convert.convert(file, tmp_path / "out")
    assert "microsoft/Phi-3-mini-4k-instruct" in caught.value.hint
    report = convert.convert(file, tmp_path / "out", tokenizer=base_tokenizer(tmp_path / "tokenizer"))
    assert report.added_tokens == SPECIAL_TOKENS


def test_the_current_layout_gets_the_current_configuration(tmp_path: Path, small_full: list[bool]) -> None:
    shutil.copy(GOLDEN / "a" / "model.safetensors", tmp_path)
    convert.convert(
        tmp_path / "model.safetensors", tmp_path / "out", tokenizer=base_tokenizer(tmp_path / "tokenizer")
    )
    assert small_full == [False]


def test_somebody_elses_config_json_is_not_ours(tmp_path: Path, small_full: list[bool]) -> None:
    source = as_bin("c", tmp_path / "published")
    (source / "config.json").write_text('{"model_type": "phi3"}')
    convert.convert(source, tmp_path / "out")
    assert small_full == [True]


def test_published_settings_are_compared(tmp_path: Path, small_full: list[bool]) -> None:
    source = download_folder(tmp_path / "download")
    (source / "Phi-3-mini-4k-instruct" / "config.json").write_text(
        '{"sliding_window": 99, "hidden_act": "silu"}'
    )
    siglip = source / "siglip2-so400m-patch14-384"
    siglip.mkdir()
    (siglip / "preprocessor_config.json").write_text('{"resample": 3}')
    notes = convert.convert(source, tmp_path / "out").notes
    assert [note for note in notes if "sliding_window" in note] == [
        "llm.sliding_window is 60, but 99 in the config.json of Phi-3-mini-4k-instruct"
    ]
    assert not any("hidden_act" in note for note in notes)
    assert XSamConfig.read(tmp_path / "out" / "config.json").vision_resample == "bicubic"


def test_the_compared_settings_exist() -> None:
    config = full_config()
    for compared in published.COMPARED_SETTINGS:
        assert all(hasattr(getattr(config, compared.our_section), key) for key in compared.keys)


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path, small_full: list[bool]) -> None:
    source = download_folder(tmp_path / "download")
    tokenizer = open_tokenizer(source / "Phi-3-mini-4k-instruct")
    tokenizer.add_tokens(["wrong"])
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(
        CheckpointError, match=r"has 424 tokens with <SEG>, <p>, </p> added, .* embedding 423 rows"
    ):
        convert.convert(source, tmp_path / "out", tokenizer=tmp_path / "tokenizer")
    assert nothing_left(tmp_path / "out")


def test_a_tokenizer_smaller_than_the_embedding_is_noted(tmp_path: Path, small_full: list[bool]) -> None:
    source = download_folder(tmp_path / "download")
    weights = next((source / "X-SAM" / "s3_mixed_finetune").rglob("pytorch_model.bin"))
    tensors = torch.load(weights, weights_only=True)
    for name in (EMBEDDING, "llm.lm_head.weight"):
        tensors[name] = torch.cat([tensors[name], torch.zeros(9, tensors[name].shape[1])])
    torch.save(tensors, weights)
    report = convert.convert(source, tmp_path / "out")
    assert report.vocab_size == 432
    assert "<SEG>, <p>, </p> became tokens 420 to 422, but the embedding has 432 rows" in report.notes[-1]


# -- refusals leave nothing behind


def _without_one(tensors: dict[str, Tensor]) -> None:
    del tensors["bg_embeds.weight"]


def _with_nan(tensors: dict[str, Tensor]) -> None:
    tensors["bg_embeds.weight"][0, 0] = float("nan")


def _with_other_layout(tensors: dict[str, Tensor]) -> None:
    tensors["segmentor.class_predictor.logit_scale"] = tensors.pop("segmentor.logit_scale")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without_one, "1 missing: bg_embeds.weight"),
        (_with_nan, "contain NaN or infinity: bg_embeds.weight"),
        (_with_other_layout, "mix names of the released and the current layout"),
    ],
)
def test_weights_are_checked_before_anything_is_written(
    released: Path, tmp_path: Path, spoil: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    tensors = torch.load(released / "pytorch_model.bin", weights_only=True)
    spoil(tensors)
    torch.save(tensors, released / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=message):
        convert.convert(released, tmp_path / "out")
    assert nothing_left(tmp_path / "out")


def test_a_full_disk_is_detected_first(
    released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000_000))
    with pytest.raises(CheckpointError, match=r"has 0\.0 GB free"):
        convert.convert(released, tmp_path / "out")
    assert nothing_left(tmp_path / "out")


def test_a_disk_that_fills_up_while_writing(
    released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(convert, "save_file", fill)
    with pytest.raises(CheckpointError, match=r"cannot write .*: No space left on device"):
        convert.convert(released, tmp_path / "out")
    assert nothing_left(tmp_path / "out")


def test_existing_files_are_not_overwritten(released: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InvalidOptionError, match="is not empty") as caught:
        convert.convert(released, out)
    assert "--force" in caught.value.hint
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
    with pytest.raises(InvalidOptionError, match="is a file"):
        convert.convert(released, out / "notes.txt")
    with pytest.raises(InvalidOptionError, match="is the folder of the input"):
        convert.convert(released, released, force=True)


def test_force_replaces_the_checkpoint_only(
    released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stale `model.safetensors` would win over new shards."""
    out = tmp_path / "out"
    convert.convert(as_bin("a", tmp_path / "other"), out)
    (out / "notes.txt").write_text("mine")
    monkeypatch.setattr(convert, "MAX_SHARD_BYTES", 1_000_000)
    report = convert.convert(released, out, force=True)
    assert report.layout == "released"
    assert not (out / "model.safetensors").exists()
    assert (out / "notes.txt").read_text() == "mine"
    bias = "bg_embeds.weight"
    shard = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"][bias]
    assert torch.equal(load_file(out / shard)[bias], load_file(GOLDEN / "c" / "model.safetensors")[bias])


def test_paths_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file or folder"):
        convert.convert(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(CheckpointError, match="no weights in"):
        convert.convert(tmp_path, tmp_path / "out")
    (tmp_path / "X-SAM" / "s3_mixed_finetune").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="no folders with weights below") as caught:
        convert.convert(tmp_path, tmp_path / "out")
    assert "xsam download" in caught.value.hint
