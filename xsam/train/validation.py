"""Scores and pictures inside a run, at the training resolution and in seconds.

The engine's own numbers on full-size pictures come from `xsam.eval`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from xsam.data.samples import SampleSource
from xsam.inference.preprocess import IMAGENET_MEAN, IMAGENET_STD
from xsam.model.xsam import XSamModel
from xsam.sim.language import EXPRESSION_KINDS, RELATION_KINDS
from xsam.train.collate import Collator, TrainBatch
from xsam.train.heads import ClosedSetHead
from xsam.train.stages import Stage, StageConfig
from xsam.train.step import answer_batch, language_loss, read_texts
from xsam.types.masks import BoolMask

_BATCH = 8
_FOUND = 0.5  # probability from which a query answers
_TILES = 12
_TILE_PX = 192


class Validation:
    """A fixed selection of images and prompts from a source."""

    def __init__(
        self, source: SampleSource, collate: Collator, config: StageConfig, *, seed: int = 7
    ) -> None:
        count = min(config.validate_pictures, len(source))
        self.stage = config.stage
        prompts = max(4, config.prompts_per_image)
        self.batches = [
            collate(
                [
                    source.sample(i, np.random.default_rng([seed, i]), prompts=prompts)
                    for i in range(start, min(start + _BATCH, count))
                ]
            )
            for start in range(0, count, _BATCH)
        ]

    @torch.no_grad()
    def run(
        self, model: XSamModel, *, closed_set: ClosedSetHead | None = None, picture: Path | None = None
    ) -> dict[str, float]:
        """Scores of the model; with `picture`, a grid of pictures with answers (left truth, right answer)."""
        was_training = model.training
        model.eval()
        tally = _Tally()
        tiles: list[NDArray[np.uint8]] = []
        for batch in self.batches:
            batch = batch.to(model.device)
            if self.stage is Stage.SEGMENTOR:
                assert closed_set is not None
                self._score_closed_set(model, closed_set, batch, tally, tiles)
            elif self.stage is Stage.ALIGNMENT:
                _score_text(model, batch, tally)
            else:
                self._score_prompts(model, batch, tally, tiles)
        model.train(was_training)
        if picture is not None and tiles:
            cv2.imwrite(str(picture), _grid(tiles[:_TILES])[..., ::-1])
        return tally.scores()

    def _score_prompts(
        self, model: XSamModel, batch: TrainBatch, tally: _Tally, tiles: list[NDArray[np.uint8]]
    ) -> None:
        _, text, answer = answer_batch(model, batch)
        tally.add("loss_llm", float(language_loss(model.llm.lm_head, text.hidden, batch.text_labels)))
        if not answer.stages:
            return
        class_logits, mask_logits = answer.stages[-1]
        for b, row in enumerate(batch.kinds):
            for p, kind in enumerate(row):
                target = batch.targets[b][p]
                assert target is not None
                conditions = int(batch.condition_valid[b, p].sum())
                probability = class_logits[b, p].softmax(dim=-1)[:, :conditions]
                for k in range(conditions):
                    wanted = target.labels == k
                    best = float(probability[:, k].max())
                    single = conditions == 1
                    if not wanted.any():
                        tally.add("absent_rejected" if single else "absent_condition", float(best < _FOUND))
                        continue
                    truth = batch.masks[b][wanted].any(dim=0)
                    found = _union(mask_logits[b, p], probability[:, k], truth.shape)
                    tally.add(f"iou_{kind}", _iou(found, truth))
                    if single and not kind.startswith(("visual", "interactive")):
                        tally.add("false_alarm", float(best < _FOUND))
                    if p == 0 and k == 0:
                        tiles.append(_tile(batch, b, truth, found))

    def _score_closed_set(
        self,
        model: XSamModel,
        head: ClosedSetHead,
        batch: TrainBatch,
        tally: _Tally,
        tiles: list[NDArray[np.uint8]],
    ) -> None:
        features = model.encode_segmentation(batch.seg_pixels)
        conditions = head.conditions(len(batch.seg_pixels))
        answer = model.decode(
            features,
            conditions.new_zeros(len(conditions), 1, conditions.shape[-1]),
            conditions,
            torch.ones(conditions.shape[:3], dtype=torch.bool, device=conditions.device),
        )[-1]
        for b, (masks, classes) in enumerate(zip(batch.masks, batch.classes, strict=True)):
            probability = answer.class_logits[b, 0].softmax(dim=-1)[:, :-1]
            logits = F.interpolate(answer.mask_logits[b], size=masks.shape[-2:], mode="bilinear")[0] > 0
            overlap = _pairwise_iou(logits, masks)
            for n, label in enumerate(classes.tolist()):
                if label < 0:
                    continue
                best = int(overlap[:, n].argmax())
                tally.add("iou_oracle", float(overlap[best, n]))
                tally.add("class_of_best_query", float(int(probability[best].argmax()) == label))
                tally.add("iou_class", float(overlap[int(probability[:, label].argmax()), n]))
            kept = probability.max(dim=-1).values > _FOUND
            tiles.append(_tile(batch, b, masks.any(dim=0), logits[kept].any(dim=0)))


class _Tally:
    def __init__(self) -> None:
        self.values: dict[str, list[float]] = defaultdict(list)

    def add(self, name: str, value: float) -> None:
        self.values[name].append(value)

    def scores(self) -> dict[str, float]:
        scores = {name: float(np.mean(values)) for name, values in sorted(self.values.items())}
        for group, kinds in (("referring_miou", EXPRESSION_KINDS), ("relation_miou", RELATION_KINDS)):
            values = [v for kind in kinds for v in self.values.get(f"iou_{kind}", [])]
            if values:
                scores[group] = float(np.mean(values))
        return scores


def _score_text(model: XSamModel, batch: TrainBatch, tally: _Tally) -> None:
    """Share of answers of which every token is the most likely one, given those before."""
    features = model.encode_image(batch.vision_pixels, batch.seg_pixels)
    text = read_texts(model, features, batch)
    tally.add("loss_llm", float(language_loss(model.llm.lm_head, text.hidden, batch.text_labels)))
    guess = model.llm.lm_head(text.hidden[:, :-1]).argmax(dim=-1)
    wanted = batch.text_labels[:, 1:]
    asked = wanted >= 0
    right = guess == wanted
    owner = batch.owner[:, 1:]
    for b, kinds in enumerate(batch.text_kinds):
        for number, kind in enumerate(kinds, start=1):
            mine = asked[b] & (owner[b] == number)
            tally.add(f"text_{kind}", float(right[b][mine].all()))


def _union(mask_logits: Tensor, probability: Tensor, size: torch.Size) -> Tensor:
    chosen = probability > _FOUND
    chosen[probability.argmax()] = True
    upsampled = F.interpolate(mask_logits[chosen][None], size=size, mode="bilinear", align_corners=False)[0]
    return (upsampled > 0).any(dim=0)


def _iou(first: Tensor, second: Tensor) -> float:
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 0.0


def _pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """(M, H, W), (N, H, W) bool → (M, N)."""
    a, b = first.flatten(1).float(), second.flatten(1).float()
    inter = a @ b.T
    return inter / (a.sum(1)[:, None] + b.sum(1)[None] - inter).clamp(min=1)


def _tile(batch: TrainBatch, index: int, truth: Tensor, answer: Tensor) -> NDArray[np.uint8]:
    """Picture twice: the truth in green on the left, the answer in red on the right."""
    rgb = batch.seg_pixels[index].permute(1, 2, 0).cpu().numpy() * IMAGENET_STD + IMAGENET_MEAN
    halves = [
        _tinted(rgb, mask.cpu().numpy(), color)
        for mask, color in ((truth, (0.1, 0.9, 0.2)), (answer, (1.0, 0.15, 0.1)))
    ]
    small = [cv2.resize(half, (_TILE_PX, _TILE_PX), interpolation=cv2.INTER_AREA) for half in halves]
    return np.concatenate(small, axis=1)


def _tinted(
    rgb: NDArray[np.floating], mask: BoolMask, color: tuple[float, float, float]
) -> NDArray[np.uint8]:
    out = rgb.copy()
    out[mask] = 0.45 * out[mask] + 0.55 * np.array(color)
    return (np.clip(out, 0, 1) * 255).astype(np.uint8)


def _grid(tiles: Sequence[NDArray[np.uint8]], columns: int = 3) -> NDArray[np.uint8]:
    blank = np.zeros_like(tiles[0])
    padded = [*tiles, *[blank] * (-len(tiles) % columns)]
    rows = [np.concatenate(padded[i : i + columns], axis=1) for i in range(0, len(padded), columns)]
    return np.concatenate(rows, axis=0)
