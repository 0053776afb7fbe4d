"""Checkpoints to measure: the shipped one, and others with random weights that are written once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from transformers import (
    Phi3Config,
    Qwen3VLConfig,
    Sam2VisionConfig,
    SamVisionConfig,
    SiglipVisionConfig,
)

from benchmarks.random_weights import is_written, write_random, write_released
from xsam.config import X2SamConfig, XSamConfig, full_config
from xsam.config.presets import full_x2sam_config
from xsam.weights.checkpoint import resolve_model


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
    """Return the size of a name; all but the tiny one are written to `cache` if they are not there yet."""
    if name == "tiny":
        return ModelSize(
            name=name,
            folder=resolve_model("tiny")[0],
            dtype="float32",
            repetitions=7,
            generated_tokens=32,
            once=once,
        )
    folder = cache / name
    if name in ("mid", "x2sam-mid"):
        config = mid_config() if name == "mid" else mid_x2sam_config()
        if not is_written(folder / "model.safetensors", config):
            write_random(folder, config, torch.float32)
        return ModelSize(
            name=name,
            folder=folder,
            dtype="float32",
            repetitions=7,
            generated_tokens=16,
            once=once,
        )
    if not is_written(folder / "pytorch_model.bin", full_config()):
        write_released(folder, full_config(), torch.bfloat16)
    return ModelSize(name=name, folder=folder, dtype="bfloat16", repetitions=1, generated_tokens=4, once=True)


def mid_config() -> XSamConfig:
    """Return the mid configuration of X-SAM, 373 M parameters.

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


def mid_x2sam_config() -> X2SamConfig:
    """Return the mid configuration of X2SAM, 427 M parameters.

    Hiera-B+ at 384, a vision tower and a text model of 12 layers, and the full-size decoder and memory.
    """
    full = full_x2sam_config()
    return replace(
        full,
        vlm=Qwen3VLConfig(
            vision_config={
                "depth": 12,
                "hidden_size": 768,
                "intermediate_size": 3072,
                "num_heads": 12,
                "patch_size": 16,
                "out_hidden_size": 1024,
                "num_position_embeddings": 2304,
                "deepstack_visual_indexes": [2, 5, 8],
            },
            text_config={
                **full.vlm.text_config.to_dict(),
                "vocab_size": 1024,
                "hidden_size": 1024,
                "intermediate_size": 2816,
                "num_hidden_layers": 12,
                "num_attention_heads": 16,
                "num_key_value_heads": 8,
                "head_dim": 64,
                "bos_token_id": 1,
                "eos_token_id": 2,
            },
            tie_word_embeddings=True,
        ),
        sam2=Sam2VisionConfig(
            backbone_config={
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 112,
                "num_attention_heads": 2,
                "image_size": [384, 384],
                "window_positional_embedding_background_size": [14, 14],
                "blocks_per_stage": [2, 3, 16, 3],
                "embed_dim_per_stage": [112, 224, 448, 896],
                "num_attention_heads_per_stage": [2, 4, 8, 16],
                "window_size_per_stage": [8, 4, 14, 7],
                "global_attention_blocks": [12, 16, 20],
            },
            backbone_channel_list=[896, 448, 224, 112],
            fpn_hidden_size=256,
        ),
    )
