"""COCO: panoptic and instance segmentation, asked for by lists of categories."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.data.readers.categories import CategoryPrompts, read_categories
from xsam.data.readers.errors import Layout, RecordError
from xsam.data.readers.files import (
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

COCO_URL = "https://cocodataset.org/#download"
PANOPTIC_LAYOUT = Layout(
    dataset="COCO panoptic",
    folders=(
        "annotations/panoptic_train2017.json, the PNG folder panoptic_train2017/ (a zip file inside the "
        "annotations' zip file) and the pictures train2017/"
    ),
    published=COCO_URL,
)
INSTANCE_LAYOUT = Layout(
    dataset="COCO instances",
    folders="annotations/instances_train2017.json and the pictures train2017/",
    published=COCO_URL,
)


class CocoPanoptic(FileSource):
    """COCO panoptic segmentation, or another set in its format.

    Pixels of crowds and pixels without a segment ("void") are ignored. Pictures without a segment that
    is no crowd are left out.

    Args:
        annotations: such as `panoptic_train2017.json`.
        masks: the folder of PNG files that hold the segment ids.
        images: the folder of the pictures.
        name: for logs and the mixture.
        absent_categories: see `CategoryPrompts`, also for the other two.
        all_absent_share: how often all that may be listed are.
        max_categories: limit of a list.
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
        layout = PANOPTIC_LAYOUT
        path = require_file(annotations, layout)
        self._masks = require_folder(masks, layout)
        images = require_folder(images, layout)
        data = read_json(path)
        names, class_of = read_categories(data, str(path))
        self._draw = CategoryPrompts(
            names,
            absent_categories=absent_categories,
            all_absent_share=all_absent_share,
            max_categories=max_categories,
        )
        skipped: Counter[str] = Counter()
        super().__init__(
            name=name,
            annotations=path,
            images=images,
            layout=layout,
            records=_panoptic_records(data, class_of, path, skipped),
            skipped=skipped,
            class_names=names,
        )

    def _prompted(
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
            raise RecordError(f"{where}: {record['mask']} differs from the picture in size")
        listed = [identity for identity, _, _ in record["segments"]]
        if set(np.unique(ids).tolist()) - {0} != set(listed):
            raise RecordError(f"{where}: the segments of {record['mask']} are not those of segments_info")
        segments = [(identity, class_) for identity, class_, crowd in record["segments"] if not crowd]
        classes = np.array([class_ for _, class_ in segments], np.int64)
        return PromptedImage(
            rgb=rgb,
            masks=stack_masks([ids == identity for identity, _ in segments], ids.shape),
            prompts=tuple(self._draw.draw(classes, rng, where) for _ in range(prompts)),
            classes=classes,
            ignored=~np.isin(ids, [identity for identity, _ in segments]),
        )


class CocoInstances(FileSource):
    """COCO instance segmentation, or another set in its format.

    Crowd regions are ignored. Pictures without an object that is no crowd are left out, and so are
    objects too thin to hold a pixel.

    Args:
        annotations: such as `instances_train2017.json`.
        images: the folder of the pictures.
        name: for logs and the mixture.
        absent_categories: see `CategoryPrompts`, also for the other two.
        all_absent_share: how often all that may be listed are.
        max_categories: limit of a list.
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
        layout = INSTANCE_LAYOUT
        path = require_file(annotations, layout)
        images = require_folder(images, layout)
        data = read_json(path)
        names, class_of = read_categories(data, str(path))
        self._draw = CategoryPrompts(
            names,
            absent_categories=absent_categories,
            all_absent_share=all_absent_share,
            max_categories=max_categories,
        )
        skipped: Counter[str] = Counter()
        super().__init__(
            name=name,
            annotations=path,
            images=images,
            layout=layout,
            records=instance_records(data, class_of, path, skipped),
            skipped=skipped,
            class_names=names,
        )

    def _prompted(
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
    """Pictures of a COCO instance file with their objects, in the order of the file.

    Args:
        data: content of the file.
        class_of: category id → index.
        path: the file, for messages.
        skipped: counts what is left out.

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
    """Objects of a record of `instance_records` that hold a pixel, and the pixels of crowds.

    Returns:
        objects with masks (H, W) bool; (H, W) bool, or None without a crowd.
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
        where = f"{path}, picture {image['id']}"
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
    """The field `images` of a COCO file: `id`, `file_name`, `height`, `width`; ids may be text."""
    for number, image in enumerate(take(data, "images", list, str(path))):
        identity = take(image, "id", (int, str), f"{path}, picture number {number}")
        where = f"{path}, picture {identity}"
        height, width = take_size(image, where)
        file_name = take(image, "file_name", str, where)
        yield {"id": identity, "file_name": file_name, "height": height, "width": width}


def _class(record: Any, class_of: dict[int, int], where: str) -> int:
    identity = take(record, "category_id", int, where)
    if identity not in class_of:
        raise RecordError(f"{where}: category {identity} is not in 'categories'")
    return class_of[identity]


def _check_used(left: dict[int | str, Any], path: Path) -> None:
    if left:
        raise RecordError(f"{path}: annotations of picture {next(iter(left))}, which is not in 'images'")
