"""COCO-VGD and COCO-Interactive: objects prompted with points, scribbles, boxes, and masks."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.data.readers.annotations import (
    MALFORMED,
    instance_records,
    skip,
    take_flag,
    take_id,
    take_number,
)
from xsam.data.readers.categories import read_categories
from xsam.data.readers.coco import COCO_URL, decode_objects
from xsam.data.readers.files import (
    Layout,
    holds_list,
    iterate_json_list,
    read_json,
    require_file,
    take,
    take_size,
)
from xsam.data.readers.segmentations import decode_segmentation, rle_area, stack_masks
from xsam.data.readers.source import FileSource, count_if, record_conversation
from xsam.data.region_prompts import draw_region_prompt
from xsam.data.samples import NO_CONDITION, PromptedImage, TrainPrompt
from xsam.errors import InvalidOptionError, RecordError
from xsam.inference.prompt_masks import prompt_mask
from xsam.types.masks import BoolMask, box_of_mask
from xsam.types.requests import PromptKind, Query, Task, VisualPrompt

REGION_KINDS = ("point", "scribble", "box", "mask")
_BOX_JITTER = 0.05  # fraction of the box's side
_SCRIBBLE_POINTS = 4
LAYOUTS = {
    Task.VISUAL_GROUNDED: Layout(
        dataset="COCO-VGD",
        folders=(
            "annotations/coco_vgdseg_train.json and COCO's images train2017/; instances_train2017.json "
            "also works, with regions drawn at random"
        ),
        published="https://huggingface.co/hao9610/X-SAM (vgdseg_annotations)",
    ),
    Task.INTERACTIVE: Layout(
        dataset="COCO-Interactive",
        folders=(
            "coco_interactive_train_psalm.json and COCO's images train2017/; instances_train2017.json "
            "also works, with regions drawn at random"
        ),
        published=f"https://github.com/zamling/PSALM (PSALM_data.zip), {COCO_URL}",
    ),
}


class CocoRegions(FileSource):
    """COCO objects prompted with regions.

    An interactive prompt has one region and refers to that object; a visual grounded prompt has regions of
    several categories and refers to all objects of each. Crowd regions are ignored.

    The file has one of three forms, distinguished by its content:

    - X-SAM: a list of `{image_file, image_id, image_size: [H, W], annotations: […]}`, each annotation with
      `visual_prompts: {point_visual_prompt: run-length code, scribble_…, box_…, mask_…}`;
    - PSALM: a list of `{image, image_info, anns: […]}`, each annotation with
      `point_visual_prompt_mask: run-length code` and so on. Its points and scribbles are one pixel wide; they
      are widened to what the model's preprocessing paints;
    - COCO's instance file, without regions.

    If an object has no region of the requested kinds, one is drawn at random.

    Args:
        task: "interactive" or "visual_grounded".
        annotations: the annotation file.
        images: folder of the images.
        region_kinds: the kinds to use, a subset of `REGION_KINDS`.
        max_regions: maximum number of regions in a visual grounded prompt.
        min_area_px: smaller objects are not prompted if there are larger ones.
        name: name used in logs and in the mixture.

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
            raise InvalidOptionError(
                f"task must be {' or '.join(tasks)}, region_kinds a list, max_regions positive; "
                f"got {task!r}, {region_kinds!r}, {max_regions}"
            )
        if not region_kinds or not set(region_kinds) <= set(REGION_KINDS):
            raise InvalidOptionError(
                f"region_kinds must be a subset of {list(REGION_KINDS)}, got {list(region_kinds)}"
            )
        self._task = Task(task)
        self._kinds = tuple(region_kinds)
        self._max_regions = max_regions
        self._min_area_px = min_area_px
        layout = LAYOUTS[self._task]
        super().__init__(
            name=name or ("coco_interactive" if self._task is Task.INTERACTIVE else "coco_vgd"),
            annotations=require_file(annotations, layout),
            images=images,
            layout=layout,
        )

    def _read_records(self) -> Iterator[dict[str, Any]]:
        path = self._annotations
        names: dict[int, str] = {}  # class of a record → its name; complete once all records are read
        yield from (_listed if holds_list(path) else _coco_form)(path, self._skipped, names)
        self._class_names = tuple(names[class_] for class_ in sorted(names))
        self._class_index = {class_: index for index, class_ in enumerate(sorted(names))}

    def _make_sample(
        self,
        record: dict[str, Any],
        rgb: NDArray[np.uint8],
        rng: np.random.Generator,
        prompts: int,
        where: str,
    ) -> PromptedImage:
        objects, ignored = decode_objects(record, rgb.shape[:2], where)
        if not objects:
            raise RecordError(f"{where}: no object covers any pixels")
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
                for index, class_ in enumerate(wanted[: int(rng.integers(1, self._max_regions + 1))]):
                    pick = int(rng.choice(choices[classes[choices] == class_]))
                    regions.append(self._region(items[pick], masks[pick], rng, where)[1])
                    labels[classes == class_] = index
                drawn.append(self._prompt(regions, labels, where))
        return PromptedImage(
            rgb=rgb,
            masks=masks,
            prompts=tuple(drawn),
            ignored=ignored,
            classes=np.array([self._class_index[class_] for class_ in classes.tolist()], np.int64),
        )

    def _make_whole(self, record: dict[str, Any], rgb: NDArray[np.uint8], where: str) -> PromptedImage:
        """Ask for every object with each of its regions, or for all categories with each kind of region.

        In a visual grounded prompt one object of each category shows its region. It is drawn at random, but
        is the same each time, and for every kind that it has; the objects of the prompt are those that have
        a region of this kind. Crowds are objects of interactive prompts, and no objects of visual grounded
        ones, as in the published evaluations.
        """
        interactive = self._task is Task.INTERACTIVE
        items, masks = [], []
        for item in record["objects"]:
            mask = decode_segmentation(
                item["segmentation"], rgb.shape[:2], f"{where}, annotation {item['id']}"
            )
            if mask.any() and (interactive or not item["crowd"]):
                items.append(item)
                masks.append(mask)
        rank = np.random.default_rng(zlib.crc32(str(record["id"]).encode())).permutation(len(items))
        prompts = []
        for kind in self._kinds:
            regions: dict[int, BoolMask] = {}
            for index, item in enumerate(items):
                region = self._given_region(item, kind, rgb.shape[:2], f"{where}, annotation {item['id']}")
                if region is not None:
                    regions[index] = region
            groups = [[index] for index in regions]  # masks that are asked for, for each region
            if not interactive:
                classes = sorted({items[index]["class"] for index in regions})
                groups = [[i for i in regions if items[i]["class"] == class_] for class_ in classes]
            for asked in [[group] for group in groups] if interactive else [groups] if groups else []:
                labels = np.full(len(masks), NO_CONDITION, np.int64)
                for label, group in enumerate(asked):
                    labels[group] = label
                shown = [regions[min(group, key=rank.__getitem__)] for group in asked]
                prompts.append(self._prompt(shown, labels, where, f"_{kind}"))
        if not prompts:
            raise RecordError(f"{where}: no object has a region of the kinds {', '.join(self._kinds)}")
        return PromptedImage(
            rgb=rgb,
            masks=stack_masks(masks, rgb.shape[:2]),
            prompts=tuple(prompts),
            classes=np.array([self._class_index[item["class"]] for item in items], np.int64),
        )

    def _prompt(
        self, regions: list[BoolMask], labels: NDArray[np.int64], where: str, suffix: str = ""
    ) -> TrainPrompt:
        query = Query(task=self._task, prompts=tuple(VisualPrompt.from_mask(region) for region in regions))
        return TrainPrompt(
            kind=f"{self._task.value}{suffix}",
            conversation=record_conversation(query, where),
            labels=labels,
            regions=tuple(regions),
        )

    def _region(
        self, item: dict[str, Any], mask: BoolMask, rng: np.random.Generator, where: str
    ) -> tuple[str, BoolMask]:
        """Return the kind and mask of a region for an object: from the file if possible, else random."""
        where = f"{where}, annotation {item['id']}"
        given = item.get("regions", {})
        kinds = [kind for kind in self._kinds if kind in given and rle_area(given[kind], where) > 0]
        if not kinds:
            kind = str(rng.choice(self._kinds))
            return kind, draw_region(mask, kind, rng)
        kind = str(rng.choice(kinds))
        region = self._given_region(item, kind, mask.shape, where)
        assert region is not None
        return kind, region

    def _given_region(
        self, item: dict[str, Any], kind: str, image_hw: tuple[int, int], where: str
    ) -> BoolMask | None:
        """Return the region of this kind that is in the file; None if it is empty or missing."""
        code = item.get("regions", {}).get(kind)
        if code is None or not rle_area(code, where):
            return None
        region = decode_segmentation(code, image_hw, where)
        if item["thin"] and kind in ("point", "scribble"):
            rows, columns = np.nonzero(region)
            points = zip(columns.tolist(), rows.tolist(), strict=True)
            region = prompt_mask([VisualPrompt.point(x_px, y_px) for x_px, y_px in points], image_hw)
        return region


