"""Quick validation scores and drawings during training, at training resolution.

For scores of the engine on full-size images, see `xsam.eval`.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from xsam.data.samples import PromptedImage, SampleSource
from xsam.errors import DatasetError
from xsam.inference.family import Network
from xsam.inference.preprocess import IMAGENET_MEAN, IMAGENET_STD
from xsam.model.xsam import XSamModel
from xsam.sim.language import EXPRESSION_KINDS, RELATION_KINDS
from xsam.train.collate import Collator, TrainBatch
from xsam.train.heads import ClosedSetHead
from xsam.train.networks import network_of
from xsam.train.stages import Stage, StageConfig
from xsam.train.step import forward_batch, language_loss, read_texts
from xsam.types.masks import BoolMask, mask_iou

_log = logging.getLogger(__name__)

_BATCH = 8
_FOUND = 0.5  # minimum probability of a query that counts as found
_TILES = 12
_TILE_PX = 192


class Validation:
    """A fixed selection of images and prompts from a source, without those that cannot be read.

    Attributes:
        unreadable: number of selected images that were skipped; `run` reports it.

    Raises:
        DatasetError: more images than the recipe allows cannot be read, or all of them.
    """

    def __init__(
        self, source: SampleSource, collate: Collator, config: StageConfig, *, seed: int = 7
    ) -> None:
        count = min(config.validate_pictures, len(source))
        self.stage = config.stage
        self.unreadable = 0
        self._prompts = max(4, config.prompts_per_image)
        self._max_unreadable = config.max_unreadable
        self.batches: list[TrainBatch] = []
        for start in range(0, count, _BATCH):
            indices = range(start, min(start + _BATCH, count))
            samples = [sample for i in indices if (sample := self._read(source, i, seed)) is not None]
            if samples:
                self.batches.append(collate(samples))
        if count and not self.batches:
            raise DatasetError(
                f"none of the {count} images for validation in {source.name} can be read",
                hint="warnings in the log name them",
            )

    def _read(self, source: SampleSource, index: int, seed: int) -> PromptedImage | None:
        try:
            return source.sample(index, np.random.default_rng([seed, index]), prompts=self._prompts)
        except DatasetError as error:
            self.unreadable += 1
            if self.unreadable > self._max_unreadable:
                raise
            _log.warning("validation skips an image (%d so far): %s", self.unreadable, error)
            return None

    @torch.no_grad()
    def run(
        self, model: Network, *, closed_set: ClosedSetHead | None = None, picture: Path | None = None
    ) -> dict[str, float]:
        """Score the model; draw a grid to `picture` with truth on the left, prediction on the right.

        Returns:
            score by name; `unreadable_images` if there were some.
        """
        was_training = model.training
        model.eval()
        tally = _Tally()
        tiles: list[NDArray[np.uint8]] = []
        for batch in self.batches:
            batch = batch.to(model.device)
            if self.stage is Stage.SEGMENTOR:
                assert closed_set is not None
                assert isinstance(model, XSamModel)
                self._score_closed_set(model, closed_set, batch, tally, tiles)
            elif self.stage is Stage.ALIGNMENT:
                _score_text(model, batch, tally)
            else:
                self._score_prompts(model, batch, tally, tiles)
        model.train(was_training)
        if picture is not None and tiles:
            cv2.imwrite(str(picture), _grid(tiles[:_TILES])[..., ::-1])
        scores = tally.scores()
        if self.unreadable:
            scores["unreadable_images"] = float(self.unreadable)
        return scores

    def _score_prompts(
        self, model: Network, batch: TrainBatch, tally: _Tally, tiles: list[NDArray[np.uint8]]
    ) -> None:
        _, text, output = forward_batch(model, batch)
        head = network_of(model).token_logits
        tally.add("loss_llm", float(language_loss(head, text.hidden, batch.text_labels)))
        if not output.stages:
            return
        class_logits, mask_logits = output.stages[-1]
        for b, row in enumerate(batch.kinds):
            for p, kind in enumerate(row):
                target = batch.targets[b][p]
                assert target is not None
                conditions = int(batch.condition_valid[b, p].sum())
                probability = class_logits[b, p].softmax(dim=-1)[:, :conditions]
                for k in range(conditions):
                    is_target = target.labels == k
                    best = float(probability[:, k].max())
                    single = conditions == 1
                    if not is_target.any():
                        tally.add("absent_rejected" if single else "absent_condition", float(best < _FOUND))
                        continue
                    truth = batch.masks[b][is_target].any(dim=0)
                    found = _union(mask_logits[b, p], probability[:, k], truth.shape)
                    tally.add(f"iou_{kind}", mask_iou(found.cpu().numpy(), truth.cpu().numpy()))
                    if single and not kind.startswith(("visual", "interactive")):
                        tally.add("present_rejected", float(best < _FOUND))
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
        decoded = model.decode(
            features,
            conditions.new_zeros(len(conditions), 1, conditions.shape[-1]),
            conditions,
            torch.ones(conditions.shape[:3], dtype=torch.bool, device=conditions.device),
        )[-1]
        for b, (masks, classes) in enumerate(zip(batch.masks, batch.classes, strict=True)):
            probability = decoded.class_logits[b, 0].softmax(dim=-1)[:, :-1]
            found = F.interpolate(decoded.mask_logits[b], size=masks.shape[-2:], mode="bilinear")[0] > 0
            overlap = _pairwise_iou(found, masks)
            for n, label in enumerate(classes.tolist()):
                if label < 0:
                    continue
                best = int(overlap[:, n].argmax())
                tally.add("iou_oracle", float(overlap[best, n]))
                tally.add("class_of_best_query", float(int(probability[best].argmax()) == label))
                tally.add("iou_class", float(overlap[int(probability[:, label].argmax()), n]))
            kept = probability.max(dim=-1).values > _FOUND
            tiles.append(_tile(batch, b, masks.any(dim=0), found[kept].any(dim=0)))


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


def _score_text(model: Network, batch: TrainBatch, tally: _Tally) -> None:
    """Score the share of answers in which every token is the most likely one, given the preceding tokens."""
    network = network_of(model)
    text = read_texts(model, network.encode(batch), batch)
    tally.add("loss_llm", float(language_loss(network.token_logits, text.hidden, batch.text_labels)))
    predicted = network.token_logits(text.hidden[:, :-1]).argmax(dim=-1)
    labels = batch.text_labels[:, 1:]
    is_answer = labels >= 0
    correct = predicted == labels
    owner = batch.owner[:, 1:]
    for b, kinds in enumerate(batch.text_kinds):
        for index, kind in enumerate(kinds, start=1):
            of_text = is_answer[b] & (owner[b] == index)
            tally.add(f"text_{kind}", float(correct[b][of_text].all()))


def _union(mask_logits: Tensor, probability: Tensor, size: torch.Size) -> Tensor:
    chosen = probability > _FOUND
    chosen[probability.argmax()] = True
    upsampled = F.interpolate(mask_logits[chosen][None], size=size, mode="bilinear", align_corners=False)[0]
    return (upsampled > 0).any(dim=0)


def _pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """Compute the (M, N) IoU of (M, H, W) and (N, H, W) bool masks."""
    a, b = first.flatten(1).float(), second.flatten(1).float()
    inter = a @ b.T
    return inter / (a.sum(1)[:, None] + b.sum(1)[None] - inter).clamp(min=1)


def _tile(batch: TrainBatch, index: int, truth: Tensor, found: Tensor) -> NDArray[np.uint8]:
    """Draw the image twice: with the truth in green on the left, and the prediction in red on the right."""
    rgb = batch.seg_pixels[index].permute(1, 2, 0).cpu().numpy() * IMAGENET_STD + IMAGENET_MEAN
    halves = [
        _tint(rgb, mask.cpu().numpy(), color)
        for mask, color in ((truth, (0.1, 0.9, 0.2)), (found, (1.0, 0.15, 0.1)))
    ]
    small = [cv2.resize(half, (_TILE_PX, _TILE_PX), interpolation=cv2.INTER_AREA) for half in halves]
    return np.concatenate(small, axis=1)


def _tint(rgb: NDArray[np.floating], mask: BoolMask, color: tuple[float, float, float]) -> NDArray[np.uint8]:
    out = rgb.copy()
    out[mask] = 0.45 * out[mask] + 0.55 * np.array(color)
    return (np.clip(out, 0, 1) * 255).astype(np.uint8)


def _grid(tiles: Sequence[NDArray[np.uint8]], columns: int = 3) -> NDArray[np.uint8]:
    blank = np.zeros_like(tiles[0])
    padded = [*tiles, *[blank] * (-len(tiles) % columns)]
    rows = [np.concatenate(padded[i : i + columns], axis=1) for i in range(0, len(padded), columns)]
    return np.concatenate(rows, axis=0)
