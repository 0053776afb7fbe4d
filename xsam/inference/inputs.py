"""Images → what the encoders of each family read; it depends on the configuration alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from xsam.config import ModelConfig, X2SamConfig, XSamConfig
from xsam.inference.chat_format import X2SAM_CHAT, ChatFormat, chat_format, clip_text
from xsam.inference.preprocess import segmentation_pixels, vision_pixels
from xsam.inference.qwen_pixels import clip_patches, fitted_hw, image_patches

Grid = tuple[int, int, int]  # patches in time, rows and columns


class PromptInputs(Protocol):
    """How prompts about an image or a clip are written and counted."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def chat(self) -> ChatFormat: ...

    @property
    def max_positions(self) -> int:
        """Positions that the language model has room for."""
        ...

    def count_image_tokens(self, image_hw: tuple[int, int]) -> int:
        """Return how many tokens stand for each image in the text, given its size."""
        ...


class ImageInputs(PromptInputs, Protocol):
    """How a family prepares images."""

    def pixels(self, rgb: NDArray[np.uint8]) -> tuple[Any, ...]:
        """Prepare a uint8 RGB image (H, W, 3) on the CPU."""
        ...


class XSamInputs:
    """Two squares of fixed sizes: one for SigLIP, one for SAM."""

    def __init__(self, config: XSamConfig) -> None:
        self.config = config
        self.chat = chat_format(config)

    @property
    def max_positions(self) -> int:
        return int(self.config.llm.max_position_embeddings)

    def count_image_tokens(self, image_hw: tuple[int, int]) -> int:
        return self.config.num_image_tokens

    def pixels(self, rgb: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        return vision_pixels(rgb, self.config), segmentation_pixels(rgb, self.config.square)


class X2SamInputs:
    """Patches for Qwen3-VL, as many as the image's size asks for, and a square for SAM 2."""

    def __init__(self, config: X2SamConfig) -> None:
        self.config = config
        self.chat = X2SAM_CHAT

    @property
    def max_positions(self) -> int:
        return int(self.config.vlm.text_config.max_position_embeddings)

    def count_image_tokens(self, image_hw: tuple[int, int]) -> int:
        return self._tokens_of(self._fitted_hw(image_hw, self.config.pixels.image_pixels))

    def pixels(self, rgb: NDArray[np.uint8]) -> tuple[Tensor, Grid, Tensor]:
        size = self._fitted_hw((rgb.shape[0], rgb.shape[1]), self.config.pixels.image_pixels)
        vision = self.config.vlm.vision_config
        patches = image_patches(rgb, size, patch=vision.patch_size, merge=vision.spatial_merge_size)
        return patches, self._grid(1, size), segmentation_pixels(rgb, self.config.square)

    def clip_patches(self, frames: Sequence[NDArray[np.uint8]]) -> tuple[Tensor, Grid]:
        """Cut a clip of frames (H, W, 3), all of one size, into patches that span two frames each."""
        vision = self.config.vlm.vision_config
        size = self._clip_hw(frames[0].shape[:2], len(frames))
        patches = clip_patches(frames, size, patch=vision.patch_size, merge=vision.spatial_merge_size)
        rows, columns = size[0] // vision.patch_size, size[1] // vision.patch_size
        return patches, self._grid(len(patches) // (rows * columns), size)

    def of_clip(self, count: int) -> ClipInputs:
        """Return how prompts about a whole clip of `count` frames are written and counted."""
        return ClipInputs(self, count)

    def count_clip_tokens(self, image_hw: tuple[int, int], count: int) -> int:
        """Return how many tokens two frames of a clip of `count` frames take together."""
        return self._tokens_of(self._clip_hw(image_hw, count))

    def _clip_hw(self, image_hw: tuple[int, ...], count: int) -> tuple[int, int]:
        return self._fitted_hw((image_hw[0], image_hw[1]), self.config.pixels.video_pixels, frames=count)

    def _fitted_hw(
        self, image_hw: tuple[int, int], bounds: tuple[int, int], *, frames: int = 1
    ) -> tuple[int, int]:
        vision = self.config.vlm.vision_config
        return fitted_hw(image_hw, bounds, vision.patch_size * vision.spatial_merge_size, frames=frames)

    def _tokens_of(self, size: tuple[int, int]) -> int:
        vision = self.config.vlm.vision_config
        return int(size[0] * size[1] // (vision.patch_size * vision.spatial_merge_size) ** 2)

    def _grid(self, depth: int, size: tuple[int, int]) -> Grid:
        patch = self.config.vlm.vision_config.patch_size
        return depth, size[0] // patch, size[1] // patch


class ClipInputs:
    """Prompts about a clip: a block of visual tokens for every two frames."""

    def __init__(self, inputs: X2SamInputs, count: int) -> None:
        self._inputs, self._count = inputs, count
        self.config = inputs.config
        self.chat = replace(inputs.chat, image=clip_text((count + 1) // 2), medium="video")

    @property
    def max_positions(self) -> int:
        return self._inputs.max_positions

    def count_image_tokens(self, image_hw: tuple[int, int]) -> int:
        return self._inputs.count_clip_tokens(image_hw, self._count)


def inputs_of(config: ModelConfig) -> XSamInputs | X2SamInputs:
    """Return how images are prepared for networks of a configuration."""
    return X2SamInputs(config) if isinstance(config, X2SamConfig) else XSamInputs(config)
