"""Synthetic results: correct ones built from a question's ground truth, and others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xsam.eval.questions import (
    CaptionTruth,
    CountTruth,
    InstanceTruth,
    PanopticTruth,
    PresenceTruth,
    Question,
    RegionTruth,
    SemanticTruth,
)
from xsam.types.masks import BoolMask, MaskRle, box_of_mask
from xsam.types.requests import Query, SegmentationResult, Segments, Status

Found = tuple[int, BoolMask, float]  # label index, mask, score


def result(
    query: Query,
    image_hw: tuple[int, int],
    found: Sequence[Found] = (),
    *,
    text: str = "",
    phrases: tuple[str, ...] = (),
) -> SegmentationResult:
    """Build a result: FOUND with these segments, NOT_FOUND without any."""
    ordered = sorted(found, key=lambda entry: -entry[2])
    return SegmentationResult(
        status=Status.FOUND if ordered else Status.NOT_FOUND,
        query=query,
        text=text,
        phrases=phrases,
        segments=Segments(
            image_hw=image_hw,
            masks=tuple(MaskRle.encode(mask) for _, mask, _ in ordered),
            labels=tuple(str(label) for label, _, _ in ordered),
            label_indices=np.array([label for label, _, _ in ordered], np.int32),
            scores=np.array([score for _, _, score in ordered], np.float32),
            boxes_xyxy=np.array([box_of_mask(m) for _, m, _ in ordered], np.float32).reshape(-1, 4),
        ),
    )


def refused(query: Query, image_hw: tuple[int, int]) -> SegmentationResult:
    return SegmentationResult(
        status=Status.REFUSED,
        query=query,
        segments=Segments(image_hw=image_hw),
        code="INVALID_QUERY",
        message="too long",
    )


def right_answer(question: Question, image_hw: tuple[int, int]) -> SegmentationResult:
    """Return the result of a perfect model."""
    truth, query = question.truth, question.query
    text, phrases = "", ()
    if isinstance(truth, RegionTruth):
        found = [(0, truth.mask)] if truth.mask.any() else []
    elif isinstance(truth, PresenceTruth):
        found = [(0, np.ones(image_hw, np.bool_))] if truth.present else []
    elif isinstance(truth, CountTruth):
        cells = np.arange(image_hw[0] * image_hw[1]).reshape(image_hw)
        labels = [label for label, count in enumerate(truth.counts) for _ in range(count)]
        found = [(label, cells == index) for index, label in enumerate(labels)]
    elif isinstance(truth, InstanceTruth):
        found = [(label, mask) for label, masks in enumerate(truth.masks) for mask in masks]
    elif isinstance(truth, PanopticTruth):
        found = [(label, truth.segment_ids == segment) for segment, label in truth.classes.items()]
    elif isinstance(truth, SemanticTruth):
        present = sorted(set(np.unique(truth.class_map).tolist()) - {-1})
        found = [(label, truth.class_map == label) for label in present]
    else:
        assert isinstance(truth, CaptionTruth)
        found, text, phrases = list(enumerate(truth.masks)), truth.text, truth.phrases
    return result(
        query,
        image_hw,
        [(label, mask, 0.9) for label, mask in found if mask.any()],
        text=text,
        phrases=phrases,
    )


def rectangle(x_min: int, y_min: int, x_max: int, y_max: int, image_hw: tuple[int, int]) -> BoolMask:
    """Return a mask of a filled box, max exclusive."""
    mask = np.zeros(image_hw, np.bool_)
    mask[y_min:y_max, x_min:x_max] = True
    return mask
