"""Turn published weights into a checkpoint folder that `XSam.load` opens.

Both published layouts become one: the names of `XSamModel`. Everything is checked on a model without
memory before a byte is written, the output appears only when it is complete, and at most one shard is
held in memory besides what the operating system keeps of the mapped input.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from xsam.config import SPECIAL_TOKENS, XSamConfig, full_config
from xsam.errors import CheckpointError
from xsam.model.xsam import XSamModel
from xsam.weights.checkpoint import (
    find_weights,
    is_released_layout,
    load_tokenizer,
    load_weights,
    module_name,
    open_tokenizer,
    read_tensors,
    sha256,
)
from xsam.weights.download import MASK2FORMER, PHI3, SAM, SIGLIP, STAGE, XSAM

MAX_SHARD_BYTES = 5_000_000_000
SPARE_DISK_BYTES = 200_000_000  # tokenizer, configuration, and what other programs write meanwhile
DTYPES = {"keep": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_EMBEDDING = "llm.model.embed_tokens.weight"
_SECTIONS = ("llm", "vision_encoder", "sam", "mask2former", "xsam")
_RESAMPLE: dict[Any, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_ANCESTORS = 4  # how far above the weights the download's other folders may lie

# Numbers that change the answer but no tensor's shape, so that strict loading cannot see them:
# folder of the download, section of its config.json, our section, keys.
_UNSEEN: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    (PHI3.folder, "", "llm", ("sliding_window", "num_attention_heads", "rms_norm_eps", "hidden_act")),
    (
        SIGLIP.folder,
        "vision_config",
        "vision_encoder",
        ("num_attention_heads", "layer_norm_eps", "hidden_act"),
    ),
    (
        SAM.folder,
        "vision_config",
        "sam",
        ("num_attention_heads", "layer_norm_eps", "hidden_act", "window_size", "global_attn_indexes"),
    ),
    (MASK2FORMER.folder, "", "mask2former", ("num_attention_heads", "activation_function", "pre_norm")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionReport:
    """What was read and written."""

    source: Path
    out: Path
    layout: Literal["released", "current"]  # of the input
    tensor_count: int
    parameter_count: int
    dtypes: Mapping[str, int]  # dtype of the output → number of tensors
    vocab_size: int  # rows of the embedding
    token_count: int  # of the tokenizer, the added ones included
    added_tokens: tuple[str, ...]
    sha256: Mapping[str, str]  # file, relative to `out` → hex digest
    size_bytes: int  # of all files
    notes: tuple[str, ...]  # what a reader should know; empty = nothing unusual


def convert(
    source: Path, out: Path, *, tokenizer: Path | None = None, dtype: str = "keep", force: bool = False
) -> ConversionReport:
    """Read published or own weights in either layout and write a checkpoint folder.

    Args:
        source: a folder with weights (and, if there are any, `config.json` and `tokenizer/`), a weight
            file, or the folder of `xsam download`. Without our `config.json` the weights are taken
            for full-size ones, with as many words as the embedding has rows.
        out: folder to write: `config.json`, `model.safetensors` (several files with an index above
            5 GB) and `tokenizer/`.
        tokenizer: folder with `tokenizer.json`; None = the one beside the weights, else the Phi-3 one
            of the download. `<SEG>`, `<p>` and `</p>` are added in this order if they are missing.
        dtype: "keep", "float32", "bfloat16" or "float16".
        force: replace the checkpoint files of a folder that is not empty; other files stay.

    Raises:
        CheckpointError: the input is incomplete, damaged or does not fit together, or the output
            cannot be written. Nothing is written then.
        ValueError: unknown `dtype`.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    weights = _locate(source)
    _check_out(out, weights, force=force)
    tensors = read_tensors(weights)
    layout = _layout(tensors)
    tensors = _renamed(tensors)
    folders = [folder for folder in (source, *_with_ancestors(weights)) if folder.is_dir()]
    config, notes = _config(weights, tensors, folders, released=layout == "released")
    words, added = _tokenizer(tokenizer, folders, rows=config.llm.vocab_size, notes=notes)
    with torch.device("meta"):
        model = XSamModel(config)
    names = list(model.state_dict())
    load_weights(model, tensors)
    tensors = {name: tensors[name] for name in names}
    del model
    with _write_errors(out):
        dtypes = _write(tensors, config, words, out, target=DTYPES[dtype], force=force)
        files = sorted(path for path in _own_files(out) if path.is_file())
        digests = {path.relative_to(out).as_posix(): sha256(path) for path in files}
    return ConversionReport(
        source=source,
        out=out,
        layout=layout,
        tensor_count=len(tensors),
        parameter_count=sum(tensor.numel() for tensor in tensors.values()),
        dtypes=dtypes,
        vocab_size=config.llm.vocab_size,
        token_count=len(words),
        added_tokens=added,
        sha256=digests,
        size_bytes=sum(path.stat().st_size for path in files),
        notes=tuple(notes),
    )


