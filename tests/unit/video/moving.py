"""Moving pictures with known masks: textured rectangles on a textured ground."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from xsam.errors import ModelError
from xsam.types.masks import BoolMask, MaskRle
from xsam.types.requests import Frame, Query, SegmentationResult, Segments, Status

Box = tuple[int, int, int, int]  # left, top, width, height
HW = (240, 320)


def texture(seed: int, hw: tuple[int, int], low: int = 0, high: int = 255) -> NDArray[np.uint8]:
    """Return gray noise with details of about 8 px."""
    coarse = np.random.default_rng(seed).integers(low, high, (hw[0] // 8 + 2, hw[1] // 8 + 2), np.uint8)
    return np.asarray(cv2.resize(coarse, (hw[1], hw[0]), interpolation=cv2.INTER_CUBIC), np.uint8)


def frame(boxes: Sequence[Box], index: int, *, hw: tuple[int, int] = HW, ground: int = 1) -> Frame:
    """Draw boxes from back to front, each with its own texture, on a ground that stands still."""
    gray = texture(ground, hw, 40, 140)
    for number, (left, top, width, height) in enumerate(boxes):
        skin = texture(100 + number, (height, width), 120 - 60 * (number % 2), 255 - 100 * (number % 2))
        y0, x0, y1, x1 = max(0, top), max(0, left), min(hw[0], top + height), min(hw[1], left + width)
        if y0 < y1 and x0 < x1:
            gray[y0:y1, x0:x1] = skin[y0 - top : y1 - top, x0 - left : x1 - left]
    return Frame(rgb=np.repeat(gray[..., None], 3, axis=2), stamp_ns=(index + 1) * 100_000_000, camera="eye")


def masks(boxes: Sequence[Box], *, hw: tuple[int, int] = HW) -> dict[int, BoolMask]:
    """Return what can be seen of each box."""
    ids = np.zeros(hw, np.int64)
    for number, (left, top, width, height) in enumerate(boxes):
        ids[max(0, top) : max(0, top + height), max(0, left) : max(0, left + width)] = number + 1
    return {number: ids == number + 1 for number in range(len(boxes))}


def answer(found: Mapping[int, BoolMask], asked: Query, source: Frame) -> SegmentationResult:
    """Return an answer with these masks, labels being their numbers."""
    seen = {number: mask for number, mask in found.items() if mask.any()}
    codes = tuple(MaskRle.encode(mask) for mask in seen.values())
    return SegmentationResult(
        status=Status.FOUND if seen else Status.NOT_FOUND,
        message="" if seen else "nothing is there",
        query=asked,
        segments=Segments(
            image_hw=source.image_hw,
            masks=codes,
            labels=tuple(f"box {number}" for number in seen),
            label_indices=np.zeros(len(seen), np.int32),
            scores=np.full(len(seen), 0.9, np.float32),
            boxes_xyxy=np.array([code.crop().box_xyxy for code in codes], np.float32).reshape(-1, 4),
        ),
        model_id="true masks",
        camera=source.camera,
        stamp_ns=source.stamp_ns,
    )


class TrueMasks:
    """An engine that knows the masks of each frame, by its stamp, and counts how often it is asked."""

    model_id = "true masks"

    def __init__(self, scenes: Mapping[int, Sequence[Box]]) -> None:
        self.scenes = dict(scenes)
        self.asked: list[tuple[Frame, Query]] = []
        self.fails = False

    def segment(self, source: Frame, queries: Sequence[Query], **_: object) -> list[SegmentationResult]:
        self.asked += [(source, query) for query in queries]
        if self.fails:
            raise ModelError("out of order")
        found = masks(self.scenes[source.stamp_ns], hw=source.image_hw)
        pointed = [prompt.mask for query in queries for prompt in query.prompts if prompt.mask is not None]
        if pointed:
            found = {number: mask for number, mask in found.items() if (mask & pointed[0]).any()}
        return [answer(found, query, source) for query in queries]

    def warm_up(self) -> None: ...

    def close(self) -> None: ...
