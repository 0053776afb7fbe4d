"""COCO-VGD and COCO-Interactive: objects asked for by points, scribbles, boxes and masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.data.readers.categories import read_categories
from xsam.data.readers.coco import COCO_URL, decode_objects, instance_records
from xsam.data.readers.errors import DatasetError, Layout, RecordError
from xsam.data.readers.files import (
    holds_list,
    iterate_json_list,
    read_json,
    require_file,
    require_folder,
    take,
    take_size,
)
from xsam.data.readers.segmentations import decode_segmentation, rle_area, stack_masks
from xsam.data.readers.source import FileSource, ask, count_if
from xsam.data.samples import NO_CONDITION, PromptedImage, TrainPrompt
from xsam.inference.preprocess import prompt_mask
from xsam.types.masks import BoolMask, box_of_mask
from xsam.types.requests import Query, Task, VisualPrompt

REGION_KINDS = ("point", "scribble", "box", "mask")
_BOX_JITTER = 0.05  # of the box's side
_SCRIBBLE_POINTS = 4
LAYOUTS = {
    Task.VISUAL_GROUNDED: Layout(
        dataset="COCO-VGD",
        folders=(
            "annotations/coco_vgdseg_train.json and COCO's pictures train2017/; instances_train2017.json "
            "serves as well, with regions drawn anew"
        ),
        published="https://huggingface.co/hao9610/X-SAM (vgdseg_annotations)",
    ),
    Task.INTERACTIVE: Layout(
        dataset="COCO-Interactive",
        folders=(
            "coco_interactive_train_psalm.json and COCO's pictures train2017/; instances_train2017.json "
            "serves as well, with regions drawn anew"
        ),
        published=f"https://github.com/zamling/PSALM (PSALM_data.zip), {COCO_URL}",
    ),
}


class CocoRegions(FileSource):
    """Objects of COCO asked for by regions.

    An interactive prompt has one region and means that object; a visual grounded one has regions of
    several categories and means all objects of each. Crowd regions are ignored.

    The file has one of three forms, told apart by what it holds:

    - X-SAM: a list of `{image_file, image_id, image_size: [H, W], annotations: […]}`, each annotation with
      `visual_prompts: {point_visual_prompt: run-length code, scribble_…, box_…, mask_…}`;
    - PSALM: a list of `{image, image_info, anns: […]}`, each annotation with
      `point_visual_prompt_mask: run-length code` and so on. Its points and scribbles are one pixel wide
      and are painted as wide as the model's own preprocessing paints them;
    - COCO's instance file, without regions.

    Where an object has no region of the kinds asked for, one is drawn.

    Args:
        task: "interactive" or "visual_grounded".
        annotations: the file.
        images: the folder of the pictures.
        region_kinds: those to use, of `REGION_KINDS`.
        max_regions: at most so many regions in a visual grounded prompt.
        min_area_px: smaller objects are not asked for while there are others.
        name: for logs and the mixture.

    Source: the X-SAM paper, section 4; Zhang et al. 2024 (PSALM, arXiv 2403.14598).
    """

    def __init__(
        self,
        task: str,
        *,
        annotations: str | Path,
        images: str | Path,
        region_kinds: Sequence[str] = REGION_KINDS,
        max_regions: int = 5,
        min_area_px: int = 16,
        name: str | None = None,
    ) -> None:
        tasks = [known.value for known in LAYOUTS]
        if task not in tasks or isinstance(region_kinds, str) or max_regions < 1:
            raise DatasetError(
                f"task must be {' or '.join(tasks)}, region_kinds a list, max_regions positive; "
                f"got {task!r}, {region_kinds!r}, {max_regions}"
            )
        if not region_kinds or not set(region_kinds) <= set(REGION_KINDS):
            raise DatasetError(f"region_kinds must be some of {list(REGION_KINDS)}, got {list(region_kinds)}")
        self._task = Task(task)
        self._kinds = tuple(region_kinds)
        self._max_regions = max_regions
        self._min_area_px = min_area_px
        layout = LAYOUTS[self._task]
        path = require_file(annotations, layout)
        images = require_folder(images, layout)
        skipped: Counter[str] = Counter()
        names: dict[int, str] = {}  # class of a record → its name; complete once the records are read
        records = _listed(path, skipped, names) if holds_list(path) else _coco_form(path, skipped, names)
        super().__init__(
            name=name or ("coco_interactive" if self._task is Task.INTERACTIVE else "coco_vgd"),
            annotations=path,
            images=images,
            layout=layout,
            records=records,
            skipped=skipped,
        )
        self._class_names = tuple(names[class_] for class_ in sorted(names))
        self._class_index = {class_: index for index, class_ in enumerate(sorted(names))}

    def _prompted(
        self,
        record: dict[str, Any],
        rgb: NDArray[np.uint8],
        rng: np.random.Generator,
        prompts: int,
        where: str,
    ) -> PromptedImage:
        objects, ignored = decode_objects(record, where)
        if not objects:
            raise RecordError(f"{where}: no object holds a pixel")
        masks = stack_masks([mask for _, mask in objects], rgb.shape[:2])
        large = np.flatnonzero(masks.sum(axis=(1, 2)) >= self._min_area_px)
        choices = large if len(large) else np.arange(len(masks))
        items = [item for item, _ in objects]
        classes = np.array([item["class"] for item in items], np.int64)
        drawn = []
        if self._task is Task.INTERACTIVE:
            for pick in rng.permutation(choices)[:prompts]:
                labels = np.full(len(masks), NO_CONDITION, np.int64)
                labels[pick] = 0
                kind, region = self._region(items[pick], masks[pick], rng, where)
                drawn.append(self._prompt([region], labels, where, f"_{kind}"))
        else:
            for _ in range(prompts):
                labels = np.full(len(masks), NO_CONDITION, np.int64)
                regions = []
                wanted = rng.permutation(np.unique(classes[choices]))
                for number, class_ in enumerate(wanted[: int(rng.integers(1, self._max_regions + 1))]):
                    pick = int(rng.choice(choices[classes[choices] == class_]))
                    regions.append(self._region(items[pick], masks[pick], rng, where)[1])
                    labels[classes == class_] = number
                drawn.append(self._prompt(regions, labels, where))
        return PromptedImage(
            rgb=rgb,
            masks=masks,
            prompts=tuple(drawn),
            ignored=ignored,
            classes=np.array([self._class_index[class_] for class_ in classes.tolist()], np.int64),
        )

    def _prompt(
        self, regions: list[BoolMask], labels: NDArray[np.int64], where: str, suffix: str = ""
    ) -> TrainPrompt:
        query = Query(task=self._task, prompts=tuple(VisualPrompt.from_mask(region) for region in regions))
        return TrainPrompt(
            kind=f"{self._task.value}{suffix}",
            conversation=ask(query, where),
            labels=labels,
            regions=tuple(regions),
        )

    def _region(
        self, item: dict[str, Any], mask: BoolMask, rng: np.random.Generator, where: str
    ) -> tuple[str, BoolMask]:
        """A region for an object and its kind: one of the file's, else drawn."""
        where = f"{where}, annotation {item['id']}"
        given = item.get("regions", {})
        kinds = [kind for kind in self._kinds if kind in given and rle_area(given[kind], where) > 0]
        if not kinds:
            kind = str(rng.choice(self._kinds))
            return kind, draw_region(mask, kind, rng)
        kind = str(rng.choice(kinds))
        region = decode_segmentation(given[kind], mask.shape, where)
        if item["thin"] and kind in ("point", "scribble"):
            rows, columns = np.nonzero(region)
            points = zip(columns.tolist(), rows.tolist(), strict=True)
            region = prompt_mask([VisualPrompt.point(x_px, y_px) for x_px, y_px in points], mask.shape)
        return kind, region


