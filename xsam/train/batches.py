"""Scene shards → tensors for a training step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from xsam.config import XSamConfig
from xsam.preprocess import IMAGENET_MEAN, IMAGENET_STD, region_mask
from xsam.prompts import TokenizedPrompt, tokenize
from xsam.sim.annotate import mirror
from xsam.sim.household import ALL_COLORS, CATEGORIES
from xsam.sim.shards import SceneShards
from xsam.train.losses import PromptTarget
from xsam.train.scene_prompts import ScenePrompt, draw_prompts

_CATEGORY_INDEX = {name: i for i, name in enumerate(CATEGORIES)}
_COLOR_INDEX = {name: i for i, name in enumerate(ALL_COLORS)}
IGNORE = -100


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SceneBatch:
    """B images with P prompts each."""

    vision_pixels: Tensor  # (B, 3, s, s)
    seg_pixels: Tensor  # (B, 3, S, S)
    prefix_ids: Tensor  # (T₀,) what every text follows, image placeholders included
    text_ids: list[Tensor]  # P × (B, L) expanded, padded with 0
    text_labels: list[Tensor]  # P × (B, L) answer tokens, IGNORE elsewhere
    cond_ids: list[list[Tensor]]  # [B][P] (L,)
    seg_positions: Tensor  # (B, P)
    region_masks: list[list[Tensor]]  # [B][P] (R, S, S)
    masks: list[Tensor]  # B × (N, S, S) bool, objects then stuff
    targets: list[list[PromptTarget]]  # [B][P]
    categories: list[Tensor]  # B × (N,) int64, IGNORE for stuff
    colors: list[Tensor]  # B × (N,) int64
    ignored: Tensor  # (B, S, S) bool: pixels of unlabelled objects
    kinds: list[list[str]]  # [B][P]


class SceneBatcher:
    """Draws prompts for chosen scenes and packs them.

    Args:
        augment: mirror half of the pictures, and change brightness, contrast and colour a little.
    """

    def __init__(self, shards: SceneShards, config: XSamConfig, tokenizer: Any, *, augment: bool) -> None:
        self.shards = shards
        self.config = config
        self.tokenizer = tokenizer
        self.augment = augment

    def __len__(self) -> int:
        return len(self.shards)

    def batch(self, indices: NDArray[np.int64], kinds: Sequence[str], rng: np.random.Generator) -> SceneBatch:
        """Make a batch of the scenes `indices` with a prompt of each of `kinds` a scene."""
        images, masks, drawn, categories, colors, ignored = [], [], [], [], [], []
        for index in indices:
            height, width = (int(v) for v in self.shards.image_hw[index])
            rgb = self.shards.rgb[index]
            ids = self.shards.instance_ids[index]
            stuff = self.shards.stuff_ids[index]
            annotations = self.shards.annotations[index]
            if self.augment and rng.random() < 0.5:
                rgb, ids, stuff = (_mirrored(a, width) for a in (rgb, ids, stuff))
                annotations = mirror(annotations, width)
            pixels = rgb.astype(np.float32) / 255.0
            if self.augment:
                gain, contrast = rng.uniform(0.75, 1.25), rng.uniform(0.8, 1.2)
                pixels = np.clip(
                    (pixels * gain - 0.5) * contrast + 0.5 + rng.normal(0, 0.02, 3), 0, 1
                ).astype(np.float32)
            images.append((pixels, height, width))
            labelled = [item for item in annotations if item.labelled]
            object_masks = [ids == item.instance_id for item in labelled]
            stuff_masks = [stuff == s for s in (1, 2, 3)]
            masks.append(torch.from_numpy(np.stack([*object_masks, *stuff_masks])))
            categories.append(torch.tensor([_CATEGORY_INDEX[i.category] for i in labelled] + [IGNORE] * 3))
            colors.append(torch.tensor([_COLOR_INDEX[i.color] for i in labelled] + [IGNORE] * 3))
            known = [item.instance_id for item in labelled]
            ignored.append(torch.from_numpy((ids > 0) & ~np.isin(ids, known)))
            prompts = draw_prompts(annotations, ids[:height, :width], rng, kinds)
            drawn.append([(p, _targets(p, known)) for p in prompts])
        return self._pack(images, masks, drawn, categories, colors, torch.stack(ignored))

    def _pack(
        self,
        images: list[tuple[NDArray[np.float32], int, int]],
        masks: list[Tensor],
        drawn: list[list[tuple[ScenePrompt, PromptTarget]]],
        categories: list[Tensor],
        colors: list[Tensor],
        ignored: Tensor,
    ) -> SceneBatch:
        config = self.config
        tokenized = [
            [
                tokenize(self.tokenizer, p.conversation, bos=config.bos_before_user).expand(
                    config.num_image_tokens, config.sampler.tokens_per_region
                )
                for p, _ in row
            ]
            for row in drawn
        ]
        first = tokenized[0][0].input_ids
        split = int(np.flatnonzero(first == -200)[-1]) + 1
        text_ids, labels = [], []
        seg_positions = np.zeros((len(drawn), len(drawn[0])), np.int64)
        for p in range(len(drawn[0])):
            column = [row[p] for row in tokenized]
            length = max(len(t.input_ids) for t in column) - split
            ids, wanted = (
                np.zeros((len(drawn), length), np.int64),
                np.full((len(drawn), length), IGNORE, np.int64),
            )
            for b, tokens in enumerate(column):
                _place(tokens, split, ids[b], wanted[b])
                seg_positions[b, p] = int(np.flatnonzero(tokens.seg_ids == 0)[0]) - split
            text_ids.append(torch.from_numpy(ids))
            labels.append(torch.from_numpy(wanted))
        vision, seg = _pixels(images, config)
        return SceneBatch(
            vision_pixels=vision,
            seg_pixels=seg,
            prefix_ids=torch.from_numpy(first[:split]),
            text_ids=text_ids,
            text_labels=labels,
            cond_ids=[[torch.from_numpy(t.cond_ids[split:]) for t in row] for row in tokenized],
            seg_positions=torch.from_numpy(seg_positions),
            region_masks=[
                [
                    torch.stack([region_mask(r, config) for r in p.regions]) if p.regions else torch.zeros(0)
                    for p, _ in row
                ]
                for row in drawn
            ],
            masks=masks,
            targets=[[target for _, target in row] for row in drawn],
            categories=categories,
            colors=colors,
            ignored=ignored,
            kinds=[[p.kind for p, _ in row] for row in drawn],
        )


def _mirrored(array: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    out = np.zeros_like(array)
    out[:, :width] = array[:, :width][:, ::-1]
    return out


def _targets(prompt: ScenePrompt, known: list[int]) -> PromptTarget:
    labels = np.full(len(known) + 3, -1, np.int64)
    for condition, ids in enumerate(prompt.targets):
        for instance in ids:
            labels[known.index(instance)] = condition
    for condition, stuff in prompt.stuff_targets.items():
        labels[len(known) + stuff - 1] = condition
    return PromptTarget(labels=torch.from_numpy(labels))


def _place(tokens: TokenizedPrompt, split: int, ids: NDArray[np.int64], labels: NDArray[np.int64]) -> None:
    count = len(tokens.input_ids) - split
    ids[:count] = tokens.input_ids[split:]
    start, end = tokens.answer_start - split, tokens.answer_end - split
    labels[start:end] = tokens.input_ids[tokens.answer_start : tokens.answer_end]


def _pixels(images: list[tuple[NDArray[np.float32], int, int]], config: XSamConfig) -> tuple[Tensor, Tensor]:
    side = config.vision_encoder.image_size
    vision, seg = [], []
    for pixels, height, width in images:
        picture = torch.from_numpy(pixels[:height, :width]).permute(2, 0, 1)[None]
        small = F.interpolate(
            picture, size=(side, side), mode="bilinear", align_corners=False, antialias=True
        )
        vision.append((small[0] - 0.5) / 0.5)
        padded = np.zeros_like(pixels)
        padded[:height, :width] = (pixels[:height, :width] - IMAGENET_MEAN) / IMAGENET_STD
        seg.append(torch.from_numpy(padded).permute(2, 0, 1))
    return torch.stack(vision), torch.stack(seg)
