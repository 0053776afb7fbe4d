"""YOLO segmentation: `labels/NAME.txt` with one polygon per object, `images/`, and `data.yaml`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from xsam.media.sinks.base import SegmentedFrame, Sink, merged
from xsam.media.sinks.labels import LabelNumbers
from xsam.types.masks import MaskCrop, MaskRle
from xsam.types.requests import Query
from xsam.weights.files import replace_file

MIN_IOU = 0.9
"""An object whose polygon agrees less with its mask is counted in the notes."""


class YoloSink(Sink):
    """One text file per frame, also for frames without objects: they are negatives.

    A polygon has no holes, and parts of an object are joined by lines, as the format's own tools do. What
    that changes is measured: the notes give the overlap of polygons and masks.
    """

    def __init__(self, folder: Path, queries: Sequence[Query]) -> None:
        self._folder = folder
        self._labels = LabelNumbers(queries)
        self._count, self._sum, self._worst, self._low, self._doubtful = 0, 0.0, 1.0, 0, 0

    def begin(self, earlier: Iterable[dict[str, Any]]) -> None:
        self._labels.read(earlier)

    def add(self, item: SegmentedFrame) -> None:
        if not item.answered:
            return
        segments = merged(item.results, item.frame.image_hw)
        self._doubtful += sum(map(bool, segments.doubts))
        path = self._folder / "labels" / f"{item.source.name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, self.text(zip(segments.labels, segments.masks, strict=True)).encode())

    def text(self, masks: Iterable[tuple[str, MaskRle]]) -> str:
        """Return the lines for the masks of one frame, and measure what polygons change in them."""
        lines = []
        for label, mask in masks:
            number = self._labels.number(label)
            if mask.area == 0:
                continue
            polygon = polygon_of_mask(mask)
            iou = polygon_iou(polygon, mask)
            self._count, self._sum, self._worst = self._count + 1, self._sum + iou, min(self._worst, iou)
            self._low += iou < MIN_IOU
            lines.append(" ".join([str(number), *(f"{value:.6f}" for value in polygon.ravel())]))
        return "".join(f"{line}\n" for line in lines)

    def finish(self, entries: Callable[[], Iterable[dict[str, Any]]]) -> list[Path]:
        names = "".join(f"  {number}: {json.dumps(name)}\n" for number, name in enumerate(self._labels.names))
        path = self._folder / "data.yaml"
        names = f"names:\n{names}" if names else "names: {}\n"
        head = "# val are the same images: split them before a score means anything\n"
        replace_file(path, f"{head}train: images\nval: images\n{names}".encode())
        return [path, self._folder / "labels"]

    def notes(self) -> list[str]:
        notes = []
        if self._count:
            notes.append(
                f"YOLO polygons have a mean IoU of {self._sum / self._count:.1%} with the masks, the lowest "
                f"{self._worst:.1%}; {self._low} of {self._count} are below {MIN_IOU:.0%} (holes are lost)"
            )
        if self._doubtful:
            notes.append(
                f"{self._doubtful} objects in the YOLO labels are in doubt; which ones is in results.jsonl"
            )
        return notes


def polygon_of_mask(mask: MaskRle) -> NDArray[np.float64]:
    """Return the outline of a mask that is not empty as (N, 2) x, y, divided by width and height.

    Corners are at the centers of the outermost pixels, half a pixel from the corner of the image. The parts
    of an object are joined by lines, there and back, between their nearest corners.
    """
    crop = mask.crop()
    contours, _ = cv2.findContours(crop.pixels.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outline = _joined_parts([contour[:, 0].astype(np.int32) for contour in contours])
    pixels = outline + np.array([crop.left, crop.top])
    return np.asarray((pixels + 0.5) / (mask.width, mask.height), np.float64)


def polygon_iou(polygon: NDArray[np.float64], mask: MaskRle) -> float:
    """Return the overlap of a mask with its polygon as a trainer draws it, from six decimals."""
    pixels = np.floor(np.round(polygon, 6) * (mask.width, mask.height)).astype(np.int32)
    canvas = np.zeros((mask.height, mask.width), np.uint8)
    cv2.fillPoly(canvas, [pixels], (1,))
    crop = MaskCrop.of(canvas.astype(np.bool_))
    return mask.iou(MaskRle.encode_crop(crop.pixels, top=crop.top, left=crop.left, image_hw=canvas.shape))


def _joined_parts(parts: list[NDArray[np.int32]]) -> NDArray[np.int32]:
    """Join closed polygons into one: the nearest part next, entered and left at the nearest corner."""
    parts = sorted(parts, key=len, reverse=True)
    outline = parts.pop(0)
    while parts:
        best = min(range(len(parts)), key=lambda index: _nearest(outline, parts[index])[2])
        part = parts.pop(best)
        ours, theirs, _ = _nearest(outline, part)
        loop = np.concatenate([part[theirs:], part[: theirs + 1]])  # back to where it was entered
        outline = np.concatenate([outline[: ours + 1], loop, outline[ours:]])
    return outline


def _nearest(first: NDArray[np.int32], second: NDArray[np.int32]) -> tuple[int, int, int]:
    """Return the indices of the nearest corners and their squared distance."""
    squared = ((first[:, None, :].astype(np.int64) - second[None]) ** 2).sum(axis=2)
    ours, theirs = np.unravel_index(int(squared.argmin()), squared.shape)
    return int(ours), int(theirs), int(squared[ours, theirs])
