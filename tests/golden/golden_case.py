"""Access to a variant's files, and comparison that names the block that differs."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from xsam.inference.prompts import Conversation, TokenizedPrompt, tokenize
from xsam.model.xsam import XSamModel
from xsam.weights.checkpoint import load_checkpoint

RELATIVE = 1e-4


@dataclass(frozen=True)
class GoldenVariant:
    """A folder with one tiny model and its cases."""

    folder: Path

    @functools.cached_property
    def loaded(self) -> tuple[XSamModel, Any]:
        return load_checkpoint(self.folder)

    @property
    def model(self) -> XSamModel:
        return self.loaded[0]

    @property
    def tokenizer(self) -> Any:
        return self.loaded[1]

    @functools.cached_property
    def rgb(self) -> NDArray[np.uint8]:
        return np.asarray(Image.open(self.folder / "image.png").convert("RGB"))

    def cases(self) -> list[GoldenCase]:
        """Every case that has its tensors here."""
        listed = json.loads((self.folder / "cases.json").read_text())
        found = [
            GoldenCase(self, data, self.folder / f"{data['mode']}_{data['name']}.safetensors")
            for data in listed
        ]
        return [case for case in found if case.path.exists()]

    def losses(self) -> list[GoldenCase]:
        paths = sorted(self.folder.glob("loss_*.json"))
        return [GoldenCase(self, json.loads(p.read_text()), p.with_suffix(".safetensors")) for p in paths]


@dataclass(frozen=True)
class GoldenCase:
    """One prompt, its tensors, and what was said about it in `cases.json`."""

    variant: GoldenVariant
    data: dict[str, Any]
    path: Path

    @property
    def id(self) -> str:
        return f"{self.variant.folder.name}-{self.path.stem}"

    @functools.cached_property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.path)

    @property
    def tokenized(self) -> TokenizedPrompt:
        """The case's own conversation, made the way its ids were: without a beginning-of-text token."""
        turn = self.data["conversations"][0]
        conversation = Conversation(question=turn["input"], answer=turn["output"])
        return tokenize(self.variant.tokenizer, conversation, separator=turn["sep"])

    def numbered(self, prefix: str) -> list[Tensor]:
        """Tensors `prefix.0`, `prefix.1`, … in order."""
        names = [name for name in self.tensors if name.startswith(f"{prefix}.")]
        return [self.tensors[name] for name in sorted(names, key=lambda n: int(n.rsplit(".", 1)[1]))]


class BlockDiffers(AssertionError):
    """The first block of the network whose output is not the reference's."""


def check_equal(block: str, actual: Any, expected: Tensor) -> None:
    """Integers must be equal."""
    actual = torch.as_tensor(np.asarray(actual))
    if actual.shape != expected.shape or not torch.equal(actual.to(expected.dtype), expected):
        raise BlockDiffers(f"{block}: {actual.tolist()} instead of {expected.tolist()}")


def check_close(block: str, actual: Tensor, expected: Tensor, *, relative: float = RELATIVE) -> None:
    """Largest difference ≤ `relative` × largest magnitude; float16 storage is granted its rounding."""
    if actual.shape != expected.shape:
        raise BlockDiffers(f"{block}: shape {tuple(actual.shape)} instead of {tuple(expected.shape)}")
    wanted = expected.float()
    scale = float(wanted.abs().max())
    allowed = torch.full_like(wanted, relative * scale)
    if expected.dtype is torch.float16:
        allowed = allowed + wanted.abs() * 2**-11 + 2**-25
    difference = (actual.float() - wanted).abs()
    if not bool((difference <= allowed).all()):
        raise BlockDiffers(
            f"{block} is the first block that differs: by {float(difference.max()):.3g} at scale {scale:.3g}"
        )
