"""Post-processing takes bounded time, and ends early when its request does."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from support.golden import GOLDEN
from xsam import Frame, Query, RequestCancelledError
from xsam.config import XSamConfig
from xsam.config.square import Square
from xsam.errors import DeadlineExceededError
from xsam.inference.postprocess import (
    Check,
    best_query,
    instances,
    matching_queries,
    panoptic,
    probabilities,
    without_duplicates,
)
from xsam.inference.regions import semantic_bands, stuff_regions
from xsam.inference.results import Prediction, compose
from xsam.inference.stages import REMINDER_S, StageClock
from xsam.inference.upsample import MaskGeometry
from xsam.types.deadline import Deadline

QUERIES, CLASSES, SIDE = 30, 12, 32
HW = (360, 480)
GEOMETRY = MaskGeometry.for_image(HW, Square(side=128))


def _logits(classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    """Return class logits (Q, K + 1) and mask logits (Q, h, w) with masks of many pieces."""
    generator = torch.Generator().manual_seed(5)
    return (
        torch.randn((QUERIES, classes + 1), generator=generator) * 2,
        torch.randn((QUERIES, SIDE, SIDE), generator=generator) * 4,
    )


SELECTIONS: dict[str, Callable[[Check], Any]] = {
    "best query": lambda check: best_query(*_logits(), GEOMETRY, check=check),
    "matching queries": lambda check: matching_queries(*_logits(1), GEOMETRY, threshold=0.1, check=check),
    "instances": lambda check: instances(*_logits(), GEOMETRY, threshold=0.0, check=check),
    "regions": lambda check: stuff_regions(*_logits(), GEOMETRY, threshold=0.0, check=check),
    "panoptic": lambda check: panoptic(
        *_logits(), GEOMETRY, stuff=range(6, 12), threshold=0.0, weigh_own=False, check=check
    ),
    "duplicates": lambda check: without_duplicates(
        instances(*_logits(), GEOMETRY, threshold=0.0), nested=0.8, check=check
    ),
}


@pytest.mark.parametrize("name", SELECTIONS)
@pytest.mark.slow
def test_every_selection_can_be_ended_at_any_of_its_steps(name: str) -> None:
    """A deadline of 12 s once ended after 137 s, and everybody else waited for the model."""
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    SELECTIONS[name](count)
    assert steps >= 10

    for last in (1, steps // 2, steps):
        left = itertools.count(1 - last)

        def end(left: itertools.count[int] = left) -> None:
            if next(left) == 0:
                raise RequestCancelledError("not needed any more")

        with pytest.raises(RequestCancelledError):
            SELECTIONS[name](end)


@pytest.mark.slow
def test_regions_are_those_of_the_definition() -> None:
    """A class gets a pixel that it wins, where a query that matches it covers it; 0 matches anything."""
    class_logits, mask_logits = _logits()
    for threshold in (0.0, 0.2, 0.6):
        p = probabilities(class_logits)
        scores = p.max(dim=0).values
        expected: dict[int, np.ndarray] = {
            index: np.zeros(HW, bool) for index in range(CLASSES) if scores[index] >= threshold
        }
        for top, logits, classes in semantic_bands(class_logits, mask_logits, GEOMETRY):
            for index, mask in expected.items():
                covered = (logits[p[:, index] >= threshold] > 0).any(dim=0) | (threshold == 0)
                mask[top : top + len(classes)] = ((classes == index) & covered).numpy()
        found = stuff_regions(class_logits, mask_logits, GEOMETRY, threshold=threshold)
        assert found.label_indices.tolist() == list(expected)
        torch.testing.assert_close(found.scores, scores[list(expected)])
        for mask, pixels in zip(found.masks, expected.values(), strict=True):
            np.testing.assert_array_equal(mask.decode(), pixels)


@pytest.mark.parametrize("image_hw", [(1000, 1500), (37, 53)])
def test_regions_are_those_of_every_pixel(image_hw: tuple[int, int]) -> None:
    """Large blobs, so that most tiles are decided without their pixels; and an image of few tiles."""
    generator = torch.Generator().manual_seed(1)
    geometry = MaskGeometry.for_image(image_hw, Square(side=128))
    centers, radii = (
        torch.rand((2, QUERIES, 1, 1), generator=generator) * SIDE,
        2 + 8 * torch.rand((QUERIES, 1, 1), generator=generator),
    )
    cells = torch.arange(float(SIDE))
    distances = ((cells[:, None] - centers[0]) ** 2 + (cells - centers[1]) ** 2).sqrt()
    mask_logits = 2 * (radii - distances)
    class_logits = torch.randn((QUERIES, 41), generator=generator) * 2
    class_logits[torch.arange(QUERIES), torch.arange(QUERIES) % 12] += 5
    p = probabilities(class_logits)
    found = stuff_regions(class_logits, mask_logits, geometry, threshold=0.3)
    assert 5 <= len(found.masks) < 40
    bands = [(logits, classes) for _, logits, classes in semantic_bands(class_logits, mask_logits, geometry)]
    logits, classes = torch.cat([b[0] for b in bands], dim=1), torch.cat([b[1] for b in bands])
    for label, mask in zip(found.label_indices.tolist(), found.masks, strict=True):
        covered = (logits[p[:, label] >= 0.3] > 0).any(dim=0)
        np.testing.assert_array_equal(mask.decode(), (covered & (classes == label)).numpy())


def test_a_deadline_ends_the_composition_of_a_result() -> None:
    class_logits, mask_logits = _logits(150)
    frame = Frame(rgb=np.zeros((*HW, 3), np.uint8))
    query = Query(stuff_classes=tuple(f"stuff {index}" for index in range(150)), score_threshold=0.0)
    clock = StageClock(Deadline(0.0))
    with pytest.raises(DeadlineExceededError):
        compose(
            Prediction(class_logits=class_logits, mask_logits=mask_logits),
            query,
            frame,
            XSamConfig.read(GOLDEN / "a" / "config.json"),
            task=query.resolved_task(),
            check=clock.check,
        )


def test_a_long_stage_asks_its_hook_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the hook knows that a request was canceled."""
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    announced: list[str] = []
    clock = StageClock(Deadline(None), announced.append)
    clock.begin("postprocess")
    for _ in range(8):
        now_s += REMINDER_S / 4
        clock.check()
    assert announced == ["postprocess"] * 3
    now_s += 2 * REMINDER_S
    clock.finish()
    assert announced == ["postprocess"] * 3, "a stage that is over is not announced"
