"""Access to a variant's files, and comparisons that name the block that differs."""

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
    """Folder with one tiny model and its cases."""

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
        """List every case whose tensors are present."""
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
    """One prompt with its tensors and its entry in `cases.json`."""

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
        """Tokenize the case's conversation as its ids were made: without a beginning-of-text token."""
        turn = self.data["conversations"][0]
        conversation = Conversation(question=turn["input"], answer=turn["output"])
        return tokenize(self.variant.tokenizer, conversation, separator=turn["sep"])

    def numbered(self, prefix: str) -> list[Tensor]:
        """Return the tensors `prefix.0`, `prefix.1`, … in order."""
        names = [name for name in self.tensors if name.startswith(f"{prefix}.")]
        return [self.tensors[name] for name in sorted(names, key=lambda n: int(n.rsplit(".", 1)[1]))]


class BlockDiffers(AssertionError):
    """The output of a block of the network differs from the reference."""


def check_equal(block: str, actual: Any, expected: Tensor) -> None:
    """Check that integers are equal."""
    actual = torch.as_tensor(np.asarray(actual))
    if actual.shape != expected.shape or not torch.equal(actual.to(expected.dtype), expected):
        raise BlockDiffers(f"{block}: {actual.tolist()} instead of {expected.tolist()}")


def check_close(block: str, actual: Tensor, expected: Tensor, *, relative: float = RELATIVE) -> None:
    """Check that the largest difference is ≤ `relative` × largest magnitude, plus float16 rounding."""
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
