"""The samples that every data source yields: an image, its masks, and prompts with their target masks.

Sources are files on disk (`xsam.data.readers`) and simulated scenes (`xsam.data.scene_source`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from xsam.inference.chat_format import END_TAG
from xsam.inference.prompts import SEG_TAG, Conversation
from xsam.types.masks import BoolMask

NO_CONDITION = -1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainPrompt:
    """One prompt for an image.

    Attributes:
        kind: used for balancing and for scores by kind, such as "referring".
        conversation: question and answer; the answer is the text that the model learns to generate.
        labels: (N,) int64, for each mask of the image the index of the condition (`<p> … </p>`, in the order
            of the conversation) that refers to it, or `NO_CONDITION`.
        regions: one (H, W) mask for each `<region>` of the question, in order.
    """

    kind: str
    conversation: Conversation
    labels: NDArray[np.int64]
    regions: tuple[BoolMask, ...] = ()

    @property
    def has_mask(self) -> bool:
        """True if the answer contains the `<SEG>` that requests masks; False for text-only prompts."""
        return SEG_TAG in self.conversation.answer


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PromptedImage:
    """An image with its ground truth.

    Attributes:
        rgb: (H, W, 3) uint8.
        masks: (N, H, W) bool, shared by all prompts.
        prompts: at least one.
        classes: (N,) int64, index of each mask in the source's closed set of classes, −1 = none; empty
            for sources without a closed set.
        ignored: (H, W) bool, pixels that count neither as object nor as background; None if there are none.
        attributes: more per-mask labels for auxiliary losses, each (N,) int64 with −1 = unknown.
    """

    rgb: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    prompts: tuple[TrainPrompt, ...]
    classes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    ignored: BoolMask | None = None
    attributes: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        height, width = self.rgb.shape[:2]
        if self.rgb.shape != (height, width, 3) or self.rgb.dtype != np.uint8:
            raise ValueError(f"rgb must be (H, W, 3) uint8, got {self.rgb.shape} {self.rgb.dtype}")
        if self.masks.shape[1:] != (height, width) or self.masks.dtype != np.bool_:
            raise ValueError(
                f"masks must be (N, {height}, {width}) bool, got {self.masks.shape} {self.masks.dtype}"
            )
        if not self.prompts:
            raise ValueError("a sample needs at least one prompt")
        for prompt in self.prompts:
            if len(prompt.labels) != len(self.masks):
                raise ValueError(f"{prompt.kind}: {len(prompt.labels)} labels for {len(self.masks)} masks")


class SampleSource(Protocol):
    """A dataset from which samples are drawn."""

    @property
    def name(self) -> str:
        """Unique name, used in logs and in the mixture."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The closed set that `PromptedImage.classes` indexes; empty if there is none."""

    def __len__(self) -> int:
        """Return the number of images."""

    def sample(self, index: int, rng: np.random.Generator, *, prompts: int = 1) -> PromptedImage:
        """Return the image at `index` with at most `prompts` prompts, drawn only with `rng`."""


def answer_with_masks(text: str) -> str:
    """Append the request for masks to the text of an answer."""
    return f"{text} The segmentation mask is {SEG_TAG}.{END_TAG}"
