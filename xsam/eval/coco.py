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
* The annotations are decoded as for training: `xsam.data.readers.annotations` says what is read, what is
  skipped and counted, and what is refused. An image that cannot be used is skipped and counted, too.
* Regions (`interactive_*`, `vgd_*`) are drawn here, by seed, from the instances: one object per image for
  each kind of prompt, and one to three categories. COCO-Interactive and COCO-VGD with their original prompts
  can be read with `xsam.eval.sources`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.data.readers.annotations import Identity, describe_skips, id_order, instance_records
from xsam.data.readers.categories import read_categories
from xsam.data.readers.coco import COCO_URL
from xsam.data.readers.files import Layout, find_image, read_json, read_rgb, require_some_image
from xsam.data.readers.segmentations import decode_segmentation
from xsam.data.region_prompts import draw_region_prompt
from xsam.errors import DatasetError, InvalidOptionError
from xsam.eval.layouts import Panoptic, check_query, order_labels
from xsam.eval.loop import QuestionedImage, Round, evaluate_questions, sampled
from xsam.eval.pictures import PictureSample
from xsam.eval.predictions import PredictionFile
from xsam.eval.processes import Processes
from xsam.eval.questions import (
    INTERACTIVE_KINDS,
    MAX_DETECTIONS,
    InstanceTruth,
    Question,
    interactive_question,
    visual_grounded_question,
)
from xsam.eval.scoreboard import Scores
from xsam.segmenter import Segmenter
from xsam.types.masks import BoolMask
from xsam.types.requests import Query, Task

PANOPTIC_TASKS = ("panoptic", "semantic")
INSTANCE_TASKS = ("instance", "interactive", "vgd")
COCO_TASKS = (*PANOPTIC_TASKS, *INSTANCE_TASKS)

LAYOUT = Layout(
    dataset="COCO",
    folders="annotations/ with the JSON files, panoptic_<split>/ with PNG files, <split>/ with images",
    published=COCO_URL,
)


def evaluate_coco(
    model: Segmenter,
    data: CocoFolder,
    *,
    limit: int | None = None,
    seed: int = 0,
    show_progress: bool = False,
    pictures: PictureSample | None = None,
    predictions: PredictionFile | None = None,
    processes: Processes | None = None,
) -> Scores:
    """Score a model on a split; equal results give equal scores.

    Args:
        model: the segmenter to evaluate.
        data: the opened split.
        limit: number of images, evenly spread over the split; None means all.
        seed: seed for drawing the regions.
        show_progress: show a progress bar on stderr.
        pictures: collects results to be drawn.
        predictions: saves the results, and holds those of an earlier run.
        processes: the processes that share the work; those other than the first get no scores.

    Returns:
        The scores of `Scoreboard`, `ms_per_picture_median`, the number `n` of images that were evaluated, the
        number of records and images that were `skipped`, by reason, `complete`: False if Ctrl-C ended the
        evaluation early, and `protocol`: how the questions were chosen.

    Raises:
        DatasetError: no image could be used.
    """
    board, rest = evaluate_questions(
        model,
        CocoQuestions(data, seed),
        limit=limit,
        show_progress=show_progress,
        pictures=pictures,
        predictions=predictions,
        processes=processes,
    )
    if not rest:
        return {}
    drawn = sorted(data.tasks & {"interactive", "vgd"}) if data.instances is not None else ()
    return {
        **board.scores(),
        "ms_per_picture_median": rest.pop("ms_median"),
        "protocol": "COCO's rules for PQ, mIoU, and mask AP, with the thresholds of the checkpoint"
        + (f"; regions of {' and '.join(drawn)} drawn with seed {seed}" if drawn else "")
        + sampled(limit, len(data.images)),
        **rest,
    }


