"""Convert published weights to a checkpoint folder that `XSam.load` opens.

Both published layouts become one: the names of `XSamModel`. Everything is checked on a model without memory
before a byte is written, and the output appears once it is complete. At most one shard is in memory, besides
what the operating system caches of the mapped input.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from xsam.config import ModelConfig
from xsam.errors import CheckpointError, InvalidOptionError
from xsam.model.x2sam import X2SamModel
from xsam.weights.checkpoint import (
    build_on_meta,
    find_weights,
    is_released_layout,
    load_weights,
    module_name,
    network_on_meta,
    read_tensors,
)
from xsam.weights.files import flush, set_card_aside, sha256_of_file
from xsam.weights.published import choose_config, choose_x2sam_config, prepare_tokenizer
from xsam.weights.releases import PHI3, QWEN3_VL, STAGE, X2SAM, X2SAM_STAGE, XSAM
from xsam.weights.tokenizer_files import load_tokenizer
from xsam.weights.x2sam import MergedTensors, is_lora_layout, is_x2sam_layout

MAX_SHARD_BYTES = 5_000_000_000
SPARE_DISK_BYTES = 200_000_000  # for tokenizer, configuration, and what other programs write meanwhile
DTYPES = {"keep": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_MAX_PARENTS = 4  # how many folders above the weights the other folders of the download are searched in


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionReport:
    """Summary of a conversion."""

    source: Path
    out: Path
    layout: Literal["released", "current"]  # of the input
    tensor_count: int
    parameter_count: int
    dtypes: Mapping[str, int]  # dtype of the output → number of tensors
    vocab_size: int  # rows of the embedding
    token_count: int  # of the tokenizer, including the added ones
    added_tokens: tuple[str, ...]
    sha256: Mapping[str, str]  # file, relative to `out` → hex digest
    size_bytes: int  # of all files
    notes: tuple[str, ...]  # anything unusual


def convert(
    source: Path,
    out: Path,
    *,
    tokenizer: Path | None = None,
    base: Path | None = None,
    dtype: str = "keep",
    force: bool = False,
) -> ConversionReport:
    """Convert weights of X-SAM or X2SAM, published or your own, to a checkpoint folder.

    Args:
        source: a folder with weights (and optionally `config.json` and `tokenizer/`), a weight file, or the
            folder written by `xsam download`. Without a `config.json` of X-SAM the weights are assumed to be
            full-size, with a vocabulary of as many tokens as the embedding has rows.
        out: folder to write: `config.json`, `model.safetensors` (several files with an index above
            5 GB) and `tokenizer/`.
        tokenizer: folder with `tokenizer.json`; None = the one next to the weights, else the base model's
            of the download. `<SEG>`, `<p>` and `</p>` are added in this order if they are missing.
        base: folder of the base model (Qwen3-VL-4B-Instruct), which released weights of X2SAM are merged
            into; None = the one of the download.
        dtype: "keep", "float32", "bfloat16" or "float16".
        force: replace the checkpoint files of a folder that is not empty; other files stay.

    Raises:
        CheckpointError: the input is incomplete, damaged or inconsistent, or the output cannot be written.
            Nothing is written then.
        InvalidOptionError: unknown `dtype`.
    """
    if dtype not in DTYPES:
        raise InvalidOptionError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    weights = _find_weights_folder(source)
    _check_output(out, weights, force=force)
    tensors = read_tensors(weights)
    folders = [folder for folder in (source, *_with_parents(weights)) if folder.is_dir()]
    prepare = _prepare_x2sam if is_x2sam_layout(tensors) else _prepare_xsam
    ready = prepare(tensors, weights, folders, tokenizer, base)
    with _write_errors(out):
        dtypes = _write_checkpoint(ready, out, target=DTYPES[dtype], force=force)
        files = sorted(path for path in _checkpoint_files(out) if path.is_file())
        digests = {path.relative_to(out).as_posix(): sha256_of_file(path) for path in files}
    return ConversionReport(
        source=source,
        out=out,
        layout=ready.layout,
        tensor_count=len(ready.stored),
        parameter_count=sum(tensor.numel() for tensor in ready.stored.values()),
        dtypes=dtypes,
        vocab_size=ready.vocab_size,
        token_count=len(ready.tokenizer),
        added_tokens=ready.added_tokens,
        sha256=digests,
        size_bytes=sum(path.stat().st_size for path in files),
        notes=tuple(ready.notes),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    """Everything that is written, checked against a network without memory."""

    config: ModelConfig
    tokenizer: Any
    added_tokens: tuple[str, ...]
    vocab_size: int
    layout: Literal["released", "current"]
    stored: Mapping[str, Tensor]  # by name in the network: shapes and dtypes to write
    tensors: Mapping[str, Tensor]  # the values; merged when they are asked for
    notes: list[str]


def _prepare_xsam(
    given: Mapping[str, Tensor], weights: Path, folders: list[Path], tokenizer: Path | None, base: Path | None
) -> _Ready:
    if base is not None:
        raise InvalidOptionError("weights of X-SAM have no base model", hint="leave --base out")
    layout = _detect_layout(given)
    tensors = _to_model_names(given)
    config, notes = choose_config(weights, tensors, folders, released=layout == "released")
    rows = config.llm.vocab_size
    prepared, added = prepare_tokenizer(tokenizer, folders, rows=rows, base=PHI3, notes=notes)
    model = build_on_meta(config)
    names = list(model.state_dict())
    load_weights(model, tensors)
    tensors = {name: tensors[name] for name in names if name in tensors}
    return _Ready(
        config=config,
        tokenizer=prepared,
        added_tokens=added,
        vocab_size=rows,
        layout=layout,
        stored=tensors,
        tensors=tensors,
        notes=notes,
    )


def _prepare_x2sam(
    given: Mapping[str, Tensor], weights: Path, folders: list[Path], tokenizer: Path | None, base: Path | None
) -> _Ready:
    released = is_lora_layout(given)
    config, scale, notes = choose_x2sam_config(weights, given, folders)
    if released and base is None:
        base = next((f / QWEN3_VL.folder for f in folders if (f / QWEN3_VL.folder).is_dir()), None)
    merged = MergedTensors(given, read_tensors(base) if base is not None else None, scale=scale)
    rows = config.vlm.text_config.vocab_size
    if base is not None:
        folders = [*folders, base.parent]
    prepared, added = prepare_tokenizer(
        tokenizer or _tokenizer_of(base, folders), folders, rows=rows, base=QWEN3_VL, notes=notes
    )
    model = network_on_meta(lambda: X2SamModel(config))
    load_weights(model, merged.stored)  # not merged: the updates do not change a shape
    return _Ready(
        config=config,
        tokenizer=prepared,
        added_tokens=added,
        vocab_size=rows,
        layout="released" if released else "current",
        stored=merged.stored,
        tensors=merged,
        notes=notes,
    )


def _tokenizer_of(base: Path | None, folders: list[Path]) -> Path | None:
    """Return the base model's folder if it has a tokenizer and there is none next to the weights."""
    beside = any((p / "tokenizer.json").is_file() for f in folders[:2] for p in (f / "tokenizer", f))
    return base if base is not None and not beside and (base / "tokenizer.json").is_file() else None


