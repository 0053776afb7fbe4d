"""Configuration and tokenizer for published weights, which come without a `config.json` of X-SAM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from PIL.Image import Resampling
from torch import Tensor

from xsam.config import SPECIAL_TOKENS, X2SamConfig, XSamConfig, full_config
from xsam.config.json_files import read_json
from xsam.config.presets import full_x2sam_config
from xsam.config.schema import misfits
from xsam.config.x2sam_schema import x2sam_misfits
from xsam.errors import CheckpointError
from xsam.weights.releases import MASK2FORMER, PHI3, QWEN3_VL, SAM, SAM2, SIGLIP, HubRepository
from xsam.weights.tokenizer_files import open_tokenizer
from xsam.weights.x2sam import LORA_SCALE, module_name

_EMBEDDING = "llm.model.embed_tokens.weight"
_X2SAM_EMBEDDING = "vlm.model.language_model.embed_tokens.weight"
_SECTIONS = ("llm", "vision_encoder", "sam", "mask2former", "xsam")
_RESAMPLE: dict[Any, Literal["bilinear", "bicubic"]] = {
    Resampling.BILINEAR: "bilinear",
    Resampling.BICUBIC: "bicubic",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedSettings:
    """Settings that the config.json of a published model must share with ours."""

    folder: str  # of the download
    section: str  # of its config.json; empty = top level
    our_section: str
    keys: tuple[str, ...]


# Settings that change results but not the shape of any tensor, so that strict loading cannot detect them.
COMPARED_SETTINGS = (
    ComparedSettings(
        folder=PHI3.folder,
        section="",
        our_section="llm",
        keys=("sliding_window", "num_attention_heads", "rms_norm_eps", "hidden_act"),
    ),
    ComparedSettings(
        folder=SIGLIP.folder,
        section="vision_config",
        our_section="vision_encoder",
        keys=("num_attention_heads", "layer_norm_eps", "hidden_act"),
    ),
    ComparedSettings(
        folder=SAM.folder,
        section="vision_config",
        our_section="sam",
        keys=("num_attention_heads", "layer_norm_eps", "hidden_act", "window_size", "global_attn_indexes"),
    ),
    ComparedSettings(
        folder=MASK2FORMER.folder,
        section="",
        our_section="mask2former",
        keys=("num_attention_heads", "activation_function", "pre_norm"),
    ),
)


def choose_config(
    weights: Path, tensors: Mapping[str, Tensor], folders: Sequence[Path], *, released: bool
) -> tuple[XSamConfig, list[str]]:
    """Read X-SAM's config.json next to the weights, or choose the full-size configuration.

    Returns:
        The configuration, and notes on anything unusual.
    """
    path = (weights if weights.is_dir() else weights.parent) / "config.json"
    content = _read_json(path)
    if content is not None and any(key in content for key in _SECTIONS):
        return XSamConfig.read(path), []
    config = full_config(released=released)
    layout = "released layout (1 token a region)" if released else "current layout (64 tokens a region)"
    notes = [f"no config.json of X-SAM next to the weights: assumed to be the full-size model, {layout}"]
    if _EMBEDDING in tensors:
        config.llm.vocab_size = int(tensors[_EMBEDDING].shape[0])
    processor = _read_published(folders, SIGLIP.folder, "preprocessor_config.json").get("resample")
    if processor in _RESAMPLE:
        config = replace(config, vision_resample=_RESAMPLE[processor])
    for compared in COMPARED_SETTINGS:
        published = _read_published(folders, compared.folder, "config.json")
        published = published.get(compared.section, {}) if compared.section else published
        for key in compared.keys:
            ours = getattr(getattr(config, compared.our_section), key)
            if key in published and published[key] != ours:
                notes.append(
                    f"{compared.our_section}.{key} is {ours!r}, but {published[key]!r} in the config.json of"
                    f" {compared.folder}"
                )
    if problems := misfits(config):
        raise CheckpointError(
            f"the weights do not fit the full-size model: {'; '.join(problems)}",
            hint="weights of another size need their config.json of X-SAM beside them",
        )
    return config, notes


def choose_x2sam_config(
    weights: Path, tensors: Mapping[str, Tensor], folders: Sequence[Path]
) -> tuple[X2SamConfig, float, list[str]]:
    """Read X2SAM's config.json next to the weights, or choose the full-size configuration.

    Returns:
        The configuration, alpha / r of the low-rank updates, and notes on anything unusual.
    """
    path = (weights if weights.is_dir() else weights.parent) / "config.json"
    content = _read_json(path)
    if content is not None and "vlm" in content:
        lora = content.get("x2sam", {}).get("lora") if isinstance(content.get("x2sam"), dict) else None
        scale = LORA_SCALE
        if isinstance(lora, dict):
            try:
                scale = float(lora["lora_alpha"]) / float(lora["r"])
            except (KeyError, TypeError, ValueError, ZeroDivisionError):
                raise CheckpointError(f"{path}: x2sam.lora needs the numbers lora_alpha and r") from None
        return X2SamConfig.read(path), scale, []
    config = full_x2sam_config()
    notes = ["no config.json of X2SAM next to the weights: assumed to be the full-size model"]
    rows = next((len(t) for n, t in tensors.items() if module_name(n) == _X2SAM_EMBEDDING), None)
    if rows is not None:
        config.vlm.text_config.vocab_size = rows
    size = _read_published(folders, SAM2.folder, "preprocessor_config.json").get("size")
    if isinstance(size, dict) and "longest_edge" in size:
        config = replace(config, pixels=replace(config.pixels, squash=False))
    video = _read_published(folders, QWEN3_VL.folder, "video_preprocessor_config.json").get("size")
    if isinstance(video, dict) and {"shortest_edge", "longest_edge"} <= video.keys():
        bounds = (int(video["shortest_edge"]), int(video["longest_edge"]))
        config = replace(config, pixels=replace(config.pixels, video_pixels=bounds))
    if problems := x2sam_misfits(config):
        raise CheckpointError(
            f"the weights do not fit the full-size model: {'; '.join(problems)}",
            hint="weights of another size need their config.json of X2SAM beside them",
        )
    return config, LORA_SCALE, notes


def _read_published(folders: Sequence[Path], name: str, file: str) -> dict[str, Any]:
    """Read a small JSON file of the download; return {} if it is missing."""
    contents = (_read_json(folder / name / file) for folder in folders)
    return next((content for content in contents if content is not None), {})


def _read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; return None if the file is missing or contains something else."""
    if not path.is_file():
        return None
    content = read_json(path)
    return content if isinstance(content, dict) else None


