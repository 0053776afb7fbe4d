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

from xsam.config import XSamConfig
from xsam.errors import CheckpointError, InvalidOptionError
from xsam.weights.checkpoint import (
    build_on_meta,
    find_weights,
    is_released_layout,
    load_tokenizer,
    load_weights,
    module_name,
    read_tensors,
)
from xsam.weights.download import STAGE, XSAM
from xsam.weights.files import flush, set_card_aside, sha256_of_file
from xsam.weights.published import choose_config, prepare_tokenizer

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
    source: Path, out: Path, *, tokenizer: Path | None = None, dtype: str = "keep", force: bool = False
) -> ConversionReport:
    """Convert weights in either layout, published or your own, to a checkpoint folder.

    Args:
        source: a folder with weights (and optionally `config.json` and `tokenizer/`), a weight file, or the
            folder written by `xsam download`. Without a `config.json` of X-SAM the weights are assumed to be
            full-size, with a vocabulary of as many tokens as the embedding has rows.
        out: folder to write: `config.json`, `model.safetensors` (several files with an index above
            5 GB) and `tokenizer/`.
        tokenizer: folder with `tokenizer.json`; None = the one next to the weights, else the Phi-3 one
            of the download. `<SEG>`, `<p>` and `</p>` are added in this order if they are missing.
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
    layout = _detect_layout(tensors)
    tensors = _to_model_names(tensors)
    folders = [folder for folder in (source, *_with_parents(weights)) if folder.is_dir()]
    config, notes = choose_config(weights, tensors, folders, released=layout == "released")
    prepared, added = prepare_tokenizer(tokenizer, folders, rows=config.llm.vocab_size, notes=notes)
    model = build_on_meta(config)
    names = list(model.state_dict())
    load_weights(model, tensors)
    tensors = {name: tensors[name] for name in names}
    del model
    with _write_errors(out):
        dtypes = _write_checkpoint(tensors, config, prepared, out, target=DTYPES[dtype], force=force)
        files = sorted(path for path in _checkpoint_files(out) if path.is_file())
        digests = {path.relative_to(out).as_posix(): sha256_of_file(path) for path in files}
    return ConversionReport(
        source=source,
        out=out,
        layout=layout,
        tensor_count=len(tensors),
        parameter_count=sum(tensor.numel() for tensor in tensors.values()),
        dtypes=dtypes,
        vocab_size=config.llm.vocab_size,
        token_count=len(prepared),
        added_tokens=added,
        sha256=digests,
        size_bytes=sum(path.stat().st_size for path in files),
        notes=tuple(notes),
    )


def _find_weights_folder(source: Path) -> Path:
    """Return the weight file or the folder that contains the weights, given the path from the user."""
    if not source.exists():
        raise CheckpointError(f"no such file or folder: {source}")
    stages = [source / XSAM.folder / STAGE, source / STAGE]
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
        raise CheckpointError(f"{out} is a file", hint="give a folder to write to")
    if out.resolve() == (weights if weights.is_dir() else weights.parent).resolve():
        raise CheckpointError(f"{out} is the folder of the input", hint="give another folder to write to")
    if out.is_dir() and any(out.iterdir()) and not force:
        raise CheckpointError(
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


def _write_checkpoint(
    tensors: Mapping[str, Tensor],
    config: XSamConfig,
    tokenizer: Any,
    out: Path,
    *,
    target: torch.dtype | None,
    force: bool,
) -> dict[str, int]:
    """Write everything to a temporary folder next to `out`, check it, and move it there.

    Returns:
        The number of tensors by dtype.
    """
    dtypes = {n: target if target and t.is_floating_point() else t.dtype for n, t in tensors.items()}
    sizes = {name: tensor.numel() * dtypes[name].itemsize for name, tensor in tensors.items()}
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
        config.write(draft / "config.json")
        tokenizer.save_pretrained(draft / "tokenizer")
        _check_saved_tokenizer(tokenizer, draft / "tokenizer")
        _write_weights(tensors, dtypes, sizes, draft)
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