def _locate(source: Path) -> Path:
    """The weight file, or the folder that holds the weights, behind what the user named."""
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
            hint="run `xsam download` again, or name the folder that holds the weights",
        )
    return found[0]


def _is_weights(path: Path) -> bool:
    return path.name.startswith(("pytorch_model.", "model.safetensors")) and path.is_file()


def _with_ancestors(weights: Path) -> list[Path]:
    folder = weights if weights.is_dir() else weights.parent
    return [folder, *list(folder.resolve().parents)[:_ANCESTORS]]


def _check_out(out: Path, weights: Path, *, force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise CheckpointError(f"{out} is a file", hint="name a folder to write to")
    if out.resolve() == (weights if weights.is_dir() else weights.parent).resolve():
        raise CheckpointError(f"{out} is the folder of the input", hint="name another folder to write to")
    if out.is_dir() and any(out.iterdir()) and not force:
        raise CheckpointError(f"{out} is not empty", hint="name a new folder, or give --force to replace it")


def _layout(names: Mapping[str, Tensor]) -> Literal["released", "current"]:
    released = is_released_layout(list(names))
    current = any(
        name.startswith("vision_encoder.") or name == "segmentor.class_predictor.logit_scale"
        for name in names
    )
    if released and current:
        raise CheckpointError(
            "the weights mix names of the released and of the current layout",
            hint="the shards belong to different checkpoints; download them again into an empty folder",
        )
    return "released" if released else "current"


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {module_name(name): tensor for name, tensor in tensors.items()}
    if len(renamed) != len(tensors):
        raise CheckpointError("two tensors of the file have the same meaning", hint="it mixes two layouts")
    return renamed


def _config(
    weights: Path, tensors: Mapping[str, Tensor], folders: Sequence[Path], *, released: bool
) -> tuple[XSamConfig, list[str]]:
    """Our own config.json beside the weights, else the full-size configuration, and remarks."""
    path = (weights if weights.is_dir() else weights.parent) / "config.json"
    content = _json(path)
    if content is not None and any(key in content for key in _SECTIONS):
        return XSamConfig.read(path), []
    config = full_config(released=released)
    notes = [f"no config.json of X-SAM beside the weights: taken for the full-size model, {_words(released)}"]
    if _EMBEDDING in tensors:
        config.llm.vocab_size = int(tensors[_EMBEDDING].shape[0])
    processor = _published(folders, SIGLIP.folder, "preprocessor_config.json").get("resample")
    if processor in _RESAMPLE:
        config = replace(config, vision_resample=_RESAMPLE[processor])
    for folder, section, ours, keys in _UNSEEN:
        published = _published(folders, folder, "config.json")
        published = published.get(section, {}) if section else published
        for key in keys:
            expected = getattr(getattr(config, ours), key)
            if key in published and published[key] != expected:
                notes.append(
                    f"{ours}.{key} is {expected!r}, in the config.json of {folder} {published[key]!r}"
                )
    return config, notes


def _words(released: bool) -> str:
    return "released layout (1 token a region)" if released else "current layout (64 tokens a region)"


def _published(folders: Sequence[Path], name: str, file: str) -> dict[str, Any]:
    """Content of a small file of the download; empty when it is not there."""
    contents = (_json(folder / name / file) for folder in folders)
    return next((content for content in contents if content is not None), {})


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    return content if isinstance(content, dict) else None


def _tokenizer(
    given: Path | None, folders: Sequence[Path], *, rows: int, notes: list[str]
) -> tuple[Any, tuple[str, ...]]:
    """The tokenizer with X-SAM's three tokens, and which of them had to be added."""
    candidates = [path for folder in folders[:2] for path in (folder / "tokenizer", folder)]
    candidates += [folder / PHI3.folder for folder in folders]
    found = next((path for path in candidates if (path / "tokenizer.json").is_file()), None)
    place = given or found
    if place is None:
        raise CheckpointError(
            "there is no tokenizer beside the weights",
            hint=f"give --tokenizer a folder with the tokenizer files of {PHI3.repo_id}",
        )
    words = open_tokenizer(place)
    unknown = (None, words.unk_token_id)
    missing = tuple(token for token in SPECIAL_TOKENS if words.convert_tokens_to_ids(token) in unknown)
    words.add_tokens(list(missing), special_tokens=True)
    if len(words) > rows:
        extra = f" with {', '.join(missing)} added" if missing else ""
        raise CheckpointError(
            f"the tokenizer in {place} has {len(words)} tokens{extra}, the weights' embedding {rows} rows",
            hint="the tokenizer belongs to another model; give the right one with --tokenizer",
        )
    if missing and len(words) < rows:
        notes.append(
            f"{', '.join(missing)} became tokens {len(words) - len(missing)} to {len(words) - 1}, but the"
            f" embedding has {rows} rows; if the answers make no sense, this is not the training's tokenizer"
        )
    return words, missing


def _write(
    tensors: Mapping[str, Tensor],
    config: XSamConfig,
    words: Any,
    out: Path,
    *,
    target: torch.dtype | None,
    force: bool,
) -> dict[str, int]:
    """Write everything beside the target, check it, and move it there; number of tensors by dtype."""
    kinds = {n: target if target and t.is_floating_point() else t.dtype for n, t in tensors.items()}
    sizes = {name: tensor.numel() * kinds[name].itemsize for name, tensor in tensors.items()}
    home = out.resolve().parent
    home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(home).free
    if free < sum(sizes.values()) + SPARE_DISK_BYTES:
        raise CheckpointError(
            f"{home} has {free / 1e9:.1f} GB free, the checkpoint takes {sum(sizes.values()) / 1e9:.1f} GB",
            hint="free some space or write to another disk; --dtype bfloat16 halves float32 weights",
        )
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=home) as temporary:
        draft = Path(temporary)
        config.write(draft / "config.json")
        words.save_pretrained(draft / "tokenizer")
        _check_tokenizer(words, draft / "tokenizer")
        _write_shards(tensors, kinds, _shards(sizes), draft)
        out.mkdir(exist_ok=True)
        if force:
            for old in _own_files(out):
                old.unlink()
        (out / "tokenizer").mkdir(exist_ok=True)
        for path in sorted(_own_files(draft), key=_is_weights):  # what makes it a checkpoint comes last
            path.replace(out / path.relative_to(draft))
    return dict(Counter(str(kind).removeprefix("torch.") for kind in kinds.values()))