def draw_region(mask: BoolMask, kind: str, rng: np.random.Generator) -> BoolMask:
    """A region for an object, as a person would give it.

    Args:
        mask: (H, W), not empty.
        kind: of `REGION_KINDS`. A point is any of the object's pixels, a scribble a line through some of
            them along the longer side, a box the object's with its sides moved a little.
        rng: draws it.

    Returns:
        (H, W) bool, not empty.
    """
    if kind == "mask":
        return mask
    height, width = mask.shape
    x_min, y_min, x_max, y_max = box_of_mask(mask)
    if kind == "box":
        x_shift, y_shift = _BOX_JITTER * (x_max - x_min), _BOX_JITTER * (y_max - y_min)
        jitter = rng.uniform(-1, 1, 4) * [x_shift, y_shift, x_shift, y_shift]
        left, top = max(0.0, x_min + jitter[0]), max(0.0, y_min + jitter[1])
        right, bottom = min(width, x_max + jitter[2]), min(height, y_max + jitter[3])
        return prompt_mask([VisualPrompt.box(left, top, right, bottom)], mask.shape)
    rows, columns = np.nonzero(mask)
    picks = rng.integers(len(rows), size=1 if kind == "point" else _SCRIBBLE_POINTS)
    points = np.stack([columns[picks], rows[picks]], axis=1)
    if kind == "point":
        return prompt_mask([VisualPrompt.point(float(points[0, 0]), float(points[0, 1]))], mask.shape)
    along = points[:, 0] if x_max - x_min >= y_max - y_min else points[:, 1]
    stroke = [(float(x_px), float(y_px)) for x_px, y_px in points[np.argsort(along, kind="stable")]]
    return prompt_mask([VisualPrompt.scribble(stroke)], mask.shape)