def draw_region(mask: BoolMask, kind: str, rng: np.random.Generator) -> BoolMask:
    """Draw a region (H, W) for an object, not empty.

    Args:
        mask: (H, W), not empty.
        kind: one of `REGION_KINDS`; the sides of boxes are moved by up to `_BOX_JITTER` of their length.
        rng: source of randomness.
    """
    offsets: NDArray[np.float64] | int = 0
    if kind == "box":
        x_min, y_min, x_max, y_max = box_of_mask(mask)
        sides = np.array([x_max - x_min, y_max - y_min] * 2)
        offsets = rng.uniform(-1, 1, 4) * (_BOX_JITTER * sides)
    prompt = draw_region_prompt(
        PromptKind(kind), mask, rng, box_offsets_px=offsets, scribble_points=_SCRIBBLE_POINTS
    )
    return prompt_mask([prompt], mask.shape)


def _coco_form(path: Path, skipped: Counter[str], names: dict[int, str]) -> Iterator[dict[str, Any]]:
    data = read_json(path)
    known, class_of = read_categories(data, str(path))
    names.update(enumerate(known))
    yield from instance_records(data, class_of, path, skipped)


def _listed(path: Path, skipped: Counter[str], names: dict[int, str]) -> Iterator[dict[str, Any]]:
    """Parse the records of a file without category names; category ids are used instead."""
    for number, item in enumerate(iterate_json_list(path)):
        try:
            record = _record(item, f"{path}, record number {number}")
        except RecordError as error:
            skip(skipped, MALFORMED, error)
            continue
        objects = record["objects"]
        if count_if(skipped, "without an object", all(entry["crowd"] for entry in objects)):
            continue
        names.update((entry["class"], f"category {entry['class']}") for entry in objects)
        yield record


