"""Qwen3-VL: an image or a clip → visual tokens, and the text model that reads them.

The text model is run by `xsam.model.language` like any other, with plain positions 0, 1, 2 …: X2SAM was
trained so. Its decoder reads the state before the final norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import Qwen3VLForConditionalGeneration


@dataclass(frozen=True, slots=True, kw_only=True)
class VisualTokens:
    """Output of the vision tower for one image or clip."""

    embeds: Tensor  # (T, D) tokens in reading order
    deepstack: tuple[Tensor, ...]  # (T, D) each; the j-th is added to the tokens' states after layer j


def visual_tokens(
    vlm: Qwen3VLForConditionalGeneration, patches: Tensor, grid: tuple[int, int, int]
) -> VisualTokens:
    """Run the vision tower and its mergers.

    Args:
        patches: (t · h · w, channels · 2 · side²) pixels of the patches; see `xsam.inference.qwen_pixels`.
        grid: (t, h, w), the number of patches; h and w are multiples of the merge size.
    """
    out = vlm.model.visual(patches, torch.tensor([grid], device=patches.device))
    return VisualTokens(embeds=out.pooler_output, deepstack=tuple(out.deepstack_features))


def place_deepstack(tokens: VisualTokens, visual: Tensor) -> list[Tensor]:
    """Spread deepstack features over a prompt: zero where there is no visual token.

    Args:
        visual: (L,) bool, True at the T visual tokens.

    Returns:
        One (1, L, D) tensor for each deepstack feature.
    """
    where = visual.nonzero()[:, 0]
    placed = []
    for features in tokens.deepstack:
        full = features.new_zeros((1, len(visual), features.shape[1]))
        full[0, where] = features
        placed.append(full)
    return placed


class QwenVlText:
    """Qwen3-VL's text model, as `xsam.model.language` expects a language model."""

    def __init__(self, vlm: Qwen3VLForConditionalGeneration) -> None:
        self.model = vlm.model.language_model
        self.lm_head = vlm.lm_head
        self.config: Any = vlm.config.text_config
