"""Checkpoint folders, the two published layouts, and strict loading.

A folder holds `config.json`, `model.safetensors` (or shards with an index, or a `.bin`) and
`tokenizer/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn


def save_checkpoint(model: nn.Module, tokenizer: Any, folder: Path, *, dtype: torch.dtype | None = None) -> None:
    """Write `config.json`, `model.safetensors` and `tokenizer/`."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: (value.to(dtype) if dtype and value.is_floating_point() else value).contiguous().clone()
        for name, value in model.state_dict().items()
    }
    save_file(tensors, folder / "model.safetensors")
    model.config.write(folder / "config.json")
    tokenizer.save_pretrained(folder / "tokenizer")
