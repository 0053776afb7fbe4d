"""Quick validation inside a run: referring, reasoning, categories, regions and absent phrases.

The engine's own numbers on full-size pictures come from `xsam.eval`; these use the training
resolution and take seconds.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from xsam.model.xsam import XSamModel
from xsam.train.batches import SceneBatcher
from xsam.train.scene_prompts import RELATIONAL_KINDS, draw_kinds
from xsam.train.step import run_batch

_BATCH = 8
_SHARES = {"referring": 0.5, "absent": 0.12, "reasoning": 0.1, "interactive": 0.15, "visual_grounded": 0.13}


@torch.no_grad()
def validate(
    model: XSamModel, data: SceneBatcher, scenes: int, *, prompts: int = 4, seed: int = 7
) -> dict[str, float]:
    """Mean IoU by kind of prompt, and how often absent phrases are rejected at p < 0.5.

    The answer of a prompt is the union of the queries with p > 0.5, or the best one.
    """
    model.eval()
    rng = np.random.default_rng(seed)
    ious: dict[str, list[float]] = defaultdict(list)
    present: list[float] = []
    absent: list[float] = []
    for start in range(0, min(scenes, len(data)), _BATCH):
        indices = np.arange(start, min(start + _BATCH, scenes, len(data)))
        batch = data.batch(indices, draw_kinds(rng, prompts, _SHARES), rng)
        answer = run_batch(model, batch).stages[-1]
        for b, row in enumerate(batch.kinds):
            for p, kind in enumerate(row):
                probability = answer[0][b, p].softmax(dim=-1)[:, 0]
                wanted = batch.targets[b][p].labels == 0
                if not wanted.any():
                    absent.append(float(probability.max()))
                    continue
                if not kind.startswith(("category", "visual")):
                    present.append(float(probability.max()))
                truth = batch.masks[b][wanted].any(dim=0)
                ious[kind].append(_iou(_union(answer[1][b, p], probability, truth.shape), truth))
    scores = {f"iou_{kind}": float(np.mean(values)) for kind, values in sorted(ious.items())}
    referring = [v for kind, values in ious.items() if _is_referring(kind) for v in values]
    relations = [v for kind, values in ious.items() if kind in RELATIONAL_KINDS for v in values]
    return {
        "referring_miou": float(np.mean(referring or [0.0])),
        "relation_miou": float(np.mean(relations or [0.0])),
        "absent_rejected": float(np.mean(np.array(absent or [1.0]) < 0.5)),
        "false_alarm": float(np.mean(np.array(present or [1.0]) < 0.5)),
        **{name: round(value, 4) for name, value in scores.items()},
    }


def _is_referring(kind: str) -> bool:
    return kind in (*RELATIONAL_KINDS, "category", "color", "color_category")


def _union(mask_logits: Tensor, probability: Tensor, size: torch.Size) -> Tensor:
    chosen = probability > 0.5
    chosen[probability.argmax()] = True
    upsampled = F.interpolate(mask_logits[chosen][None], size=size, mode="bilinear", align_corners=False)[0]
    return (upsampled > 0).any(dim=0)


def _iou(first: Tensor, second: Tensor) -> float:
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 0.0