def _own_files(folder: Path) -> list[Path]:
    """Files of a checkpoint folder that a conversion writes and replaces."""
    patterns = (
        "config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "model-*-of-*.safetensors",
    )
    return [p for pattern in (*patterns, "tokenizer/*") for p in folder.glob(pattern) if p.is_file()]


def _shards(sizes: Mapping[str, int]) -> list[list[str]]:
    """Names in order, cut into groups of at most `MAX_SHARD_BYTES`; a larger tensor is alone."""
    groups: list[list[str]] = [[]]
    used = 0
    for name, size in sizes.items():
        if groups[-1] and used + size > MAX_SHARD_BYTES:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += size
    return groups


def _write_shards(
    tensors: Mapping[str, Tensor], kinds: Mapping[str, torch.dtype], groups: list[list[str]], folder: Path
) -> None:
    places: dict[str, str] = {}
    total = 0
    for number, names in enumerate(groups, start=1):
        file = (
            "model.safetensors" if len(groups) == 1 else f"model-{number:05}-of-{len(groups):05}.safetensors"
        )
        ready = {name: _ready(name, tensors[name], kinds[name]) for name in names}
        save_file(ready, folder / file, metadata={"format": "pt"})
        shutil.copymode(folder / "config.json", folder / file)  # safetensors keeps others from reading it
        total += sum(tensor.nbytes for tensor in ready.values())
        del ready  # before the next shard is made
        places.update(dict.fromkeys(names, file))
    if len(groups) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(
            json.dumps(index, indent=2) + "\n", encoding="utf-8"
        )


def _ready(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor as safetensors wants it: its own memory, without gaps."""
    value = tensor.to(dtype).contiguous()
    if value.dtype != tensor.dtype and not bool(torch.isfinite(value).all()):
        raise CheckpointError(
            f"{name} does not fit into {str(dtype).removeprefix('torch.')}", hint="use bfloat16"
        )
    alone = value.dtype != tensor.dtype or not tensor.is_contiguous()
    return value if alone else value.clone()


def _check_tokenizer(words: Any, folder: Path) -> None:
    """What was written must read back as the same tokenizer."""
    again = load_tokenizer(folder)
    probe = "<|user|>\nPlease segment <p>the red mug</p> in this image.<|end|> It is <SEG>."
    if len(again) != len(words) or again.encode(probe) != words.encode(probe):
        raise CheckpointError(
            "the tokenizer changes when it is saved", hint="give its original folder with --tokenizer"
        )


@contextmanager
def _write_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(
            f"cannot write {out}: {reason}", hint="check free space and permissions of the disk"
        ) from error
