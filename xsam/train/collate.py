"""Collate samples into the tensors of a training step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from xsam.config import IMAGE_ID, ModelConfig
from xsam.data.samples import PromptedImage, TrainPrompt
from xsam.inference.inputs import Grid, inputs_of
from xsam.inference.preprocess import region_mask, square_mask
from xsam.inference.prompts import TokenizedPrompt, tokenize
from xsam.train.losses import PromptTarget

IGNORE = -100


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainBatch:
    """A batch of B images. The texts of an image share one row of L positions, after their common prefix.

    P is the number of prompts that request masks; images with fewer have `None` targets at the end.
    """

    vision_pixels: Tensor  # (B, 3, s, s); X2SAM: (N, channels) patches of all images
    grids: tuple[Grid, ...]  # of the patches of each image; empty for X-SAM
    seg_pixels: Tensor  # (B, 3, S, S)
    prefix_ids: Tensor  # (B, T) tokens that precede every text, image placeholders expanded, 0 at padding
    prefix_lengths: Tensor  # (B,)
    text_ids: Tensor  # (B, L) region placeholders expanded, 0 at padding
    text_labels: Tensor  # (B, L) answer tokens, IGNORE elsewhere
    owner: Tensor  # (B, L) 1-based index of the text; −1 at padding
    offset: Tensor  # (B, L) position within the text
    seg_positions: Tensor  # (B, P)
    span_weights: Tensor  # (B, P, K, L) each row averages the positions of one condition
    condition_valid: Tensor  # (B, P, K) bool
    region_masks: list[list[Tensor]]  # B × R × (S, S), in the order of the row
    masks: list[Tensor]  # B × (N, S, S) bool
    targets: list[list[PromptTarget | None]]  # [B][P]
    classes: list[Tensor]  # B × (N,) closed-set index, −1 = none
    attributes: dict[str, list[Tensor]]  # name → B × (N,), −1 = unknown
    ignored: Tensor  # (B, S, S) bool
    kinds: list[list[str]]  # [B][P]
    text_kinds: list[list[str]]  # [B][text], also those without masks

    def to(self, device: torch.device) -> TrainBatch:
        """Return the batch with its tensors on a device."""
        return replace(self, **{f.name: _moved(getattr(self, f.name), device) for f in fields(self)})


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, list):
        return [_moved(item, device) for item in value]
    if isinstance(value, Mapping):
        return {key: _moved(item, device) for key, item in value.items()}
    if isinstance(value, PromptTarget):
        return PromptTarget(labels=value.labels.to(device))
    return value


class Collator:
    """Turns samples into a `TrainBatch` for one model configuration and tokenizer."""

    def __init__(self, config: ModelConfig, tokenizer: Any) -> None:
        self.config = config
        self.inputs = inputs_of(config)
        self.tokenizer = tokenizer

    def __call__(self, samples: Sequence[PromptedImage]) -> TrainBatch:
        config = self.config
        rows = [_Row(self, sample) for sample in samples]
        prompts = max(len(row.masked) for row in rows)
        conditions = max((text.num_conditions for row in rows for _, text, _ in row.masked), default=0)
        length = max(len(row.ids) for row in rows)
        spans = np.zeros((len(rows), prompts, conditions, length), np.float32)
        seg_positions = np.zeros((len(rows), prompts), np.int64)
        for b, row in enumerate(rows):
            for p, (_, text, start) in enumerate(row.masked):
                ids = text.cond_ids[row.split :]
                for k in range(text.num_conditions):
                    inside = np.flatnonzero(ids == k)
                    spans[b, p, k, start + inside] = 1 / len(inside)
                seg_positions[b, p] = start + int(np.flatnonzero(text.seg_ids[row.split :] == 0)[0])
        names = sorted({name for sample in samples for name in sample.attributes})
        vision, *grids, squares = zip(*(self.inputs.pixels(sample.rgb) for sample in samples), strict=True)
        return TrainBatch(
            vision_pixels=torch.cat(vision) if grids else torch.stack(vision),
            grids=grids[0] if grids else (),
            seg_pixels=torch.stack(squares),
            prefix_ids=_padded([row.prefix for row in rows], 0),
            prefix_lengths=torch.tensor([len(row.prefix) for row in rows]),
            text_ids=_padded([row.ids for row in rows], 0),
            text_labels=_padded([row.labels for row in rows], IGNORE),
            owner=_padded([row.owner for row in rows], -1),
            offset=_padded([row.offset for row in rows], 0),
            seg_positions=torch.from_numpy(seg_positions),
            span_weights=torch.from_numpy(spans),
            condition_valid=torch.from_numpy(spans.sum(axis=-1) > 0),
            region_masks=[
                [
                    region_mask(region, config.square)
                    for prompt, _, _ in row.everything
                    for region in prompt.regions
                ]
                for row in rows
            ],
            masks=[self._masks(s.masks) for s in samples],
            targets=[
                [PromptTarget(labels=torch.from_numpy(prompt.labels)) for prompt, _, _ in row.masked]
                + [None] * (prompts - len(row.masked))
                for row in rows
            ],
            classes=[_labels(s.classes, len(s.masks)) for s in samples],
            attributes={
                name: [_labels(s.attributes.get(name), len(s.masks)) for s in samples] for name in names
            },
            ignored=torch.cat(
                [
                    self._masks((np.zeros(s.rgb.shape[:2], bool) if s.ignored is None else s.ignored)[None])
                    for s in samples
                ]
            ),
            kinds=[[prompt.kind for prompt, _, _ in row.masked] for row in rows],
            text_kinds=[[prompt.kind for prompt, _, _ in row.everything] for row in rows],
        )

    def _masks(self, masks: NDArray[np.bool_]) -> Tensor:
        side = self.config.square.side
        if len(masks) == 0:
            return torch.zeros(0, side, side, dtype=torch.bool)
        return torch.stack([square_mask(mask, self.config.square) for mask in masks])

    def tokenize(self, prompt: TrainPrompt, image_hw: tuple[int, int]) -> TokenizedPrompt:
        """Tokenize a prompt and expand all placeholders."""
        return tokenize(self.tokenizer, prompt.conversation, self.inputs.chat).expand(
            self.inputs.count_image_tokens(image_hw), self.config.sampler.tokens_per_region
        )


class _Row:
    """The concatenated texts of one image."""

    def __init__(self, collator: Collator, sample: PromptedImage) -> None:
        image_hw = (sample.rgb.shape[0], sample.rgb.shape[1])
        texts = [(prompt, collator.tokenize(prompt, image_hw)) for prompt in sample.prompts]
        first = texts[0][1].input_ids
        self.split = int(np.flatnonzero(first == IMAGE_ID)[-1]) + 1
        self.prefix = first[: self.split]
        lengths = [len(text.input_ids) - self.split for _, text in texts]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        self.everything = [
            (prompt, text, int(start)) for (prompt, text), start in zip(texts, starts[:-1], strict=True)
        ]
        self.masked = [item for item in self.everything if item[0].has_mask]
        self.ids = np.concatenate([text.input_ids[self.split :] for _, text in texts])
        self.labels = np.full(len(self.ids), IGNORE, np.int64)
        for _, text, start in self.everything:
            answer = slice(text.answer_start, text.answer_end)
            at = start - self.split
            self.labels[at + text.answer_start : at + text.answer_end] = text.input_ids[answer]
        self.owner = np.repeat(np.arange(1, len(texts) + 1), lengths)
        self.offset = np.concatenate([np.arange(n) for n in lengths])


def _padded(rows: Sequence[NDArray[np.int64]], value: int) -> Tensor:
    return pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True, padding_value=value)


def _labels(values: NDArray[np.int64] | None, count: int) -> Tensor:
    if values is None or len(values) == 0:
        return torch.full((count,), -1)
    return torch.from_numpy(values)