def _coco_form(path: Path, skipped: Counter[str], names: dict[int, str]) -> Iterator[dict[str, Any]]:
    data = read_json(path)
    known, class_of = read_categories(data, str(path))
    names.update(enumerate(known))
    yield from instance_records(data, class_of, path, skipped)


def _listed(path: Path, skipped: Counter[str], names: dict[int, str]) -> Iterator[dict[str, Any]]:
    """Records of a file that names no categories: their ids serve as names."""
    for number, item in enumerate(iterate_json_list(path)):
        where = f"{path}, record number {number}"
        if not isinstance(item, dict) or not ("annotations" in item or "anns" in item):
            raise RecordError(f"{where}: has neither 'annotations' nor 'anns'")
        thin = "anns" in item
        if thin:
            info = take(item, "image_info", dict, where)
            identity, file_name = take(info, "id", (int, str), where), take(item, "image", str, where)
            height, width = take_size(info, where)
        else:
            identity = take(item, "image_id", (int, str), where)
            file_name = take(item, "image_file", str, where)
            size = take(item, "image_size", list, where)
            if len(size) != 2 or not all(isinstance(side, int) for side in size):
                raise RecordError(f"{where}: 'image_size' must be [height, width]")
            height, width = size
        place = f"{where} (picture {identity})"
        objects = [_object(ann, thin, place) for ann in item["anns" if thin else "annotations"]]
        if count_if(skipped, "without an object", all(entry["crowd"] for entry in objects)):
            continue
        names.update((entry["class"], f"category {entry['class']}") for entry in objects)
        yield {"id": identity, "file_name": file_name, "height": height, "width": width, "objects": objects}


def _object(annotation: Any, thin: bool, where: str) -> dict[str, Any]:
    identity = take(annotation, "id", int, where)
    where = f"{where}, annotation {identity}"
    given, suffix = (annotation, "_mask") if thin else (annotation.get("visual_prompts") or {}, "")
    names = {kind: f"{kind}_visual_prompt{suffix}" for kind in REGION_KINDS}
    return {
        "id": identity,
        "class": take(annotation, "category_id", int, where),
        "crowd": bool(annotation.get("iscrowd", 0)),
        "segmentation": take(annotation, "segmentation", (list, dict), where),
        "thin": thin,
        "regions": {kind: take(given, key, dict, where) for kind, key in names.items() if key in given},
    }
