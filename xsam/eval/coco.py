"""Score a model on a folder in COCO's format: panoptic, semantic, instance, and region segmentation.

The folder has the layout that COCO publishes, for one split such as `val2017`:

    annotations/panoptic_val2017.json   segments of every image, and
    annotations/panoptic_val2017/*.png  their pixels (or next to `annotations`)
    annotations/instances_val2017.json  objects
    val2017/*.jpg                       images (or in `images/` or `images/val2017/`)

One of the two JSON files is enough. Conventions:

* Panoptic queries list all categories as things and stuff; semantic queries list all of them as stuff, which
  is how the engine distinguishes the two. Scores follow panopticapi; for semantic segmentation, crowds count
  as their class.
* Instance queries list all categories, without a threshold, with 100 detections per image.
* Regions (`interactive_*`, `vgd_*`) are drawn here, by seed, from the instances: one object per image for
  each kind of prompt, and one to three categories. COCO-Interactive and COCO-VGD with their original prompts
  can be read with `xsam.eval.sources`.
"""

from __future__ import annotations

import contextlib
import io
import json
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from tqdm import tqdm

from xsam.data.region_prompts import draw_region_prompt
from xsam.errors import DatasetError
from xsam.eval.asking import ask_and_score
from xsam.eval.pictures import PictureSample
from xsam.eval.questions import (
    INTERACTIVE_KINDS,
    MAX_DETECTIONS,
    InstanceTruth,
    Question,
    interactive_question,
    layout_questions,
    visual_grounded_question,
)
from xsam.eval.scoreboard import Scoreboard, Scores
from xsam.segmenter import Segmenter
from xsam.types.masks import BoolMask
from xsam.types.requests import Query, Task

PANOPTIC_TASKS = ("panoptic", "semantic")
INSTANCE_TASKS = ("instance", "interactive", "vgd")
COCO_TASKS = (*PANOPTIC_TASKS, *INSTANCE_TASKS)

_Segment = tuple[int, int, bool]  # id in the PNG, label index, crowd


