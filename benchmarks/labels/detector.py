"""A small detector in the manner of CenterNet: a heatmap of centers per category, and a box at each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDE = 4
_PEAKS = 40


def block(ins: int, outs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(ins, outs, 3, stride, 1, bias=False), nn.BatchNorm2d(outs), nn.ReLU(inplace=True)
    )


class SmallDetector(nn.Module):
    """Images (N, 3, H, W) in [0, 1] → logits (N, C, H/4, W/4) and edge distances (N, 4, H/4, W/4), px."""

    def __init__(self, categories: int) -> None:
        super().__init__()
        self.quarter = nn.Sequential(block(3, 16, 2), block(16, 32, 2), block(32, 32))
        self.eighth = nn.Sequential(block(32, 64, 2), block(64, 64))
        self.sixteenth = nn.Sequential(block(64, 128, 2), block(128, 128), block(128, 128))
        self.lateral = nn.ModuleList([nn.Conv2d(64, 64, 1), nn.Conv2d(32, 64, 1)])
        self.top = nn.Conv2d(128, 64, 1)
        self.merged = block(64, 32)
        self.heat = nn.Sequential(block(32, 32), nn.Conv2d(32, categories, 1))
        self.edges = nn.Sequential(block(32, 32), nn.Conv2d(32, 4, 1))
        nn.init.constant_(self.heat[-1].bias, -4.0)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        quarter = self.quarter(images * 4 - 2)
        eighth = self.eighth(quarter)
        features = self.top(self.sixteenth(eighth))
        for lateral, finer in zip(self.lateral, (eighth, quarter), strict=True):
            features = lateral(finer) + functional.interpolate(features, finer.shape[-2:], mode="nearest")
        features = self.merged(features)
        return self.heat(features), torch.exp(self.edges(features).clamp(max=4.5)) * STRIDE


def targets(
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    ignored: Sequence[Tensor],
    *,
    categories: int,
    hw: tuple[int, int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw what the maps should be.

    Args:
        boxes: (n, 4) xyxy of each image, px.
        labels: (n,) categories.
        ignored: (m, 4) of each image: neither object nor background, whatever the category.
        categories: C.
        hw: (h, w) of the maps.

    Returns:
        Heat (N, C, h, w) with 1 at centers, its weight of the same shape, box (N, 4, h, w) xyxy, and its
        weight (N, h, w).
    """
    height, width = hw
    heat = torch.zeros(len(boxes), categories, height, width)
    weight = torch.ones_like(heat)
    box = torch.zeros(len(boxes), 4, height, width)
    box_weight = torch.zeros(len(boxes), height, width)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x_px, y_px = (x + 0.5) * STRIDE, (y + 0.5) * STRIDE
    for number, (some, kinds, others) in enumerate(zip(boxes, labels, ignored, strict=True)):
        for x_min, y_min, x_max, y_max in others.tolist():
            inside = (x_px > x_min) & (x_px < x_max) & (y_px > y_min) & (y_px < y_max)
            weight[number, :, inside] = 0.0
        areas = (some[:, 2] - some[:, 0]) * (some[:, 3] - some[:, 1])
        for index in areas.argsort(descending=True).tolist():  # the smallest in front
            x_min, y_min, x_max, y_max = some[index].tolist()
            kind = int(kinds[index])
            column = min(max(int((x_min + x_max) / 2 / STRIDE), 0), width - 1)
            row = min(max(int((y_min + y_max) / 2 / STRIDE), 0), height - 1)
            sigma_x = max((x_max - x_min) / STRIDE / 7, 0.4)
            sigma_y = max((y_max - y_min) / STRIDE / 7, 0.4)
            bump = torch.exp(-((x - column) ** 2) / (2 * sigma_x**2) - (y - row) ** 2 / (2 * sigma_y**2))
            heat[number, kind] = torch.maximum(heat[number, kind], bump)
            weight[number, kind][bump > 0.1] = 1.0
            near = bump > 0.4
            box[number, :, near] = some[index][:, None]
            box_weight[number, near] = bump[near]
    return heat, weight, box, box_weight


def loss_of(
    logits: Tensor, edges: Tensor, heat: Tensor, weight: Tensor, box: Tensor, box_weight: Tensor
) -> Tensor:
    """Return the focal loss of CenterNet, and the generalized IoU of the boxes."""
    p = logits.sigmoid()
    positive = heat == 1.0
    loss = torch.where(
        positive,
        -functional.logsigmoid(logits) * (1 - p) ** 2,
        -functional.logsigmoid(-logits) * p**2 * (1 - heat) ** 4,
    )
    centers = (loss * weight).sum() / positive.sum().clamp(min=1)
    return centers + 5.0 * (
        box_weight * (1 - generalized_iou(boxes_at(edges), box))
    ).sum() / box_weight.sum().clamp(min=1)


def boxes_at(edges: Tensor) -> Tensor:
    """Return xyxy (N, 4, h, w) from distances to left, top, right and bottom."""
    height, width = edges.shape[-2:]
    x = (torch.arange(width) + 0.5) * STRIDE
    y = (torch.arange(height) + 0.5)[:, None] * STRIDE
    left, top, right, bottom = edges.unbind(1)
    return torch.stack([x - left, y - top, x + right, y + bottom], 1)


def generalized_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return it for boxes (N, 4, …)."""
    low, high = torch.maximum(first[:, :2], second[:, :2]), torch.minimum(first[:, 2:], second[:, 2:])
    common = (high - low).clamp(min=0).prod(1)
    total = sum((boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1) for boxes in (first, second))
    low, high = torch.minimum(first[:, :2], second[:, :2]), torch.maximum(first[:, 2:], second[:, 2:])
    hull = (high - low).clamp(min=1e-6).prod(1)
    union = (total - common).clamp(min=1e-6)
    return common / union - (hull - union) / hull


@torch.no_grad()
def detect(
    model: SmallDetector, images: Tensor, *, least: float = 0.02
) -> list[list[tuple[int, float, list[float]]]]:
    """Return category, score and box xyxy of what is found in each image."""
    logits, edges = model(images)
    heat = logits.sigmoid()
    peaks = heat * (functional.max_pool2d(heat, 3, 1, 1) == heat)
    boxes = boxes_at(edges)
    found = []
    for number in range(len(images)):
        scores, places = peaks[number].flatten().topk(_PEAKS)
        kept: list[tuple[int, float, list[float]]] = []
        for score, place in zip(scores.tolist(), places.tolist(), strict=True):
            kind, cell = divmod(place, heat.shape[2] * heat.shape[3])
            box = boxes[number, :, cell // heat.shape[3], cell % heat.shape[3]].tolist()
            if score >= least and not any(
                kind == other and iou(box, taken) > 0.5 for other, _, taken in kept
            ):
                kept.append((kind, score, box))
        found.append(kept)
    return found


def iou(first: Sequence[float], second: Sequence[float]) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    common = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return common / (sum(areas) - common) if common else 0.0