class CocoQuestions:
    """The questions about each image of a split, by image id; `seed` is for drawing regions."""

    def __init__(self, data: CocoFolder, seed: int = 0) -> None:
        self._data = data
        self._seed = seed
        self._ids = sorted(data.images, key=id_order)

    @property
    def skipped(self) -> Mapping[str, int]:
        return self._data.skipped

    def __len__(self) -> int:
        return len(self._ids)

    def image(self, index: int) -> QuestionedImage:
        image_id = self._ids[index]
        rgb = self._data.read_image(image_id)
        rng = np.random.default_rng([self._seed, index])
        questions = list(self._data.questions(image_id, rgb.shape[:2], rng))
        name = Path(self._data.images[image_id].replace("\\", "/")).stem
        return QuestionedImage(
            name=name, rgb=rgb, rounds=(Round(key=str(image_id), questions=questions, timed_as=1),)
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CocoFolder:
    """An opened split; create it with `open` or `read`."""

    pictures: Path
    tasks: frozenset[str]
    images: Mapping[Identity, str]  # id → file name
    skipped: Mapping[str, int]  # reason → records
    layout: Layout
    panoptic: Panoptic | None = None
    instances: Instances | None = None

    @classmethod
    def open(cls, folder: Path, split: str = "val2017", tasks: Collection[str] = COCO_TASKS) -> CocoFolder:
        """Read the annotations that the tasks need.

        Args:
            folder: see the module docstring.
            split: such as "val2017".
            tasks: a subset of `COCO_TASKS`; those without annotations are skipped.

        Raises:
            DatasetError: files are missing or malformed, there are no annotations for any task, or the
                categories are more than a query can have.
        """
        if unknown := set(tasks) - set(COCO_TASKS):
            raise InvalidOptionError(
                f"unknown tasks {sorted(unknown)}", hint=f"known: {', '.join(COCO_TASKS)}"
            )
        notes = folder / "annotations"
        panoptic, instances = (notes / f"{kind}_{split}.json" for kind in ("panoptic", "instances"))
        with_panoptic = bool(set(tasks) & set(PANOPTIC_TASKS)) and panoptic.is_file()
        with_instances = bool(set(tasks) & set(INSTANCE_TASKS)) and instances.is_file()
        if not with_panoptic and not with_instances:
            raise DatasetError(
                f"{folder} has no annotations of {split} for {', '.join(sorted(tasks))}",
                hint=f"expected {panoptic} or {instances}",
            )
        return cls.read(
            tasks=tasks,
            panoptic=panoptic if with_panoptic else None,
            masks=_existing(notes / panoptic.stem, folder / panoptic.stem) if with_panoptic else None,
            instances=instances if with_instances else None,
            pictures=_existing(folder / split, folder / "images" / split, folder / "images"),
        )

    @classmethod
    def read(
        cls,
        *,
        tasks: Collection[str],
        pictures: Path,
        panoptic: Path | None = None,
        masks: Path | None = None,
        class_maps: Path | None = None,
        instances: Path | None = None,
        score_threshold: float | None = None,
        layout: Layout = LAYOUT,
    ) -> CocoFolder:
        """Read annotation files.

        Args:
            tasks: a subset of `COCO_TASKS`.
            pictures: folder of the images.
            panoptic: JSON file; with `masks`, the folder of its PNG files.
            masks: see `panoptic`.
            class_maps: see `Panoptic`.
            instances: JSON file.
            score_threshold: of panoptic and semantic queries; None = that of the model.
            layout: what to tell the user when a file is missing.

        Raises:
            DatasetError: files are missing or malformed, or the categories are more than a query can have.
        """
        images: dict[Identity, str] = {}
        skipped: Counter[str] = Counter()
        layouts, objects = None, None
        if panoptic is not None and masks is not None:
            layouts = Panoptic.read(
                panoptic,
                masks,
                skipped,
                layout=layout,
                class_maps=class_maps,
                score_threshold=score_threshold,
            )
            images |= {identity: record["file_name"] for identity, record in layouts.records.items()}
        if instances is not None:
            objects = Instances.read(instances, skipped, same_as=images)
            images |= {identity: record["file_name"] for identity, record in objects.records.items()}
        if not images:
            raise DatasetError(
                f"no image of {panoptic or instances} can be used",
                hint=f"skipped: {describe_skips(skipped)}",
            )
        require_some_image(pictures, images.values(), layout)
        return cls(
            pictures=pictures,
            tasks=frozenset(tasks),
            images=images,
            skipped=skipped,
            layout=layout,
            panoptic=layouts,
            instances=objects,
        )

    def read_image(self, image_id: Identity) -> NDArray[np.uint8]:
        """Read (H, W, 3) RGB as stored in the file: COCO's masks do not follow the orientation tag.

        Raises:
            DatasetError: the file is missing, damaged, or has another size than the annotations say.
        """
        path = find_image(self.pictures, self.images[image_id], self.layout)
        rgb = read_rgb(path, f"image {image_id}")
        for part in (self.panoptic, self.instances):
            record = part.records.get(image_id, {}) if part is not None else {}
            annotated_hw = (record.get("height", rgb.shape[0]), record.get("width", rgb.shape[1]))
            _check_size(annotated_hw, rgb.shape[:2], f"the annotation of image {image_id}")
        return rgb

    def questions(
        self, image_id: Identity, image_hw: tuple[int, int], rng: np.random.Generator
    ) -> Iterator[Question]:
        """Yield all questions about an image of (H, W) pixels.

        Raises:
            DatasetError: an annotation of the image cannot be decoded.
        """
        if self.panoptic is not None and image_id in self.panoptic.records:
            yield from self.panoptic.questions(image_id, image_hw, self.tasks)
        if self.instances is not None and image_id in self.instances.records:
            yield from self.instances.questions(image_id, image_hw, rng, self.tasks)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Instances:
    """Instance annotations of a split. Categories of one name are one class."""

    names: tuple[str, ...]  # by label index
    records: Mapping[Identity, Mapping[str, Any]]  # by image id; see `instance_records`
    where: str

    @classmethod
    def read(
        cls, path: Path, skipped: Counter[str], *, same_as: Mapping[Identity, str] = MappingProxyType({})
    ) -> Instances:
        """Read the JSON file.

        Args:
            path: the file.
            skipped: counts the skipped records.
            same_as: images of another file, id → file name. If no id is in both files, as for ADE20K, images
                with the same file name get the id of the other file.

        Raises:
            DatasetError: see `xsam.data.readers.annotations`.
        """
        data = read_json(path)
        labels, names = order_labels(*read_categories(data, str(path)))
        records = list(instance_records(data, labels, path, skipped, keep_empty=True))
        others: dict[str, Identity] = {}
        if same_as.keys().isdisjoint(record["id"] for record in records):
            others = {file_name: identity for identity, file_name in same_as.items()}
        by_id = {others.get(record["file_name"], record["id"]): record for record in records}
        found = cls(names=names, records=by_id, where=str(path))
        check_query(found._query(), path)
        return found

    def questions(
        self, image_id: Identity, image_hw: tuple[int, int], rng: np.random.Generator, tasks: Collection[str]
    ) -> Iterator[Question]:
        """Yield the questions of `tasks` about an image of (H, W) pixels."""
        objects: dict[str, list[BoolMask]] = {}
        crowd: dict[str, list[BoolMask]] = {}
        for item in self.records[image_id]["objects"]:
            where = f"{self.where}, image {image_id}, annotation {item['id']}"
            mask = decode_segmentation(item["segmentation"], image_hw, where)
            if mask.any():
                (crowd if item["crowd"] else objects).setdefault(self.names[item["class"]], []).append(mask)
        if "instance" in tasks:
            yield Question(
                group="instance",
                query=self._query(),
                truth=InstanceTruth(
                    classes=self.names,
                    masks=tuple(tuple(objects.get(name, ())) for name in self.names),
                    crowd=tuple(tuple(crowd.get(name, ())) for name in self.names),
                ),
            )
        every = [mask for masks in objects.values() for mask in masks]
        if "interactive" in tasks and every:
            truth = every[int(rng.integers(len(every)))]
            for kind in INTERACTIVE_KINDS:
                yield interactive_question(draw_region_prompt(kind, truth, rng), truth)
        if "vgd" in tasks and objects:
            yield visual_grounded_question(objects, crowd, rng)

    def _query(self) -> Query:
        return Query(
            task=Task.GENERIC,
            thing_classes=self.names,
            score_threshold=0.0,  # AP ranks all detections itself
            max_instances=MAX_DETECTIONS,
        )


def _existing(*folders: Path) -> Path:
    for folder in folders:
        if folder.is_dir():
            return folder
    raise DatasetError(f"no folder {folders[0]}", hint=f"also tried {', '.join(map(str, folders[1:]))}")


def _check_size(mask_hw: tuple[int, ...], image_hw: tuple[int, int], what: str) -> None:
    if tuple(mask_hw) != tuple(image_hw):
        raise DatasetError(f"{what} is for an image of {mask_hw} pixels, the image has {image_hw}")
