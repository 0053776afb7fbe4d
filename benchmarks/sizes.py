"""Checkpoints to measure: the one that ships, and two with random weights that are written once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import Phi3Config, SamVisionConfig, SiglipVisionConfig

from xsam.checkpoint import resolve_model
from xsam.config import XSamConfig, full_config
from xsam.model.xsam import XSamModel
from xsam.train.tokenizer import build_tiny_tokenizer

_RELEASED_NAMES = (
    ("vision_encoder.", "visual_encoder."),
    ("segmentor.class_predictor.logit_scale", "segmentor.logit_scale"),
)
_WEIGHT_STD = 0.02


@dataclass(frozen=True, kw_only=True)
class Size:
    """A checkpoint and how often to measure it."""

    name: str
    folder: Path
    dtype: Literal["float32", "bfloat16"]
    repetitions: int
    generated_tokens: int
    once: bool = False  # one frame, no warm-up: it takes minutes


def size(name: str, cache: Path, *, once: bool = False) -> Size:
    """One of tiny, mid and full; the latter two are written to `cache` if they are not there yet."""
    if name == "tiny":
        return Size(
            name=name,
            folder=resolve_model("tiny")[0],
            dtype="float32",
            repetitions=5,
            generated_tokens=32,
            once=once,
        )
    folder = cache / name
    if name == "mid":
        if not (folder / "model.safetensors").exists():
            write_random(folder, mid_config(), torch.float32, released=False)
        return Size(
            name=name,
            folder=folder,
            dtype="float32",
            repetitions=3,
            generated_tokens=16,
            once=once,
        )
    if not (folder / "pytorch_model.bin").exists():
        write_random(folder, full_config(), torch.bfloat16, released=True)
    return Size(name=name, folder=folder, dtype="bfloat16", repetitions=1, generated_tokens=4, once=True)


def mid_config() -> XSamConfig:
    """SAM ViT-B at 512, SigLIP-B/16 at 224, a Phi-3 of 12 layers, the full-size decoder.

    372 M parameters, and 65 M for the vocabulary on its way in and out.
    """
    full = full_config()
    return XSamConfig(
        llm=Phi3Config(
            vocab_size=32014,
            hidden_size=1024,
            intermediate_size=2816,
            num_hidden_layers=12,
            num_attention_heads=16,
            num_key_value_heads=16,
            max_position_embeddings=4096,
            original_max_position_embeddings=4096,
            sliding_window=2047,
            rope_theta=10000.0,
            bos_token_id=1,
            eos_token_id=32000,
            pad_token_id=32000,
        ),
        vision_encoder=SiglipVisionConfig(
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            image_size=224,
            patch_size=16,
        ),
        sam=SamVisionConfig(
            hidden_size=768,
            num_hidden_layers=12,
            num_attention_heads=12,
            global_attn_indexes=[2, 5, 8, 11],
            num_pos_feats=128,
            image_size=512,
            patch_size=16,
            window_size=14,
            output_channels=256,
        ),
        mask2former=full.mask2former,
        extra_select_layers=(6, 9, 12),
        sampler=full.sampler,
        logit_clamp=full.logit_clamp,
    )


def write_random(folder: Path, config: XSamConfig, dtype: torch.dtype, *, released: bool) -> None:
    """Write a checkpoint with random weights; `released`: in the layout of the published file."""
    folder.mkdir(parents=True, exist_ok=True)
    config.write(folder / "config.json")
    build_tiny_tokenizer().save_pretrained(folder / "tokenizer")
    with torch.device("meta"):
        model = XSamModel(config)
    tensors = dict(_random_tensors(model, dtype))
    if not released:
        from safetensors.torch import save_file

        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    renamed = {_released(name): tensor for name, tensor in tensors.items()}
    unfinished = folder / "pytorch_model.part"
    torch.save(renamed, unfinished)
    unfinished.replace(folder / "pytorch_model.bin")


def _released(name: str) -> str:
    for new, old in _RELEASED_NAMES:
        if name.startswith(new):
            return old + name[len(new) :]
    return name


def _random_tensors(model: XSamModel, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Numbers that keep every activation finite; drawn once and repeated, for drawing 4.6 G takes minutes."""
    noise = torch.randn(1 << 22, generator=torch.Generator().manual_seed(0))
    for name, tensor in model.state_dict().items():
        if tensor.dim() == 1:
            value = torch.zeros(tensor.shape) if name.endswith("bias") else torch.ones(tensor.shape)
            yield name, value.to(dtype)
            continue
        repeated = (noise * _WEIGHT_STD).to(dtype).repeat(math.ceil(tensor.numel() / len(noise)))
        yield name, repeated[: tensor.numel()].reshape(tensor.shape).clone()