def _find_weights_folder(source: Path) -> Path:
    """Return the weight file or the folder that contains the weights, given the path from the user."""
    if not source.exists():
        raise CheckpointError(f"no such file or folder: {source}")
    stages = [source / XSAM.folder / STAGE, source / STAGE, source / X2SAM.folder / X2SAM_STAGE]
    stage = next((folder for folder in stages if folder.is_dir()), None)
    if stage is None:
        find_weights(source)
        return source
    found = sorted({path.parent for path in stage.rglob("*") if _is_weights(path)})
    if len(found) != 1:
        raise CheckpointError(
            f"{len(found) or 'no'} folders with weights below {stage}",
            hint="run `xsam download` again, or give the folder that contains the weights",
        )
    return found[0]


def _is_weights(path: Path) -> bool:
    return path.name.startswith(("pytorch_model.", "model.safetensors")) and path.is_file()


def _with_parents(weights: Path) -> list[Path]:
    """Return the folder of the weights and the folders that the rest of the download may be in."""
    folder = weights if weights.is_dir() else weights.parent
    return [folder, *list(folder.resolve().parents)[:_MAX_PARENTS]]


def _check_output(out: Path, weights: Path, *, force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise InvalidOptionError(f"{out} is a file", hint="give a folder to write to")
    if out.resolve() == (weights if weights.is_dir() else weights.parent).resolve():
        raise InvalidOptionError(f"{out} is the folder of the input", hint="give another folder to write to")
    if out.is_dir() and any(out.iterdir()) and not force:
        raise InvalidOptionError(
            f"{out} is not empty", hint="give a new folder, or --force to replace the checkpoint in it"
        )


def _detect_layout(names: Mapping[str, Tensor]) -> Literal["released", "current"]:
    released = is_released_layout(list(names))
    current = any(
        name.startswith("vision_encoder.") or name == "segmentor.class_predictor.logit_scale"
        for name in names
    )
    if released and current:
        raise CheckpointError(
            "the weights mix names of the released and the current layout",
            hint="the shards belong to different checkpoints; download them again into an empty folder",
        )
    return "released" if released else "current"


def _to_model_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {module_name(name): tensor for name, tensor in tensors.items()}
    if len(renamed) != len(tensors):
        raise CheckpointError(
            "two tensors of the file have one name in the model", hint="it mixes two layouts"
        )
    return renamed


def _write_checkpoint(ready: _Ready, out: Path, *, target: torch.dtype | None, force: bool) -> dict[str, int]:
    """Write everything to a temporary folder next to `out`, check it, and move it there.

    Returns:
        The number of tensors by dtype.
    """
    stored = ready.stored
    dtypes = {n: target if target and t.is_floating_point() else t.dtype for n, t in stored.items()}
    sizes = {name: tensor.numel() * dtypes[name].itemsize for name, tensor in stored.items()}
    parent = out.resolve().parent
    parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(parent).free
    if free < sum(sizes.values()) + SPARE_DISK_BYTES:
        raise CheckpointError(
            f"{parent} has {free / 1e9:.1f} GB free, the checkpoint takes {sum(sizes.values()) / 1e9:.1f} GB",
            hint="free some space or write to another disk; --dtype bfloat16 halves float32 weights",
        )
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=parent) as temporary:
        draft = Path(temporary)
        ready.config.write(draft / "config.json")
        ready.tokenizer.save_pretrained(draft / "tokenizer")
        _check_saved_tokenizer(ready.tokenizer, draft / "tokenizer")
        _write_weights(ready.tensors, dtypes, sizes, draft)
        out.mkdir(exist_ok=True)
        set_card_aside(out)
        if force:
            for old in _checkpoint_files(out):
                old.unlink()
        (out / "tokenizer").mkdir(exist_ok=True)
        for path in sorted(
            _checkpoint_files(draft), key=_is_weights
        ):  # weights last: they make it a checkpoint
            path.replace(out / path.relative_to(draft))
    return dict(Counter(str(dtype).removeprefix("torch.") for dtype in dtypes.values()))