def evaluate_coco(
    model: Segmenter,
    data: CocoFolder,
    *,
    limit: int | None = None,
    seed: int = 0,
    show_progress: bool = False,
    pictures: PictureSample | None = None,
) -> Scores:
    """Score a model on a split; equal results give equal scores.

    Args:
        model: the segmenter to evaluate.
        data: the opened split.
        limit: number of images, evenly spread over the split; None means all.
        seed: seed for drawing the regions.
        show_progress: show a progress bar on stderr.
        pictures: collects results to be drawn.

    Returns:
        The scores of `Scoreboard`, `ms_per_picture_median`, and the number `n` of images.

    Raises:
        DatasetError: an image or PNG file is missing, damaged, or does not match its annotations.
    """
    images = sorted(data.images.items())
    total = len(images) if limit is None else min(limit, len(images))
    board, latency_s = Scoreboard(), []
    for step in tqdm(range(total), unit="image", disable=not show_progress, mininterval=5.0):
        index = step * len(images) // total
        image_id, file_name = images[index]
        rgb = data.read_image(file_name)
        questions = list(data.questions(image_id, rgb.shape[:2], np.random.default_rng([seed, index])))
        latency_s.append(ask_and_score(model, rgb, questions, board, pictures, name=Path(file_name).stem))
    return {
        **board.scores(),
        "ms_per_picture_median": round(1000 * statistics.median(latency_s), 1) if latency_s else None,
        "n": total,
    }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CocoFolder:
    """An opened split; create it with `open`."""

    pictures: Path
    tasks: frozenset[str]
    images: Mapping[int, str]  # id → file name
    panoptic: Panoptic | None = None
    instances: COCO | None = field(default=None, repr=False)

    @classmethod
    def open(cls, folder: Path, split: str = "val2017", tasks: Collection[str] = COCO_TASKS) -> CocoFolder:
        """Read the annotations that the tasks need.

        Args:
            folder: see the module docstring.
            split: such as "val2017".
            tasks: a subset of `COCO_TASKS`; those without annotations are skipped.

        Raises:
            DatasetError: files are missing or malformed, or there are no annotations for any task.
        """
        if unknown := set(tasks) - set(COCO_TASKS):
            raise DatasetError(f"unknown tasks {sorted(unknown)}", hint=f"known: {', '.join(COCO_TASKS)}")
        notes = folder / "annotations"
        panoptic_file, instance_file = (notes / f"{kind}_{split}.json" for kind in ("panoptic", "instances"))
        panoptic, instances = None, None
        images: dict[int, str] = {}
        if set(tasks) & set(PANOPTIC_TASKS) and panoptic_file.is_file():
            masks = _existing(notes / panoptic_file.stem, folder / panoptic_file.stem)
            panoptic = Panoptic.read(panoptic_file, masks)
            images |= panoptic.images
        if set(tasks) & set(INSTANCE_TASKS) and instance_file.is_file():
            instances = _read_instances(instance_file)
            images |= {image_id: image["file_name"] for image_id, image in instances.imgs.items()}
        if not images:
            raise DatasetError(
                f"{folder} has no annotations of {split} for {', '.join(sorted(tasks))}",
                hint=f"expected {panoptic_file} or {instance_file}",
            )
        pictures = _existing(folder / split, folder / "images" / split, folder / "images")
        return cls(
            pictures=pictures, tasks=frozenset(tasks), images=images, panoptic=panoptic, instances=instances
        )

    def read_image(self, file_name: str) -> NDArray[np.uint8]:
        """Read (H, W, 3) RGB as stored in the file: COCO's masks do not follow the orientation tag."""
        pixels = _read_bgr(self.pictures / file_name)
        return np.ascontiguousarray(pixels[..., ::-1])

    def questions(
        self, image_id: int, image_hw: tuple[int, int], rng: np.random.Generator
    ) -> Iterator[Question]:
        """Yield all questions about an image of (H, W) pixels."""
        if self.panoptic is not None and image_id in self.panoptic.segments:
            yield from (q for q in self.panoptic.questions(image_id, image_hw) if q.group in self.tasks)
        if self.instances is not None and image_id in self.instances.imgs:
            yield from self._instance_questions(self.instances, image_id, image_hw, rng)

    def _instance_questions(
        self, data: COCO, image_id: int, image_hw: tuple[int, int], rng: np.random.Generator
    ) -> Iterator[Question]:
        names = tuple(data.cats[key]["name"] for key in sorted(data.cats))
        objects: dict[str, list[BoolMask]] = {}
        crowd: dict[str, list[BoolMask]] = {}
        for annotation in data.loadAnns(data.getAnnIds(imgIds=[image_id])):
            mask = _decoded(data, annotation)
            _check_size(mask.shape, image_hw, f"annotation {annotation['id']}")
            if mask.any():
                kept = crowd if annotation.get("iscrowd") else objects
                kept.setdefault(data.cats[annotation["category_id"]]["name"], []).append(mask)
        if "instance" in self.tasks:
            yield Question(
                group="instance",
                query=Query(
                    task=Task.GENERIC,
                    thing_classes=names,
                    score_threshold=0.0,  # AP ranks all detections itself
                    max_instances=MAX_DETECTIONS,
                ),
                truth=InstanceTruth(
                    classes=names,
                    masks=tuple(tuple(objects.get(name, ())) for name in names),
                    crowd=tuple(tuple(crowd.get(name, ())) for name in names),
                ),
            )
        every = [mask for masks in objects.values() for mask in masks]
        if "interactive" in self.tasks and every:
            truth = every[int(rng.integers(len(every)))]
            for kind in INTERACTIVE_KINDS:
                yield interactive_question(draw_region_prompt(kind, truth, rng), truth)
        if "vgd" in self.tasks and objects:
            yield visual_grounded_question(objects, crowd, rng)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Panoptic:
    """Panoptic annotations of a split."""

    masks: Path
    things: tuple[str, ...]
    stuff: tuple[str, ...]
    images: Mapping[int, str]  # id → file name
    segments: Mapping[int, tuple[str, Sequence[_Segment]]]  # image id → PNG, its segments

    @classmethod
    def read(cls, path: Path, masks: Path) -> Panoptic:
        """Read the JSON file; `masks` is the folder of the PNG files.

        Raises:
            DatasetError: the file is not in COCO's panoptic format.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            categories = sorted(data["categories"], key=lambda entry: (not entry["isthing"], entry["id"]))
            labels = {entry["id"]: label for label, entry in enumerate(categories)}
            return cls(
                masks=masks,
                things=tuple(entry["name"] for entry in categories if entry["isthing"]),
                stuff=tuple(entry["name"] for entry in categories if not entry["isthing"]),
                images={image["id"]: image["file_name"] for image in data["images"]},
                segments={
                    entry["image_id"]: (
                        entry["file_name"],
                        [
                            (segment["id"], labels[segment["category_id"]], bool(segment.get("iscrowd")))
                            for segment in entry["segments_info"]
                        ],
                    )
                    for entry in data["annotations"]
                },
            )
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f"{path} is not in COCO's panoptic format: {type(error).__name__}: {error}"
            ) from error

    def questions(self, image_id: int, image_hw: tuple[int, int]) -> Iterator[Question]:
        """Yield the panoptic and the semantic question about an image of (H, W) pixels."""
        file_name, segments = self.segments[image_id]
        bgr = _read_bgr(self.masks / file_name).astype(np.int64)
        ids = bgr[..., 2] + 256 * bgr[..., 1] + 65536 * bgr[..., 0]
        _check_size(ids.shape, image_hw, file_name)
        classes = {segment: label for segment, label, _ in segments}
        if unlisted := set(np.unique(ids).tolist()) - {0, *classes}:
            raise DatasetError(f"{file_name} has segments missing in segments_info: {sorted(unlisted)[:5]}")
        yield from layout_questions(
            ids,
            classes,
            things=self.things,
            stuff=self.stuff,
            crowd=frozenset(segment for segment, _, crowd in segments if crowd),
        )


def _read_instances(path: Path) -> COCO:
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            data = COCO(str(path))
        unknown = {annotation["category_id"] for annotation in data.anns.values()} - set(data.cats)
        if unknown:
            raise ValueError(f"annotations of categories {sorted(unknown)[:5]}, which are not listed")
        return data
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise DatasetError(
            f"{path} is not in COCO's instance format: {type(error).__name__}: {error}"
        ) from error


def _decoded(data: COCO, annotation: Mapping[str, Any]) -> BoolMask:
    try:
        mask: BoolMask = data.annToMask(annotation).astype(np.bool_)
    except Exception as error:  # pycocotools raises many types, bare Exception among them
        raise DatasetError(
            f"annotation {annotation['id']} has an unreadable mask: {type(error).__name__}: {error}"
        ) from error
    return mask


def _existing(*folders: Path) -> Path:
    for folder in folders:
        if folder.is_dir():
            return folder
    raise DatasetError(f"no folder {folders[0]}", hint=f"also tried {', '.join(map(str, folders[1:]))}")


def _read_bgr(path: Path) -> NDArray[np.uint8]:
    if not path.is_file():
        raise DatasetError(f"{path} does not exist")
    content = np.frombuffer(path.read_bytes(), np.uint8)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(content, flags) if len(content) else None
    if pixels is None:
        raise DatasetError(f"{path} is not an image that OpenCV can read")
    return np.asarray(pixels, np.uint8)


def _check_size(mask_hw: tuple[int, ...], image_hw: tuple[int, int], what: str) -> None:
    if tuple(mask_hw) != tuple(image_hw):
        raise DatasetError(f"{what} is for an image of {mask_hw} pixels, the image has {image_hw}")
