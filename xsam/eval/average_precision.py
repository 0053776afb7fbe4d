"""Mask AP as defined by COCO, computed with `pycocotools`."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from xsam.types.masks import MaskRle


@dataclass(frozen=True, slots=True, kw_only=True)
class AveragePrecision:
    """AP scores in [0, 1]; None if no category has an object."""

    ap: float | None  # mean over IoU 0.50, 0.55, … 0.95
    ap50: float | None
    ap75: float | None


class MaskAP:
    """Accumulates the objects and detections of many images, by category.

    A category without objects in any image does not enter the mean. To exclude a category from an image, add
    neither objects nor detections of it for that image.
    """

    def __init__(self) -> None:
        self._sizes: list[tuple[int, int]] = []  # (H, W) of each image, (0, 0) without masks
        self._categories: dict[str, int] = {}
        self._truth: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []

    def add(
        self,
        *,
        truth: Iterable[tuple[str, MaskRle]],
        found: Iterable[tuple[str, MaskRle, float]],
        crowd: Iterable[tuple[str, MaskRle]] = (),
    ) -> None:
        """Add one image; all its masks have the same size.

        Args:
            truth: category and mask of each object.
            found: category, mask, and score of each detection; the 100 best per category count.
            crowd: regions of a category in which detections are neither correct nor incorrect.
        """
        self._sizes.append((0, 0))
        for is_crowd, regions in ((0, truth), (1, crowd)):
            for category, mask in regions:
                record = self._record(len(self._truth), category, mask)
                self._truth.append({**record, "iscrowd": is_crowd})
        for category, mask, score in found:
            record = self._record(len(self._found), category, mask)
            self._found.append({**record, "iscrowd": 0, "score": float(score)})

    def scores(self) -> AveragePrecision:
        """Compute AP over all images added so far."""
        if not any(not record["iscrowd"] for record in self._truth):
            return AveragePrecision(ap=None, ap50=None, ap75=None)
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            evaluation = COCOeval(self._data_set(self._truth), self._data_set(self._found), "segm")
            evaluation.params.areaRng = [[0, 1e10]]  # only the "all sizes" range: a quarter of the work
            evaluation.params.areaRngLbl = ["all"]
            evaluation.evaluate()
            evaluation.accumulate()
        precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (IoU, recall, category)
        ious = evaluation.params.iouThrs
        return AveragePrecision(
            ap=_mean(precision),
            ap50=_mean(precision[np.isclose(ious, 0.5)]),
            ap75=_mean(precision[np.isclose(ious, 0.75)]),
        )

    def _record(self, index: int, category: str, mask: MaskRle) -> dict[str, Any]:
        self._sizes[-1] = (mask.height, mask.width)
        return {
            "id": index + 1,  # pycocotools takes 0 for "no match"
            "image_id": len(self._sizes),
            "category_id": self._categories.setdefault(category, len(self._categories) + 1),
            "segmentation": {"size": [mask.height, mask.width], "counts": mask.counts},
            "area": mask.area,
        }

    def _data_set(self, annotations: list[dict[str, Any]]) -> COCO:
        data = COCO()
        data.dataset = {
            "images": [
                {"id": index + 1, "height": height, "width": width}
                for index, (height, width) in enumerate(self._sizes)
            ],
            "categories": [{"id": identity, "name": name} for name, identity in self._categories.items()],
            "annotations": annotations,
        }
        data.createIndex()
        return data


def _mean(precision: np.ndarray) -> float | None:
    """Average the valid entries; −1 marks a category without objects."""
    known = precision[precision > -1]
    return float(known.mean()) if known.size else None
