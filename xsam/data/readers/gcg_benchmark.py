"""GranD-f's validation and test files: captions and masks in two files, without positions of the phrases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.data.readers.annotations import Identity, describe_skips, skip, take_id
from xsam.data.readers.files import (
    Layout,
    find_image,
    read_json,
    read_rgb,
    require_file,
    require_folder,
    require_some_image,
    take,
)
from xsam.data.readers.segmentations import decode_segmentation
from xsam.errors import DatasetError, RecordError
from xsam.types.masks import BoolMask

GCG_LAYOUT = Layout(
    dataset="GranD-f val and test",
    folders=(
        "val_gcg_coco_caption_gt.json and val_gcg_coco_mask_gt.json in annotations/val_test/ (test_… for the "
        "test split), and the images GranDf_HA_images/val_test/"
    ),
    published="https://huggingface.co/datasets/MBZUAI/GranD-f",
)
_SUFFIX = ".jpg"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DescribedImage:
    """An image with its description and the masks of its phrases.

    Attributes:
        name: id of the image.
        rgb: (H, W, 3) uint8.
        caption: the description.
        phrases: for each mask, its phrase; empty if the file has fewer phrases than masks.
        masks: each (H, W).
    """

    name: str
    rgb: NDArray[np.uint8]
    caption: str
    phrases: tuple[str, ...]
    masks: tuple[BoolMask, ...]


class GcgBenchmark:
    """The images of GranD-f's validation or test split, in the order of the caption file.

    Args:
        captions: `*_gcg_coco_caption_gt.json`: `annotations: [{image_id, caption, labels}]`.
        masks: `*_gcg_coco_mask_gt.json`: `annotations: [{image_id, segmentation}]`, those of an image in the
            order of its `labels`.
        images: folder of the images, `<id>.jpg`.

    Raises:
        MissingDataError: a file or folder does not exist.
        DatasetError: a file is malformed.

    Source: Rasheed et al. 2024 (GLaMM, arXiv 2311.03356), `eval/gcg/evaluate.py`.
    """

    def __init__(self, *, captions: str | Path, masks: str | Path, images: str | Path) -> None:
        self._captions = require_file(captions, GCG_LAYOUT)
        self._masks = require_file(masks, GCG_LAYOUT)
        self._images = require_folder(images, GCG_LAYOUT)
        self._skipped: Counter[str] = Counter()
        self._records = list(self._read())
        if not self._records:
            raise DatasetError(
                f"{captions} holds no usable images", hint=f"skipped: {describe_skips(self._skipped)}"
            )
        require_some_image(self._images, (record["file_name"] for record in self._records), GCG_LAYOUT)

    @property
    def skipped(self) -> Mapping[str, int]:
        """Records that were skipped when the files were read: reason → count."""
        return dict(self._skipped)

    def __len__(self) -> int:
        return len(self._records)

    def read(self, index: int) -> DescribedImage:
        """Read an image.

        Raises:
            MissingDataError: its file does not exist.
            RecordError: its file or a mask is damaged.
        """
        record = self._records[index]
        where = f"{self._masks}, image {record['id']}"
        rgb = read_rgb(find_image(self._images, record["file_name"], GCG_LAYOUT), where)
        masks = [decode_segmentation(code, rgb.shape[:2], where) for code in record["masks"]]
        phrases = [*record["labels"], *[""] * len(masks)][: len(masks)]
        return DescribedImage(
            name=str(record["id"]),
            rgb=rgb,
            caption=record["caption"],
            phrases=tuple(phrases),
            masks=tuple(masks),
        )

    def _read(self) -> list[dict[str, Any]]:
        masks: dict[Identity, list[Any]] = {}
        damaged: set[Identity] = set()
        where = str(self._masks)
        for number, entry in enumerate(take(read_json(self._masks), "annotations", list, where)):
            try:
                image_id = take_id(entry, "image_id", f"{where}, annotation number {number}")
            except RecordError as error:
                skip(self._skipped, "annotations without an image", error)
                continue
            try:
                code = take(entry, "segmentation", (list, dict), f"{where}, annotation number {number}")
                masks.setdefault(image_id, []).append(code)
            except RecordError as error:
                skip(self._skipped, "with a malformed annotation", error)
                damaged.add(image_id)
        found: dict[Identity, dict[str, Any]] = {}
        where = str(self._captions)
        for number, entry in enumerate(take(read_json(self._captions), "annotations", list, where)):
            try:
                image_id = take_id(entry, "image_id", f"{where}, annotation number {number}")
                at = f"{where}, image {image_id}"
                labels = take(entry, "labels", list, at)
                if not all(isinstance(label, str) for label in labels):
                    raise RecordError(f"{at}: 'labels' must be a list of phrases")
                record = {
                    "id": image_id,
                    "file_name": f"{image_id}{_SUFFIX}",
                    "caption": take(entry, "caption", str, at),
                    "labels": labels,
                    "masks": masks.get(image_id, []),
                }
            except RecordError as error:
                skip(self._skipped, "with a malformed caption", error)
                continue
            if image_id in found:  # the evaluation of GLaMM takes the first
                skip(self._skipped, "repeated captions", at)
            elif image_id not in damaged:
                found[image_id] = record
        return list(found.values())