def _record(item: Any, where: str) -> dict[str, Any]:
    if not isinstance(item, dict) or not ("annotations" in item or "anns" in item):
        raise RecordError(f"{where}: expected 'annotations' or 'anns'")
    thin = "anns" in item
    if thin:
        info = take(item, "image_info", dict, where)
        identity, file_name = take_id(info, "id", where), take(item, "image", str, where)
        height, width = take_size(info, where)
    else:
        identity, file_name = take_id(item, "image_id", where), take(item, "image_file", str, where)
        size = take(item, "image_size", list, where)
        if len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
            raise RecordError(f"{where}: 'image_size' must be [height, width]")
        height, width = size
    where = f"{where} (image {identity})"
    objects = [
        _object(ann, thin, where) for ann in take(item, "anns" if thin else "annotations", list, where)
    ]
    return {"id": identity, "file_name": file_name, "height": height, "width": width, "objects": objects}


def _object(annotation: Any, thin: bool, where: str) -> dict[str, Any]:
    identity = take_id(annotation, "id", where)
    where = f"{where}, annotation {identity}"
    given, suffix = (annotation, "_mask") if thin else (annotation.get("visual_prompts") or {}, "")
    if not isinstance(given, dict):
        raise RecordError(f"{where}: 'visual_prompts' must be a mapping")
    names = {kind: f"{kind}_visual_prompt{suffix}" for kind in REGION_KINDS}
    return {
        "id": identity,
        "class": take_number(annotation, "category_id", where),
        "crowd": take_flag(annotation, "iscrowd", where),
        "segmentation": take(annotation, "segmentation", (list, dict), where),
        "thin": thin,
        "regions": {kind: take(given, key, dict, where) for kind, key in names.items() if key in given},
    }
