"""Train the small detector on examples, and score it on others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks.labels.clips import HW, Box, Example
from benchmarks.labels.detector import STRIDE, SmallDetector, detect, loss_of, targets
from xsam.eval.average_precision import MaskAP
from xsam.types.masks import MaskRle

INPUT_HW = (96, 128)
_BATCH = 16
_LEARNING_RATE = 3e-3


def as_images(examples: Sequence[Example]) -> Tensor:
    """Return uint8 (N, 3, h, w)."""
    size = (INPUT_HW[1], INPUT_HW[0])
    small = [cv2.resize(item.rgb, size, interpolation=cv2.INTER_AREA) for item in examples]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).contiguous()


def as_boxes(objects: Sequence[tuple[str, Box]]) -> Tensor:
    """Return (n, 4) in pixels of the detector's input."""
    boxes = torch.tensor([box for _, box in objects], dtype=torch.float32).reshape(-1, 4)
    return boxes * (INPUT_HW[0] / HW[0])


def train(
    examples: Sequence[Example], classes: Sequence[str], *, steps: int, seed: int, log: Callable[[str], None]
) -> SmallDetector:
    """Train a detector; the same seed sees the same frames in the same order, whatever their labels."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = SmallDetector(len(classes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _LEARNING_RATE, total_steps=steps, pct_start=0.2
    )
    images = as_images(examples)
    boxes = [as_boxes(item.objects) for item in examples]
    labels = [torch.tensor([classes.index(name) for name, _ in item.objects]) for item in examples]
    ignored = [as_boxes(item.ignored) for item in examples]
    map_hw = (INPUT_HW[0] // STRIDE, INPUT_HW[1] // STRIDE)
    order: list[int] = []
    for step in range(steps):
        while len(order) < _BATCH:
            order += rng.permutation(len(examples)).tolist()
        chosen, order = order[:_BATCH], order[_BATCH:]
        flips = rng.random(_BATCH) < 0.5
        batch = torch.stack(
            [_seen(images[index], flip, rng) for index, flip in zip(chosen, flips, strict=True)]
        )
        drawn = targets(
            [_flipped(boxes[i], flip) for i, flip in zip(chosen, flips, strict=True)],
            [labels[i] for i in chosen],
            [_flipped(ignored[i], flip) for i, flip in zip(chosen, flips, strict=True)],
            categories=len(classes),
            hw=map_hw,
        )
        loss = loss_of(*model(batch), *drawn)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            log(f"step {step + 1} of {steps}: loss {loss.item():.3f}")
    return model.eval()


def ap50(model: SmallDetector, examples: Sequence[Example], classes: Sequence[str]) -> float:
    """Return the AP50 of boxes: the mean over the categories that are there."""
    images = as_images(examples)
    scorer = MaskAP()
    scale = HW[0] / INPUT_HW[0]
    for start in range(0, len(examples), 32):
        part = images[start : start + 32].float() / 255
        for item, found in zip(examples[start : start + 32], detect(model, part), strict=True):
            detections = [
                (classes[kind], mask, score)
                for kind, score, box in found
                if (mask := box_mask([value * scale for value in box])) is not None
            ]
            scorer.add(truth=_masks(item.objects), found=detections, crowd=_masks(item.ignored))
    return float(scorer.scores().ap50 or 0.0)


def box_mask(box: Sequence[float]) -> MaskRle | None:
    """Return a box as a mask, so that the project's AP is that of boxes; None = it has no pixel."""
    x_min, y_min, x_max, y_max = (round(value) for value in box)
    x_min, y_min, x_max, y_max = max(x_min, 0), max(y_min, 0), min(x_max, HW[1]), min(y_max, HW[0])
    if x_min >= x_max or y_min >= y_max:
        return None
    pixels = np.ones((y_max - y_min, x_max - x_min), np.bool_)
    return MaskRle.encode_crop(pixels, top=y_min, left=x_min, image_hw=HW)


def _masks(objects: Sequence[tuple[str, Box]]) -> list[tuple[str, MaskRle]]:
    return [(name, mask) for name, box in objects if (mask := box_mask(box)) is not None]


def _flipped(boxes: Tensor, flip: bool) -> Tensor:
    if not flip:
        return boxes
    return torch.stack(
        [INPUT_HW[1] - boxes[:, 2], boxes[:, 1], INPUT_HW[1] - boxes[:, 0], boxes[:, 3]], dim=1
    )


def _seen(image: Tensor, flip: bool, rng: np.random.Generator) -> Tensor:
    """Return an image in other light, perhaps mirrored."""
    gains = torch.from_numpy(rng.uniform(0.8, 1.25, 3) * rng.uniform(0.75, 1.3)).float()
    seen = (image.float() / 255 * gains[:, None, None]).clamp(0, 1)
    return seen.flip(2) if flip else seen
