"""Weights the way they are published, with the golden model in place of the large one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from support.golden import GOLDEN
from xsam.config import SPECIAL_TOKENS


def as_bin(variant: str, folder: Path) -> Path:
    shutil.copytree(GOLDEN / variant / "tokenizer", folder / "tokenizer")
    shutil.copy(GOLDEN / variant / "config.json", folder)
    torch.save(load_file(GOLDEN / variant / "model.safetensors"), folder / "pytorch_model.bin")
    return folder


def base_tokenizer(folder: Path) -> Path:
    """The golden tokenizer before X-SAM's three tokens were added: 420 tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    content = json.loads((GOLDEN / "c" / "tokenizer" / "tokenizer.json").read_text())
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] not in SPECIAL_TOKENS]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    settings = json.loads((GOLDEN / "c" / "tokenizer" / "tokenizer_config.json").read_text())
    del settings["added_tokens_decoder"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def download_folder(folder: Path) -> Path:
    """Write what `xsam download` leaves, and a stage that must be ignored."""
    weights = folder / "X-SAM" / "s3_mixed_finetune" / "xsam_phi3"
    weights.mkdir(parents=True)
    torch.save(load_file(GOLDEN / "c" / "model.safetensors"), weights / "pytorch_model.bin")
    other = folder / "X-SAM" / "s1_seg_finetune" / "xsam_sam"
    other.mkdir(parents=True)
    torch.save({"segmentor.x": torch.zeros(1)}, other / "pytorch_model.bin")
    base_tokenizer(folder / "Phi-3-mini-4k-instruct")
    return folder


def nothing_left(out: Path) -> bool:
    """No output, and no unfinished files next to it."""
    return not out.exists() and not [p for p in out.parent.iterdir() if out.name in p.name]
