"""Weight files as people have them: found in a folder, recognized by their first bytes, read without code.

Training frameworks wrap the tensors (`state_dict`, `module`) and their names (`module.` of DDP); browsers and
Git save pages and pointers under the name of a weight file. What a file is follows from its content, not from
its name.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from xsam.errors import CheckpointError
from xsam.weights.files import check_card

_WEIGHT_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt")
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)")
_NOT_WEIGHTS = ("optim", "scheduler", "training_args", "rng_state", "random_states", "scaler")
_ZERO_STATES = "mp_rank_00_model_states.pt"
_WRAPPERS = ("state_dict", "model_state_dict", "module", "model")
_NAME_PREFIXES = ("module.", "_forward_module.", "_orig_mod.", "model.")
_MAX_NAMES_SHOWN = 10
_MAX_SAFETENSORS_HEADER = 100_000_000

_DOWNLOAD_AGAIN = "download it again, and compare its sha256"
_UNPACK = "unpack it, and give the files inside"
# First bytes, in lower case → what the file is, and what to do.
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (
        b"version https://git-lfs",
        "is a Git LFS pointer, not the weights",
        "fetch the file itself: git lfs pull",
    ),
    (b"<!doctype html", "is an HTML page", "the server sent a page (a login, an error) instead of the file"),
    (b"<html", "is an HTML page", "the server sent a page (a login, an error) instead of the file"),
    (b"<?xml", "is an XML document", "the server sent an error message instead of the file"),
    (b"{", "is a JSON text", "the server sent a message instead of the file, or this is another file"),
    (b"\x1f\x8b", "is a gzip archive", _UNPACK),
    (b"bzh", "is a bzip2 archive", _UNPACK),
    (b"\xfd7zxz", "is an xz archive", _UNPACK),
    (b"7z\xbc\xaf", "is a 7-Zip archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "is a Zstandard archive", _UNPACK),
    (b"gguf", "is a GGUF file", "X-SAM needs the original weights (safetensors or PyTorch)"),
    (b"\x89hdf", "is an HDF5 file", "X-SAM needs the original weights (safetensors or PyTorch)"),
)


class _Inert:
    """Stand-in for an object of a training framework beside the tensors: it does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def _log_classes() -> list[Any]:
    """Return what MMEngine needs for its log, which it writes beside the tensors and nothing here uses."""
    functions: Any = (np._core if hasattr(np, "_core") else np.core).multiarray
    named = [
        (_Inert, "mmengine.logging.history_buffer.HistoryBuffer"),
        (np.ndarray, "numpy.ndarray"),
        (np.dtype, "numpy.dtype"),
    ]
    for function in ("_reconstruct", "scalar"):
        named += [
            (getattr(functions, function), f"{module}.multiarray.{function}")
            for module in ("numpy.core", "numpy._core")
        ]
    kinds = ("Float64DType", "Float32DType", "Int64DType", "Int32DType", "BoolDType")
    return [*named, *(getattr(np.dtypes, kind) for kind in kinds if hasattr(np, "dtypes"))]


def find_weights(path: Path) -> list[Path]:
    """Return the weight files that a folder, an index or a weight file stands for, in order.

    In a folder these are, in this order: the usual names; shards without an index; the states of DeepSpeed
    (ZeRO stage 1 or 2), also in the folder that `latest` names; the file that `last_checkpoint` of MMEngine
    names; a single weight file of any name.

    Raises:
        CheckpointError: there are none, there are several to choose from, or a shard is missing.
    """
    if path.is_dir():
        found = next((path / name for name in _WEIGHT_NAMES if (path / name).is_file()), None)
        if found is None:
            return _find_unusual(path)
        path = found
    if not path.is_file():
        raise CheckpointError(f"no such file: {path}")
    if not path.name.endswith(".index.json"):
        return [path]
    try:
        shards = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a valid index: {error}") from error
    for shard in shards:
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise CheckpointError(f"{path} lists a shard outside its folder: {shard!r}")
    missing = [shard for shard in shards if not (path.parent / shard).is_file()]
    if missing:
        raise CheckpointError(
            f"{len(missing)} shard(s) listed in {path.name} are missing: {shortened(missing)}",
            hint="download the checkpoint again: it resumes",
        )
    return [path.parent / shard for shard in shards]


def _find_unusual(folder: Path) -> list[Path]:
    """Find weights under the names that training frameworks give them."""
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and p.suffix in _SUFFIXES)
    names = [name for name in names if not any(part in name.lower() for part in _NOT_WEIGHTS)]
    shards = [match for name in names if (match := _SHARD.fullmatch(name))]
    if shards:
        return _complete_shards(folder, shards)
    states = [name for name in names if name.endswith("model_states.pt")]
    if states == [_ZERO_STATES]:
        return [folder / _ZERO_STATES]
    if states:
        raise CheckpointError(
            f"{folder} has weights that DeepSpeed divided among {len(states)} files: {shortened(states)}",
            hint=f"join them with the script in the folder: python zero_to_fp32.py {folder} OUT",
        )
    for pointer in ("latest", "last_checkpoint"):
        if (folder / pointer).is_file():
            name = Path((folder / pointer).read_text(encoding="utf-8", errors="replace")[:4096].strip()).name
            if name and (folder / name).is_dir():
                return find_weights(folder / name)
            if name in names:
                return [folder / name]
    if len(names) == 1:
        return [folder / names[0]]
    if names:
        raise CheckpointError(
            f"{folder} has {len(names)} files that may be the weights: {shortened(names)}",
            hint="give the path of one of them",
        )
    raise CheckpointError(f"no weights in {folder}", hint=f"expected one of {', '.join(_WEIGHT_NAMES)}")