def _checkpoint_files(folder: Path) -> list[Path]:
    """List the files of a folder that a conversion writes and replaces."""
    patterns = (
        "config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "model-*-of-*.safetensors",
    )
    return [p for pattern in (*patterns, "tokenizer/*") for p in folder.glob(pattern) if p.is_file()]


def _write_weights(
    tensors: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype], sizes: dict[str, int], folder: Path
) -> None:
    """Write safetensors in shards of at most `MAX_SHARD_BYTES`, and their index if there are several.

    Not with `save_torch_state_dict`: it drops tensors that share memory, and would need all of them converted
    at the same time.
    """
    split = split_state_dict_into_shards_factory(
        sizes,
        get_storage_size=int,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=MAX_SHARD_BYTES,
    )
    for file, names in split.filename_to_tensors.items():
        shard = {name: _convert_tensor(name, tensors[name], dtypes[name]) for name in names}
        save_file(shard, folder / file, metadata={"format": "pt"})
        # safetensors makes files readable by their owner only
        shutil.copymode(folder / "config.json", folder / file)
        flush(folder / file)
        del shard  # before the next one is converted
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(
            json.dumps(index, indent=2) + "\n", encoding="utf-8"
        )


def _convert_tensor(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a tensor to a dtype, contiguous and in memory of its own, as safetensors needs it."""
    value = tensor.to(dtype).contiguous()
    if value.dtype != tensor.dtype and not bool(torch.isfinite(value).all()):
        raise CheckpointError(
            f"{name} has values too large for {str(dtype).removeprefix('torch.')}", hint="use bfloat16"
        )
    copied = value.dtype != tensor.dtype or not tensor.is_contiguous()
    return value if copied else value.clone()


def _check_saved_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Raise an error unless a folder reads back as the same tokenizer."""
    again = load_tokenizer(folder)
    probe = "<|user|>\nPlease segment <p>the red mug</p> in this image.<|end|> It is <SEG>."
    if len(again) != len(tokenizer) or again.encode(probe) != tokenizer.encode(probe):
        raise CheckpointError(
            "the tokenizer changes when it is saved", hint="give its original folder with --tokenizer"
        )


@contextmanager
def _write_errors(out: Path) -> Iterator[None]:
    """Raise errors of the file system as `CheckpointError`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(
            f"cannot write {out}: {reason}", hint="check free space and permissions of the disk"
        ) from error
