"""COCO panoptic and instance segmentation, prompted with lists of categories."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from xsam.data.readers.annotations import Identity, instance_records, panoptic_records
from xsam.data.readers.categories import CategoryPrompts, read_categories
from xsam.data.readers.files import (
    Layout,
    find_image,
    read_json,
    read_rgb,
    require_file,
    require_folder,
)
from xsam.data.readers.segmentations import decode_segmentation, stack_masks
from xsam.data.readers.source import FileSource
from xsam.data.samples import PromptedImage
from xsam.errors import RecordError

SegmentIds = NDArray[np.uint32]

COCO_URL = "https://cocodataset.org/#download"
PANOPTIC_LAYOUT = Layout(
    dataset="COCO panoptic",
    folders=(
        "annotations/panoptic_train2017.json, the PNG folder panoptic_train2017/ (a zip file inside the "
        "annotations' zip file), and the images train2017/"
    ),
    published=COCO_URL,
)
INSTANCE_LAYOUT = Layout(
    dataset="COCO instances",
    folders="annotations/instances_train2017.json and the images train2017/",
    published=COCO_URL,
)


class _CategorySource(FileSource):
    """Base of the sources whose prompts list categories; for the last three options see `CategoryPrompts`."""

    LAYOUT: ClassVar[Layout]
    NAME: ClassVar[str]

    def __init__(
        self,
        *,
        annotations: str | Path,
        images: str | Path,
        name: str | None = None,
        absent_categories: int | None = None,
        all_absent_share: float = 0.5,
        max_categories: int = 150,
    ) -> None:
        self._prompt_options: dict[str, Any] = {
            "absent_categories": absent_categories,
            "all_absent_share": all_absent_share,
            "max_categories": max_categories,
        }
        super().__init__(
            name=self.NAME if name is None else name,
            annotations=require_file(annotations, self.LAYOUT),
            images=images,
            layout=self.LAYOUT,
        )

    def _read_categories(self, data: Any) -> dict[Identity, int]:
        """Read the closed set of a file and return category id → index."""
        self._class_names, class_of = read_categories(data, str(self._annotations))
        self._draw = CategoryPrompts(self._class_names, **self._prompt_options)
        return class_of


class CocoPanoptic(_CategorySource):
    """COCO panoptic segmentation, or another dataset in its format.

    Pixels of crowds and pixels without a segment ("void") are ignored. Images with no segments other than
    crowds are skipped.

    Args:
        annotations: such as `panoptic_train2017.json`.
        masks: folder of the PNG files that hold the segment ids.
        images: folder of the images.
        name: name used in logs and in the mixture.
        absent_categories, all_absent_share, max_categories: see `CategoryPrompts`.
    """

    LAYOUT = PANOPTIC_LAYOUT
    NAME = "coco_panoptic"

    def __init__(
        self,
        *,
        annotations: str | Path,
        masks: str | Path,
        images: str | Path,
        name: str | None = None,
        absent_categories: int | None = None,
        all_absent_share: float = 0.5,
        max_categories: int = 150,
    ) -> None:
        require_file(annotations, PANOPTIC_LAYOUT)  # what is missing is named in the order of the arguments
        self._masks = require_folder(masks, PANOPTIC_LAYOUT)
        super().__init__(
            annotations=annotations,
            images=images,
            name=name,
            absent_categories=absent_categories,
            all_absent_share=all_absent_share,
            max_categories=max_categories,
        )

    def _read_records(self) -> Iterable[dict[str, Any]]:
        data = read_json(self._annotations)
        return panoptic_records(data, self._read_categories(data), self._annotations, self._skipped)

    def _make_sample(
        self,
        record: dict[str, Any],
        rgb: NDArray[np.uint8],
        rng: np.random.Generator,
        prompts: int,
        where: str,
    ) -> PromptedImage:
        path = find_image(self._masks, record["mask"], self._layout)
        ids = read_segments(path, record["segments"], rgb.shape[:2], where)
        segments = [(identity, class_) for identity, class_, crowd in record["segments"] if not crowd]
        classes = np.array([class_ for _, class_ in segments], np.int64)
        return PromptedImage(
            rgb=rgb,
            masks=stack_masks([ids == identity for identity, _ in segments], ids.shape),
            prompts=tuple(self._draw.draw(classes, rng, where) for _ in range(prompts)),
            classes=classes,
            ignored=~np.isin(ids, [identity for identity, _ in segments]),
        )


class CocoInstances(_CategorySource):
    """COCO instance segmentation, or another dataset in its format.

    Crowd regions are ignored. Images with no objects other than crowds are skipped, and so are objects too
    thin to cover a pixel.

    Args:
        annotations: such as `instances_train2017.json`.
        images: folder of the images.
        name: name used in logs and in the mixture.
        absent_categories, all_absent_share, max_categories: see `CategoryPrompts`.
    """

    LAYOUT = INSTANCE_LAYOUT
    NAME = "coco_instance"

    def _read_records(self) -> Iterable[dict[str, Any]]:
        data = read_json(self._annotations)
        return instance_records(data, self._read_categories(data), self._annotations, self._skipped)

    def _make_sample(
        self,
        record: dict[str, Any],
        rgb: NDArray[np.uint8],
        rng: np.random.Generator,
        prompts: int,
        where: str,
    ) -> PromptedImage:
        objects, ignored = decode_objects(record, rgb.shape[:2], where)
        classes = np.array([item["class"] for item, _ in objects], np.int64)
        return PromptedImage(
            rgb=rgb,
            masks=stack_masks([mask for _, mask in objects], rgb.shape[:2]),
            prompts=tuple(self._draw.draw(classes, rng, where) for _ in range(prompts)),
            classes=classes,
            ignored=ignored,
        )


def decode_objects(
    record: dict[str, Any], image_hw: tuple[int, int], where: str
) -> tuple[list[tuple[dict[str, Any], NDArray[np.bool_]]], NDArray[np.bool_] | None]:
    """Decode the objects of a record of `instance_records` that cover a pixel, and the pixels of crowds.

    Returns:
        objects with (H, W) bool masks; (H, W) bool mask of crowds, or None if there are none.
    """
    objects, ignored = [], None
    for item in record["objects"]:
        mask = decode_segmentation(item["segmentation"], image_hw, f"{where}, annotation {item['id']}")
        if item["crowd"]:
            ignored = mask if ignored is None else ignored | mask
        elif mask.any():
            objects.append((item, mask))
    return objects, ignored


def read_segments(
    path: Path, segments: Sequence[Sequence[int]], image_hw: tuple[int, int], where: str
) -> SegmentIds:
    """Read the PNG file of a panoptic annotation.

    Args:
        path: an existing file.
        segments: the listed segments, each starts with its id.
        image_hw: (H, W) in pixels.
        where: file and record, for error messages.

    Returns:
        (H, W) ids, 0 = void.

    Raises:
        RecordError: the file differs from the image in size, or from the annotation in its segments.
    """
    colors = read_rgb(path, where).astype(np.uint32)
    ids = colors[..., 0] + 256 * colors[..., 1] + 65536 * colors[..., 2]
    if ids.shape != image_hw:
        raise RecordError(f"{where}: {path.name} differs from the image in size")
    different = (set(np.unique(ids).tolist()) - {0}) ^ {segment[0] for segment in segments}
    if different:
        raise RecordError(
            f"{where}: the segments in {path.name} do not match segments_info: {sorted(different)[:5]}"
        )
    return ids