def _complete_shards(folder: Path, shards: Sequence[re.Match[str]]) -> list[Path]:
    """Return the shards of a folder without an index, if none of them is missing."""
    sets = {(match["stem"], match["count"], match["suffix"]) for match in shards}
    if len(sets) > 1:
        raise CheckpointError(
            f"{folder} has shards of {len(sets)} checkpoints and no index: "
            f"{shortened([match[0] for match in shards])}",
            hint="keep those of one checkpoint in the folder",
        )
    stem, count, suffix = next(iter(sets))
    wanted = [f"{stem}-{number:05d}-of-{count}{suffix}" for number in range(1, int(count) + 1)]
    present = {match[0] for match in shards}
    missing = [name for name in wanted if name not in present]
    if missing:
        raise CheckpointError(
            f"{len(missing)} shard(s) of {int(count)} are missing: {shortened(missing)}",
            hint="download the checkpoint again: it resumes",
        )
    return [folder / name for name in wanted]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file or folder to the CPU.

    Returns:
        Name in the file → tensor, without the prefix that a wrapper such as DDP gave to all names.

    Raises:
        CheckpointError: a file is damaged, is not the one that the model card names, contains anything but
            tensors, or repeats a name.
    """
    tensors: dict[str, Tensor] = {}
    for file in find_weights(path):
        check_card(file)
        part = _unwrapped(_read_file(file))
        if not isinstance(part, Mapping):
            raise CheckpointError(f"{file} contains a {type(part).__name__} instead of named tensors")
        invalid = [str(k) for k, v in part.items() if not isinstance(v, Tensor) or not isinstance(k, str)]
        if invalid:
            raise CheckpointError(f"{file} contains entries that are not named tensors: {shortened(invalid)}")
        repeated = sorted(tensors.keys() & part.keys())
        if repeated:
            raise CheckpointError(f"{file} repeats tensors of another shard: {shortened(repeated)}")
        tensors.update(part)
    return _without_prefix(tensors)


def _unwrapped(content: Any) -> Any:
    """Return the tensors of what a training framework saves: beside them there are counters and settings."""
    if not isinstance(content, Mapping) or any(isinstance(value, Tensor) for value in content.values()):
        return content
    return next((content[key] for key in _WRAPPERS if key in content), content)


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes that wrappers of a model put before all names."""
    while tensors:
        prefix = next((p for p in _NAME_PREFIXES if all(name.startswith(p) for name in tensors)), None)
        if prefix is None:
            break
        tensors = {name[len(prefix) :]: tensor for name, tensor in tensors.items()}
    return tensors


def _read_file(file: Path) -> Any:
    """Read one weight file, which may contain nothing but tensors in plain containers."""
    try:
        with file.open("rb") as stream:
            first = stream.read(512)
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror or error}") from error
    refuse_other_content(file, first)
    try:
        if _is_safetensors(first) or (file.suffix == ".safetensors" and not first.startswith(b"PK")):
            return load_file(file)
        with torch.serialization.safe_globals(_log_classes()):
            # Files written before torch 1.6 are not zip archives and cannot be mapped into memory.
            if zipfile.is_zipfile(file) and file.suffix != ".safetensors":
                return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            with file.open("rb") as stream:  # PyTorch takes the name at its word
                return torch.load(stream, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        raise CheckpointError(
            f"{file} is damaged or not a weight file: {one_line(error)}", hint=_DOWNLOAD_AGAIN
        ) from error
    except Exception as error:  # torch raises pickle.UnpicklingError for forbidden content
        # Its own message recommends switching the protection off.
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named is None and not first.startswith((b"PK", b"\x80")):
            raise CheckpointError(f"{file} is not a weight file", hint=_DOWNLOAD_AGAIN) from error
        raise CheckpointError(
            f"{file} contains more than tensors and is not loaded{f': {named[1]}' if named else ''}",
            hint="it may run code when it is unpickled; get the weights from a source you trust",
        ) from error


def refuse_other_content(file: Path, first: bytes) -> None:
    """Raise an error if the first bytes of a file are those of something that people take for weights.

    Raises:
        CheckpointError: the file is empty, a web page, a pointer, an archive, …; the message names it.
    """
    if not first:
        raise CheckpointError(f"{file} is damaged: it is empty", hint=_DOWNLOAD_AGAIN)
    if not first.strip(b"\0"):
        raise CheckpointError(f"{file} is damaged: it begins with zeros only", hint=_DOWNLOAD_AGAIN)
    start = first.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for signature, what, hint in _SIGNATURES:
        if start.startswith(signature):
            raise CheckpointError(f"{file} {what}", hint=hint)


def _is_safetensors(first: bytes) -> bool:
    """Tell whether a file begins like a safetensors file: the length of a JSON header, and the header."""
    return (
        len(first) > 8
        and first[8:9] == b"{"
        and 2 <= int.from_bytes(first[:8], "little") <= _MAX_SAFETENSORS_HEADER
    )


def shortened(names: Sequence[str]) -> str:
    """Join the first names and count the rest."""
    more = f" … and {len(names) - _MAX_NAMES_SHOWN} more" if len(names) > _MAX_NAMES_SHOWN else ""
    return ", ".join(names[:_MAX_NAMES_SHOWN]) + more


def one_line(error: Exception) -> str:
    """Return the first line of an error's text, or the name of its type."""
    return next(iter(str(error).splitlines()), type(error).__name__)
