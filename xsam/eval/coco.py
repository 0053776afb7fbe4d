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

import contextlib
import statistics
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from xsam.data.readers.annotations import (
    Identity,
    describe_skips,
    id_order,
    instance_records,
    panoptic_records,
    skip,
)
from xsam.data.readers.categories import read_categories, read_things
from xsam.data.readers.coco import COCO_URL, read_segments
from xsam.data.readers.files import Layout, find_image, read_json, read_rgb
from xsam.data.readers.segmentations import decode_segmentation
from xsam.data.region_prompts import draw_region_prompt
from xsam.errors import DatasetError, InvalidQueryError, MissingDataError
from xsam.eval.asking import Interruptible, ask_and_score, check_evaluated, image_problem
from xsam.eval.pictures import PictureSample
from xsam.eval.predictions import PredictionFile
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

_LAYOUT = Layout(
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

    Returns:
        The scores of `Scoreboard`, `ms_per_picture_median`, the number `n` of images that were evaluated, the
        number of records and images that were `skipped`, by reason, and `complete`: False if Ctrl-C ended
        the evaluation early.

    Raises:
        DatasetError: no image could be used.
    """
    images = sorted(data.images.items(), key=lambda item: id_order(item[0]))
    total = len(images) if limit is None else min(limit, len(images))
    board, skipped = Scoreboard(), Counter(data.skipped)
    timed: list[float | None] = []
    steps = Interruptible(tqdm(range(total), unit="image", disable=not show_progress, mininterval=5.0))
    with steps:
        for step in steps:
            index = step * len(images) // total
            image_id, file_name = images[index]
            try:
                rgb = data.read_image(image_id)
                rng = np.random.default_rng([seed, index])
                questions = list(data.questions(image_id, rgb.shape[:2], rng))
            except DatasetError as error:
                skip(skipped, image_problem(error), error)
                continue
            name = Path(file_name.replace("\\", "/")).stem if predictions is None else str(image_id)
            seconds = ask_and_score(
                model, rgb, questions, board, pictures, name=name, predictions=predictions
            )
            timed.append(seconds)
    check_evaluated(len(timed), total if steps.complete else 0, skipped)
    latency_s = [seconds for seconds in timed if seconds is not None]
    return {
        **board.scores(),
        "ms_per_picture_median": round(1000 * statistics.median(latency_s), 1) if latency_s else None,
        "n": len(timed),
        "complete": steps.complete,
        "skipped": {reason: count for reason, count in skipped.items() if count},
    }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CocoFolder:
    """An opened split; create it with `open`."""

    pictures: Path
    tasks: frozenset[str]
    images: Mapping[Identity, str]  # id → file name
    skipped: Mapping[str, int]  # reason → records
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
            raise DatasetError(f"unknown tasks {sorted(unknown)}", hint=f"known: {', '.join(COCO_TASKS)}")
        notes = folder / "annotations"
        panoptic_file, instance_file = (notes / f"{kind}_{split}.json" for kind in ("panoptic", "instances"))
        panoptic, instances = None, None
        images: dict[Identity, str] = {}
        skipped: Counter[str] = Counter()
        if set(tasks) & set(PANOPTIC_TASKS) and panoptic_file.is_file():
            masks = _existing(notes / panoptic_file.stem, folder / panoptic_file.stem)
            panoptic = Panoptic.read(panoptic_file, masks, skipped)
            images |= {identity: record["file_name"] for identity, record in panoptic.records.items()}
        if set(tasks) & set(INSTANCE_TASKS) and instance_file.is_file():
            instances = Instances.read(instance_file, skipped)
            images |= {identity: record["file_name"] for identity, record in instances.records.items()}
        if panoptic is None and instances is None:
            raise DatasetError(
                f"{folder} has no annotations of {split} for {', '.join(sorted(tasks))}",
                hint=f"expected {panoptic_file} or {instance_file}",
            )
        if not images:
            raise DatasetError(
                f"{notes} has no image of {split} that can be used",
                hint=f"skipped: {describe_skips(skipped)}",
            )
        pictures = _existing(folder / split, folder / "images" / split, folder / "images")
        for name in images.values():  # in a wrong folder there is none of them
            with contextlib.suppress(MissingDataError):
                find_image(pictures, name, _LAYOUT)
                break
        else:
            find_image(pictures, next(iter(images.values())), _LAYOUT)
        return cls(
            pictures=pictures,
            tasks=frozenset(tasks),
            images=images,
            skipped=skipped,
            panoptic=panoptic,
            instances=instances,
        )

    def read_image(self, image_id: Identity) -> NDArray[np.uint8]:
        """Read (H, W, 3) RGB as stored in the file: COCO's masks do not follow the orientation tag.

        Raises:
            DatasetError: the file is missing, damaged, or has another size than the annotations say.
        """
        path = find_image(self.pictures, self.images[image_id], _LAYOUT)
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
            yield from (q for q in self.panoptic.questions(image_id, image_hw) if q.group in self.tasks)
        if self.instances is not None and image_id in self.instances.records:
            yield from self.instances.questions(image_id, image_hw, rng, self.tasks)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Instances:
    """Instance annotations of a split. Categories of one name are one class."""

    names: tuple[str, ...]  # by label index
    records: Mapping[Identity, Mapping[str, Any]]  # by image id; see `instance_records`
    where: str

    @classmethod
    def read(cls, path: Path, skipped: Counter[str]) -> Instances:
        """Read the JSON file.

        Raises:
            DatasetError: see `xsam.data.readers.annotations`.
        """
        data = read_json(path)
        labels, names = _labels(*read_categories(data, str(path)))
        records = instance_records(data, labels, path, skipped, keep_empty=True)
        found = cls(names=names, records={record["id"]: record for record in records}, where=str(path))
        _check_query(found._query(), path)
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Panoptic:
    """Panoptic annotations of a split."""

    masks: Path
    things: tuple[str, ...]
    stuff: tuple[str, ...]
    records: Mapping[Identity, Mapping[str, Any]]  # by image id; see `panoptic_records`
    where: str

    @classmethod
    def read(cls, path: Path, masks: Path, skipped: Counter[str]) -> Panoptic:
        """Read the JSON file; `masks` is the folder of the PNG files.

        Raises:
            DatasetError: see `xsam.data.readers.annotations`.
        """
        data = read_json(path)
        names, class_of = read_categories(data, str(path))
        is_thing = read_things(data, names, str(path))
        labels, ordered = _labels(names, class_of, first=is_thing)
        things = tuple(name for name in ordered if is_thing[names.index(name)])
        records = panoptic_records(data, labels, path, skipped, keep_empty=True)
        found = cls(
            masks=masks,
            things=things,
            stuff=ordered[len(things) :],
            records={record["id"]: record for record in records},
            where=str(path),
        )
        _check_query(Query(task=Task.GENERIC, thing_classes=found.things, stuff_classes=found.stuff), path)
        return found

    def questions(self, image_id: Identity, image_hw: tuple[int, int]) -> Iterator[Question]:
        """Yield the panoptic and the semantic question about an image of (H, W) pixels."""
        record = self.records[image_id]
        path = find_image(self.masks, record["mask"], _LAYOUT)
        ids = read_segments(path, record["segments"], image_hw, f"{self.where}, image {image_id}")
        yield from layout_questions(
            ids.astype(np.int64),
            {segment: label for segment, label, _ in record["segments"]},
            things=self.things,
            stuff=self.stuff,
            crowd=frozenset(segment for segment, _, crowd in record["segments"] if crowd),
        )


def _labels(
    names: Sequence[str], class_of: Mapping[Identity, int], first: Sequence[bool] = ()
) -> tuple[dict[Identity, int], tuple[str, ...]]:
    """Order categories by id, those of `first` before the others, and join those of one name.

    Returns:
        category id → label index, and the names by label index.
    """
    ids = sorted(class_of, key=lambda key: (len(first) > 0 and not first[class_of[key]], *id_order(key)))
    ordered = tuple(dict.fromkeys(names[class_of[key]] for key in ids))
    index_of = {name: index for index, name in enumerate(ordered)}
    return {key: index_of[names[index]] for key, index in class_of.items()}, ordered


def _check_query(query: Query, path: Path) -> None:
    """Check the query that is asked about every image, before the model is loaded."""
    try:
        query.validate()
    except InvalidQueryError as error:
        raise DatasetError(
            f"{path}: its categories cannot be asked for in one query: {error.message}",
            hint="remove categories from the file, or split it",
        ) from error


def _existing(*folders: Path) -> Path:
    for folder in folders:
        if folder.is_dir():
            return folder
    raise DatasetError(f"no folder {folders[0]}", hint=f"also tried {', '.join(map(str, folders[1:]))}")


def _check_size(mask_hw: tuple[int, ...], image_hw: tuple[int, int], what: str) -> None:
    if tuple(mask_hw) != tuple(image_hw):
        raise DatasetError(f"{what} is for an image of {mask_hw} pixels, the image has {image_hw}")
