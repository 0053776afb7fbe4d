"""A model smaller than the tiny one, and handmade images, for the training tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Mask2FormerConfig, Phi3Config, SamVisionConfig

from xsam.config import XSamConfig, tiny_config
from xsam.data.samples import PromptedImage, TrainPrompt
from xsam.errors import RecordError
from xsam.inference.prompts import conversation_for
from xsam.model.initialize import initialize_weights
from xsam.model.xsam import XSamModel
from xsam.types.requests import Query, Task

SIDE = 96  # of the SAM branch, in pixels


def small_config(vocab_size: int) -> XSamConfig:
    """Return the tiny configuration with a quarter of the SAM pixels and half the width."""
    tiny = tiny_config(vocab_size=vocab_size)
    llm = {**tiny.llm.to_dict(), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    sam = {**tiny.sam.to_dict(), "image_size": SIDE, "hidden_size": 64, "mlp_dim": 64}
    narrow = {"hidden_dim": 64, "feature_size": 32, "mask_feature_size": 32}
    forward = {"encoder_feedforward_dim": 64, "dim_feedforward": 64}
    return dataclasses.replace(
        tiny,
        llm=Phi3Config(**llm),
        sam=SamVisionConfig(**sam),
        mask2former=Mask2FormerConfig(**{**tiny.mask2former.to_dict(), **narrow, **forward}),
        connector_hidden_dim=16,
    )


def small_model(vocab_size: int, *, seed: int = 0) -> XSamModel:
    """Build a model with random weights, the same for the same seed."""
    torch.manual_seed(seed)
    model = XSamModel(small_config(vocab_size))
    initialize_weights(model)
    return model


def rectangle(
    image_hw: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]
) -> NDArray[np.bool_]:
    mask = np.zeros(image_hw, np.bool_)
    mask[slice(*rows), slice(*columns)] = True
    return mask


def prompt(query: Query, labels: Sequence[int], *, kind: str = "test", regions: Any = ()) -> TrainPrompt:
    """Return the canonical conversation of a query, with the condition of each mask."""
    return TrainPrompt(
        kind=kind,
        conversation=conversation_for(query),
        labels=np.array(labels, np.int64),
        regions=tuple(regions),
    )


def referring(text: str, labels: Sequence[int], *, kind: str = "test") -> TrainPrompt:
    return prompt(Query(task=Task.REFERRING, text=text), labels, kind=kind)


class HandMade:
    """A `SampleSource` of given images; nothing is random."""

    name = "hand-made"

    def __init__(self, pictures: Sequence[PromptedImage], *, class_names: tuple[str, ...] = ()) -> None:
        self.pictures = list(pictures)
        self.class_names = class_names

    def __len__(self) -> int:
        return len(self.pictures)

    def sample(self, index: int, rng: np.random.Generator, *, prompts: int = 1) -> PromptedImage:
        return self.pictures[index]


class DamagedImages(HandMade):
    """Source with some files that cannot be decoded."""

    def __init__(self, pictures: list[PromptedImage], broken: set[int]) -> None:
        super().__init__(pictures)
        self.broken = broken

    def sample(self, index: int, rng: np.random.Generator, *, prompts: int = 1) -> PromptedImage:
        if index in self.broken:
            raise RecordError(f"picture {index}: cannot read the picture")
        return super().sample(index, rng, prompts=prompts)