def prepare_tokenizer(
    given: Path | None,
    folders: Sequence[Path],
    *,
    rows: int,
    notes: list[str],
    base: HubRepository,
) -> tuple[Any, tuple[str, ...]]:
    """Open the tokenizer and add X-SAM's three tokens.

    Returns:
        The tokenizer, and the tokens that it did not have.
    """
    candidates = [path for folder in folders[:2] for path in (folder / "tokenizer", folder)]
    candidates += [folder / base.folder for folder in folders]
    found = next((path for path in candidates if (path / "tokenizer.json").is_file()), None)
    folder = given or found
    if folder is None:
        raise CheckpointError(
            "there is no tokenizer next to the weights",
            hint=f"give --tokenizer a folder with the tokenizer files of {base.repo_id}",
        )
    tokenizer = open_tokenizer(folder)
    unknown = (None, tokenizer.unk_token_id)
    missing = tuple(token for token in SPECIAL_TOKENS if tokenizer.convert_tokens_to_ids(token) in unknown)
    tokenizer.add_tokens(list(missing), special_tokens=True)
    count = len(tokenizer)
    if count > rows:
        extra = f" with {', '.join(missing)} added" if missing else ""
        raise CheckpointError(
            f"the tokenizer in {folder} has {count} tokens{extra}, the weights' embedding {rows} rows",
            hint="the tokenizer belongs to another model; give the right one with --tokenizer",
        )
    if missing and count < rows:
        notes.append(
            f"{', '.join(missing)} became tokens {count - len(missing)} to {count - 1}, but the embedding has"
            f" {rows} rows; if results make no sense, this is not the tokenizer of the training"
        )
    return tokenizer, missing
