"""Checkpoints with random weights, in the layouts of `xsam convert` and of the published files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors.torch import save_file
from torch import Tensor, nn

from xsam.config import ModelConfig, X2SamConfig, XSamConfig
from xsam.inference.chat_format import X2SAM_CHAT
from xsam.model.x2sam import X2SamModel
from xsam.model.xsam import XSamModel
from xsam.train.tokenizer import build_tiny_tokenizer
from xsam.weights.checkpoint import build_on_meta, fill_network
from xsam.weights.releases import QWEN3_VL, X2SAM, X2SAM_STAGE

_RELEASED_NAMES = (
    ("vision_encoder.", "visual_encoder."),
    ("segmentor.class_predictor.logit_scale", "segmentor.logit_scale"),
)
_WEIGHT_STD = 0.02
_LORA_RANK = 128
_SHARD_BYTES = 1_000_000_000
_TEXT = "vlm.model.language_model."
_TRAINED_OF_QWEN = (
    "vlm.lm_head.",
    f"{_TEXT}embed_tokens.",
    "vlm.model.visual.merger.",
    "vlm.model.visual.deepstack_merger_list.",
)


def write_random(folder: Path, config: ModelConfig, dtype: torch.dtype) -> None:
    """Write a checkpoint folder."""
    _write_settings(folder, config)
    unfinished = folder / "weights.part"
    save_file(dict(_random_tensors(_on_meta(config), dtype)), unfinished, metadata={"format": "pt"})
    unfinished.replace(folder / "model.safetensors")


def write_released(folder: Path, config: XSamConfig, dtype: torch.dtype) -> None:
    """Write X-SAM's weights as they are published: one file, pickled, with other names."""
    _write_settings(folder, config)
    unfinished = folder / "weights.part"
    tensors = _random_tensors(_on_meta(config), dtype)
    torch.save({_released_name(name): tensor for name, tensor in tensors}, unfinished)
    unfinished.replace(folder / "pytorch_model.bin")


def write_released_x2sam(folder: Path, config: X2SamConfig, dtype: torch.dtype) -> None:
    """Write X2SAM's weights as `xsam download x2sam` does: what was trained, and the base model."""
    stage, base = folder / X2SAM.folder / X2SAM_STAGE, folder / QWEN3_VL.folder
    stage.mkdir(parents=True, exist_ok=True)
    base.mkdir(parents=True, exist_ok=True)
    _tokenizer(config).save_pretrained(base)
    state = _on_meta(config).state_dict()
    in_base = {name.removeprefix("vlm."): tensor for name, tensor in state.items() if _is_of_base(name)}
    split = split_state_dict_into_shards_factory(
        {name: tensor.numel() * dtype.itemsize for name, tensor in in_base.items()},
        get_storage_size=int,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=_SHARD_BYTES,
    )
    noise = _noise()
    for file, names in split.filename_to_tensors.items():
        shard = {name: _random(name, tuple(in_base[name].shape), dtype, noise) for name in names}
        save_file(shard, base / file, metadata={"format": "pt"})
    index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
    (base / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in state.items():
        inner = f"vlm.base_model.model.{name.removeprefix('vlm.')}"
        if not _is_of_base(name):
            shapes[inner if name.startswith("vlm.") else name] = tuple(tensor.shape)
        elif name.startswith(f"{_TEXT}layers.") and name.endswith("_proj.weight"):
            stem = inner.removesuffix(".weight")
            shapes[f"{stem}.lora_A.default.weight"] = (_LORA_RANK, tensor.shape[1])
            shapes[f"{stem}.lora_B.default.weight"] = (tensor.shape[0], _LORA_RANK)
    unfinished = stage / "weights.part"
    torch.save({name: _random(name, shape, dtype, noise) for name, shape in shapes.items()}, unfinished)
    unfinished.replace(stage / "pytorch_model.bin")


def random_model(config: XSamConfig, dtype: torch.dtype, device: torch.device) -> XSamModel:
    """Make a network on a device, without a file and without the host's memory."""
    noise = _noise().to(device)
    model = build_on_meta(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    fill_network(
        model,
        {name: _random(name, shape, dtype, noise) for name, shape in shapes.items()},
        llm_names=("llm.",),
        fill_buffers=lambda network: network.llm.model.rotary_emb.to(device),
        device=device,
        dtype=dtype,
    )
    return model


def is_written(weights: Path, config: ModelConfig) -> bool:
    """Return True if the weights exist and belong to this configuration, not to an earlier one."""
    described = weights.parent / "config.json"
    if not (weights.exists() and described.exists()):
        return False
    return bool(json.loads(described.read_text(encoding="utf-8")) == json.loads(json.dumps(config.to_dict())))


def _write_settings(folder: Path, config: ModelConfig) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config.write(folder / "config.json")
    _tokenizer(config).save_pretrained(folder / "tokenizer")


def _tokenizer(config: ModelConfig) -> Any:
    """Return the tiny model's tokenizer, for X2SAM with the tags of its language model."""
    tokenizer = build_tiny_tokenizer()
    if isinstance(config, X2SamConfig):
        tags = ["<|im_start|>", X2SAM_CHAT.end, "<|vision_start|>", "<|vision_end|>"]
        tokenizer.add_tokens(tags, special_tokens=True)
    return tokenizer


def _on_meta(config: ModelConfig) -> nn.Module:
    with torch.device("meta"):
        return X2SamModel(config) if isinstance(config, X2SamConfig) else XSamModel(config)


def _is_of_base(name: str) -> bool:
    return name.startswith("vlm.") and not name.startswith(_TRAINED_OF_QWEN)


def _released_name(name: str) -> str:
    for new, old in _RELEASED_NAMES:
        if name.startswith(new):
            return old + name[len(new) :]
    return name


def _random_tensors(model: nn.Module, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    noise = _noise()
    for name, tensor in model.state_dict().items():
        yield name, _random(name, tuple(tensor.shape), dtype, noise)


def _noise() -> Tensor:
    return torch.randn(1 << 22, generator=torch.Generator().manual_seed(0)) * _WEIGHT_STD


def _random(name: str, shape: tuple[int, ...], dtype: torch.dtype, noise: Tensor) -> Tensor:
    """Return a weight that keeps every activation finite; one draw is repeated: 4.6 G would take minutes."""
    if len(shape) == 1:
        return torch.full(shape, 0.0 if name.endswith("bias") else 1.0, dtype=dtype, device=noise.device)
    count = math.prod(shape)
    return noise.to(dtype).repeat(math.ceil(count / len(noise)))[:count].reshape(shape).clone()
