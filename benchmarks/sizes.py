"""Checkpoints to measure: the shipped one, and two with random weights that are written once."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Phi3Config, SamVisionConfig, SiglipVisionConfig

from xsam.config import XSamConfig, full_config
from xsam.model.xsam import XSamModel
from xsam.train.tokenizer import build_tiny_tokenizer
from xsam.weights.checkpoint import resolve_model

_RELEASED_NAMES = (
    ("vision_encoder.", "visual_encoder."),
    ("segmentor.class_predictor.logit_scale", "segmentor.logit_scale"),
)
_WEIGHT_STD = 0.02


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """A checkpoint and how often to measure it."""

    name: str
    folder: Path
    dtype: Literal["float32", "bfloat16"]
    repetitions: int
    generated_tokens: int
    once: bool = False  # one frame and no warm-up, because a frame takes minutes


def model_size(name: str, cache: Path, *, once: bool = False) -> ModelSize:
    """Return the size tiny, mid or full; the latter two are written to `cache` if they are not there yet."""
    if name == "tiny":
        return ModelSize(
            name=name,
            folder=resolve_model("tiny")[0],
            dtype="float32",
            repetitions=5,
            generated_tokens=32,
            once=once,
        )
    folder = cache / name
    if name == "mid":
        if not _is_written(folder / "model.safetensors", mid_config()):
            write_random(folder, mid_config(), torch.float32, released=False)
        return ModelSize(
            name=name,
            folder=folder,
            dtype="float32",
            repetitions=3,
            generated_tokens=16,
            once=once,
        )
    if not _is_written(folder / "pytorch_model.bin", full_config()):
        write_random(folder, full_config(), torch.bfloat16, released=True)
    return ModelSize(name=name, folder=folder, dtype="bfloat16", repetitions=1, generated_tokens=4, once=True)


def mid_config() -> XSamConfig:
    """Return the mid configuration, 373 M parameters.

    SAM ViT-B at 512, SigLIP-B/16 at 224, a 12-layer Phi-3, and the full-size decoder. The vocabulary is
    small, though larger than the tokenizer's: embedding and output layers cost nearly nothing in a prompt,
    and would be a sixth of the parameters.
    """
    full = full_config()
    return replace(
        full,
        llm=Phi3Config(
            vocab_size=1024,
            hidden_size=1024,
            intermediate_size=2816,
            num_hidden_layers=12,
            num_attention_heads=16,
            sliding_window=full.llm.sliding_window,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        ),
        vision_encoder=SiglipVisionConfig(),
        sam=SamVisionConfig(image_size=512),
        extra_select_layers=(6, 9, 12),
    )


def write_random(folder: Path, config: XSamConfig, dtype: torch.dtype, *, released: bool) -> None:
    """Write a checkpoint with random weights; with `released`, in the layout of the published file."""
    folder.mkdir(parents=True, exist_ok=True)
    config.write(folder / "config.json")
    build_tiny_tokenizer().save_pretrained(folder / "tokenizer")
    with torch.device("meta"):
        model = XSamModel(config)
    tensors = dict(_random_tensors(model, dtype))
    unfinished = folder / "weights.part"
    if released:
        torch.save({_released(name): tensor for name, tensor in tensors.items()}, unfinished)
        unfinished.replace(folder / "pytorch_model.bin")
    else:
        save_file(tensors, unfinished, metadata={"format": "pt"})
        unfinished.replace(folder / "model.safetensors")


def _is_written(weights: Path, config: XSamConfig) -> bool:
    """Return True if the weights exist and belong to this configuration, not to an earlier one."""
    described = weights.parent / "config.json"
    if not (weights.exists() and described.exists()):
        return False
    return bool(json.loads(described.read_text(encoding="utf-8")) == json.loads(json.dumps(config.to_dict())))


def _released(name: str) -> str:
    for new, old in _RELEASED_NAMES:
        if name.startswith(new):
            return old + name[len(new) :]
    return name


def _random_tensors(model: XSamModel, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Yield weights that keep every activation finite; one draw is repeated: drawing 4.6 G takes minutes."""
    noise = torch.randn(1 << 22, generator=torch.Generator().manual_seed(0))
    for name, tensor in model.state_dict().items():
        if tensor.dim() == 1:
            value = torch.zeros(tensor.shape) if name.endswith("bias") else torch.ones(tensor.shape)
            yield name, value.to(dtype)
            continue
        repeated = (noise * _WEIGHT_STD).to(dtype).repeat(math.ceil(tensor.numel() / len(noise)))
        yield name, repeated[: tensor.numel()].reshape(tensor.shape).clone()
