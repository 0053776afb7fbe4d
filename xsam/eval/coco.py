"""Score a model on a folder in COCO's format: panoptic, semantic and instance segmentation, and regions.

The folder holds what COCO publishes, for one split such as `val2017`:

    annotations/panoptic_val2017.json   segments of every picture, and
    annotations/panoptic_val2017/*.png  their pixels (also looked for beside `annotations`)
    annotations/instances_val2017.json  objects
    val2017/*.jpg                       pictures (also looked for in `images/` and `images/val2017/`)

One of the two JSON files is enough. Conventions, and where they come from:

* Panoptic and semantic segmentation are asked for with all categories, as things and stuff and as stuff
  alone: that is how the engine tells one from the other. Scored as by panopticapi; for semantic
  segmentation crowds count as their class.
* Instance segmentation is asked for with all categories and without a threshold, 100 detections a picture.
* Regions (`interactive_*`, `vgd_*`) are drawn here, by seed, from the instances: one object a picture for
  each kind of prompt, and one to three categories. COCO-Interactive and COCO-VGD with their own prompts
  can be read by `xsam.eval.sources`.
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
    region_prompt,
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
    """Scores of a model on a split; the same for the same answers.

    Args:
        limit: take this many pictures, evenly spread over the split; None = all.
        seed: draws the regions.
        show_progress: on stderr.
        pictures: takes answers to be drawn.

    Returns:
        The scores of `Scoreboard`, `ms_per_picture_median`, `n` pictures.

    Raises:
        DatasetError: a picture or PNG file is missing, damaged, or does not fit its annotations.
    """
    images = sorted(data.images.items())
    total = len(images) if limit is None else min(limit, len(images))
    board, latency_s = Scoreboard(), []
    for number in tqdm(range(total), unit="picture", disable=not show_progress, mininterval=5.0):
        place = number * len(images) // total
        image_id, file_name = images[place]
        rgb = data.read_image(file_name)
        questions = list(data.questions(image_id, rgb.shape[:2], np.random.default_rng([seed, place])))
        latency_s.append(ask_and_score(model, rgb, questions, board, pictures, name=Path(file_name).stem))
    return {
        **board.scores(),
        "ms_per_picture_median": round(1000 * statistics.median(latency_s), 1) if latency_s else None,
        "n": total,
    }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CocoFolder:
    """An opened split. Use `open` to make one."""

    pictures: Path
    tasks: frozenset[str]
    images: Mapping[int, str]  # id → file name
    panoptic: Panoptic | None = None
    instances: COCO | None = field(default=None, repr=False)

    @classmethod
    def open(cls, folder: Path, split: str = "val2017", tasks: Collection[str] = COCO_TASKS) -> CocoFolder:
        """Read the annotations that the tasks need.

        Args:
            folder: see the module's text.
            tasks: some of `COCO_TASKS`; those without annotations are left out.

        Raises:
            DatasetError: files are missing or not in the format, or there are no annotations for any task.
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
        """(H, W, 3) RGB, as it lies in the file: COCO's masks do not follow the orientation tag."""
        pixels = _read_picture(self.pictures / file_name)
        return np.ascontiguousarray(pixels[..., ::-1])

    def questions(
        self, image_id: int, image_hw: tuple[int, int], rng: np.random.Generator
    ) -> Iterator[Question]:
        """All questions on a picture of (H, W) pixels."""
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
                yield interactive_question(region_prompt(kind, truth, rng), truth)
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
            DatasetError: it is not in COCO's panoptic format.
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
        """Panoptic and semantic question on a picture of (H, W) pixels."""
        file_name, segments = self.segments[image_id]
        bgr = _read_picture(self.masks / file_name).astype(np.int64)
        ids = bgr[..., 2] + 256 * bgr[..., 1] + 65536 * bgr[..., 0]
        _check_size(ids.shape, image_hw, file_name)
        classes = {segment: label for segment, label, _ in segments}
        if nameless := set(np.unique(ids).tolist()) - {0, *classes}:
            raise DatasetError(
                f"{file_name} holds segments that segments_info has not: {sorted(nameless)[:5]}"
            )
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
            f"annotation {annotation['id']} has no mask that can be read: {type(error).__name__}: {error}"
        ) from error
    return mask


def _existing(*folders: Path) -> Path:
    for folder in folders:
        if folder.is_dir():
            return folder
    raise DatasetError(f"no folder {folders[0]}", hint=f"also looked for {', '.join(map(str, folders[1:]))}")


def _read_picture(path: Path) -> NDArray[np.uint8]:
    """(H, W, 3) BGR."""
    if not path.is_file():
        raise DatasetError(f"{path} does not exist")
    content = np.frombuffer(path.read_bytes(), np.uint8)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(content, flags) if len(content) else None
    if pixels is None:
        raise DatasetError(f"{path} is no picture that OpenCV can read")
    return np.asarray(pixels, np.uint8)


def _check_size(mask_hw: tuple[int, ...], image_hw: tuple[int, int], what: str) -> None:
    if tuple(mask_hw) != tuple(image_hw):
        raise DatasetError(f"{what} is for a picture of {mask_hw} pixels, the picture has {image_hw}")
