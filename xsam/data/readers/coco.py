"""COCO panoptic and instance segmentation, prompted with lists of categories."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.data.readers.categories import CategoryPrompts, read_categories
from xsam.data.readers.files import (
    Layout,
    find_image,
    read_json,
    read_rgb,
    require_file,
    require_folder,
    take,
    take_size,
)
from xsam.data.readers.segmentations import decode_segmentation, stack_masks
from xsam.data.readers.source import FileSource, count_if
from xsam.data.samples import PromptedImage
from xsam.errors import RecordError

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
    """Base of the sources whose prompts list categories; for the arguments see `CategoryPrompts`."""

    def __init__(
        self, *, absent_categories: int | None, all_absent_share: float, max_categories: int, **files: Any
    ) -> None:
        self._prompt_options: dict[str, Any] = {
            "absent_categories": absent_categories,
            "all_absent_share": all_absent_share,
            "max_categories": max_categories,
        }
        super().__init__(**files)

    def _read_categories(self, data: Any) -> dict[int, int]:
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

    def __init__(
        self,
        *,
        annotations: str | Path,
        masks: str | Path,
        images: str | Path,
        name: str = "coco_panoptic",
        absent_categories: int | None = None,
        all_absent_share: float = 0.5,
        max_categories: int = 150,
    ) -> None:
        path = require_file(annotations, PANOPTIC_LAYOUT)
        self._masks = require_folder(masks, PANOPTIC_LAYOUT)
        super().__init__(
            name=name,
            annotations=path,
            images=images,
            layout=PANOPTIC_LAYOUT,
            absent_categories=absent_categories,
            all_absent_share=all_absent_share,
            max_categories=max_categories,
        )

    def _read_records(self) -> Iterable[dict[str, Any]]:
        data = read_json(self._annotations)
        return _panoptic_records(data, self._read_categories(data), self._annotations, self._skipped)

    def _make_sample(
        self,
        record: dict[str, Any],
        rgb: NDArray[np.uint8],
        rng: np.random.Generator,
        prompts: int,
        where: str,
    ) -> PromptedImage:
        colors = read_rgb(find_image(self._masks, record["mask"], self._layout), where).astype(np.uint32)
        ids = colors[..., 0] + 256 * colors[..., 1] + 65536 * colors[..., 2]
        if ids.shape != rgb.shape[:2]:
            raise RecordError(f"{where}: {record['mask']} differs from the image in size")
        listed = [identity for identity, _, _ in record["segments"]]
        if set(np.unique(ids).tolist()) - {0} != set(listed):
            raise RecordError(f"{where}: the segments in {record['mask']} do not match segments_info")
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

    def __init__(
        self,
        *,
        annotations: str | Path,
        images: str | Path,
        name: str = "coco_instance",
        absent_categories: int | None = None,
        all_absent_share: float = 0.5,
        max_categories: int = 150,
    ) -> None:
        super().__init__(
            name=name,
            annotations=require_file(annotations, INSTANCE_LAYOUT),
            images=images,
            layout=INSTANCE_LAYOUT,
            absent_categories=absent_categories,
            all_absent_share=all_absent_share,
            max_categories=max_categories,
        )

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
        objects, ignored = decode_objects(record, where)
        classes = np.array([item["class"] for item, _ in objects], np.int64)
        return PromptedImage(
            rgb=rgb,
            masks=stack_masks([mask for _, mask in objects], rgb.shape[:2]),
            prompts=tuple(self._draw.draw(classes, rng, where) for _ in range(prompts)),
            classes=classes,
            ignored=ignored,
        )


def instance_records(
    data: Any, class_of: dict[int, int], path: Path, skipped: Counter[str]
) -> Iterator[dict[str, Any]]:
    """Parse the images of a COCO instance file with their objects, in file order.

    Args:
        data: content of the file.
        class_of: category id → index.
        path: the file, for error messages.
        skipped: counts the skipped records.

    Yields:
        `id`, `file_name`, `height`, `width`, and `objects`: each `id`, `class`, `crowd`, `segmentation`.
    """
    objects: dict[int | str, list[dict[str, Any]]] = defaultdict(list)
    for number, annotation in enumerate(take(data, "annotations", list, str(path))):
        identity = take(annotation, "id", int, f"{path}, annotation number {number}")
        where = f"{path}, annotation {identity}"
        objects[take(annotation, "image_id", (int, str), where)].append(
            {
                "id": identity,
                "class": _class(annotation, class_of, where),
                "crowd": bool(annotation.get("iscrowd", 0)),
                "segmentation": take(annotation, "segmentation", (list, dict), where),
            }
        )
    for image in image_records(data, path):
        found = objects.pop(image["id"], [])
        if count_if(skipped, "without an object", all(item["crowd"] for item in found)):
            continue
        yield {**image, "objects": found}
    _check_used(objects, path)


def decode_objects(
    record: dict[str, Any], where: str
) -> tuple[list[tuple[dict[str, Any], NDArray[np.bool_]]], NDArray[np.bool_] | None]:
    """Decode the objects of a record of `instance_records` that cover a pixel, and the pixels of crowds.

    Returns:
        objects with (H, W) bool masks; (H, W) bool mask of crowds, or None if there are none.
    """
    image_hw = (record["height"], record["width"])
    objects, ignored = [], None
    for item in record["objects"]:
        mask = decode_segmentation(item["segmentation"], image_hw, f"{where}, annotation {item['id']}")
        if item["crowd"]:
            ignored = mask if ignored is None else ignored | mask
        elif mask.any():
            objects.append((item, mask))
    return objects, ignored


def _panoptic_records(
    data: Any, class_of: dict[int, int], path: Path, skipped: Counter[str]
) -> Iterator[dict[str, Any]]:
    annotations: dict[int | str, Any] = {}
    for number, annotation in enumerate(take(data, "annotations", list, str(path))):
        where = f"{path}, annotation number {number}"
        annotations[take(annotation, "image_id", (int, str), where)] = annotation
    for image in image_records(data, path):
        where = f"{path}, image {image['id']}"
        annotation = annotations.pop(image["id"], None)
        if count_if(skipped, "without an annotation", annotation is None):
            continue
        segments = [
            (
                take(segment, "id", int, f"{where}, segment"),
                _class(segment, class_of, f"{where}, segment"),
                bool(segment.get("iscrowd", 0)),
            )
            for segment in take(annotation, "segments_info", list, where)
        ]
        if count_if(skipped, "without a segment", all(crowd for _, _, crowd in segments)):
            continue
        yield {**image, "mask": take(annotation, "file_name", str, where), "segments": segments}
    _check_used(annotations, path)


def image_records(data: Any, path: Path) -> Iterator[dict[str, Any]]:
    """Parse the field `images` of a COCO file: `id` (int or str), `file_name`, `height`, `width`."""
    for number, image in enumerate(take(data, "images", list, str(path))):
        identity = take(image, "id", (int, str), f"{path}, image number {number}")
        where = f"{path}, image {identity}"
        height, width = take_size(image, where)
        file_name = take(image, "file_name", str, where)
        yield {"id": identity, "file_name": file_name, "height": height, "width": width}


def _class(record: Any, class_of: dict[int, int], where: str) -> int:
    identity = take(record, "category_id", int, where)
    if identity not in class_of:
        raise RecordError(f"{where}: category {identity} is not in 'categories'")
    return class_of[identity]


def _check_used(unused: dict[int | str, Any], path: Path) -> None:
    if unused:
        raise RecordError(f"{path}: annotations of image {next(iter(unused))}, which is not in 'images'")
