"""What every data source gives: a picture, its masks, and prompts with the masks they mean.

Sources are files on disk (`xsam.data.readers`) and simulated scenes (`xsam.data.scene_source`);
`xsam.train.collate` turns their samples into tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from xsam.inference.prompts import SEG_TAG, Conversation
from xsam.types.masks import BoolMask

NO_CONDITION = -1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainPrompt:
    """One prompt on a picture.

    Attributes:
        kind: for balance and for scores by kind, such as "referring".
        conversation: question and answer; the answer is what the model learns to say.
        labels: (N,) int64, for each mask of the picture the index of the condition (`<p> … </p>`, in
            the order of the conversation) that means it, `NO_CONDITION` when none does.
        regions: one mask (H, W) for each `<region>` of the question, in order.
    """

    kind: str
    conversation: Conversation
    labels: NDArray[np.int64]
    regions: tuple[BoolMask, ...] = ()

    @property
    def has_mask(self) -> bool:
        """Whether the answer holds the `<SEG>` that asks for masks; text-only prompts do not."""
        return SEG_TAG in self.conversation.answer


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PromptedImage:
    """A picture with its ground truth.

    Attributes:
        rgb: (H, W, 3) uint8.
        masks: (N, H, W) bool, shared by all prompts.
        prompts: at least one.
        classes: (N,) int64, index of each mask in the source's closed set of classes, −1 = none; empty
            for sources without one.
        ignored: (H, W) bool, pixels that count neither as object nor as background; None = no pixel.
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


class Source(Protocol):
    """A data set from which samples are drawn."""

    @property
    def name(self) -> str:
        """Unique name, used in logs and in the mixture."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The closed set that `PromptedImage.classes` counts in; empty when there is none."""

    def __len__(self) -> int:
        """Number of pictures."""

    def sample(self, index: int, rng: np.random.Generator, *, prompts: int = 1) -> PromptedImage:
        """Picture number `index` with at most `prompts` prompts, drawn with `rng` alone."""
