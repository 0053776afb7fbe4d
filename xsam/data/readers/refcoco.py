"""RefCOCO, RefCOCO+ and RefCOCOg: phrases for single objects, in the layout of REFER."""

from __future__ import annotations

import pickle
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from xsam.data.readers.categories import read_categories
from xsam.data.readers.coco import image_records
from xsam.data.readers.errors import DatasetError, Layout, RecordError, missing
from xsam.data.readers.files import (
    PackedRecords,
    read_json,
    require_file,
    require_folder,
    take,
)
from xsam.data.readers.segmentations import decode_segmentation, stack_masks
from xsam.data.readers.source import FileSource, ask, check_share, count_if
from xsam.data.samples import NO_CONDITION, PromptedImage, TrainPrompt
from xsam.inference.prompts import clean_text
from xsam.types.requests import Query, Task

PARTITIONS = {"refcoco": ("unc", "google"), "refcoco+": ("unc",), "refcocog": ("umd", "google")}
# Few phrases for people say "person".
_PERSON = {
    "person",
    "people",
    "man",
    "men",
    "woman",
    "women",
    "boy",
    "girl",
    "guy",
    "lady",
    "kid",
    "child",
    "player",
}


class RefCoco(FileSource):
    """Referring expressions of RefCOCO, RefCOCO+ or RefCOCOg.

    A picture's masks are all its objects that some phrase of the split means; a prompt is one phrase of
    one of them, drawn at random, no object twice in a sample.

    Args:
        dataset: a key of `PARTITIONS`.
        root: the folder that holds the folder of the data set, such as `refcoco/`, with `instances.json`
            and `refs(unc).p`, or `refs(unc).json` of the same content.
        images: the folder of COCO's `train2014` pictures.
        split: such as "train", "val", "testA".
        partition: who split it, "unc", "umd" or "google"; by default the first of `PARTITIONS`.
        negative_share: how often a prompt is a phrase of another picture for an object of a category
            that is not in this one. Only phrases that name their category serve ("the left one" may
            be true here too).
        name: for logs and the mixture.

    Source: Kazemzadeh et al. 2014, Yu et al. 2016, Mao et al. 2016.
    """

    def __init__(
        self,
        dataset: str,
        *,
        root: str | Path,
        images: str | Path,
        split: str = "train",
        partition: str | None = None,
        negative_share: float = 0.1,
        name: str | None = None,
    ) -> None:
        if dataset not in PARTITIONS:
            raise DatasetError(f"unknown data set {dataset!r}, known: {', '.join(PARTITIONS)}")
        partition = partition or PARTITIONS[dataset][0]
        if partition not in PARTITIONS[dataset]:
            raise DatasetError(
                f"{dataset} has the partitions {' and '.join(PARTITIONS[dataset])}, not {partition!r}"
            )
        self._negative_share = check_share("negative_share", negative_share)
        layout = Layout(
            dataset=dataset,
            folders=(
                f"{dataset}/instances.json and {dataset}/refs({partition}).p in the root folder, and the "
                "pictures of COCO train2014"
            ),
            published="https://github.com/lichengunc/refer",
        )
        folder = require_folder(Path(root) / dataset, layout)
        path, refs = _read_refs(folder, partition, layout)
        instances = require_file(folder / "instances.json", layout)
        images = require_folder(images, layout)
        skipped: Counter[str] = Counter()
        phrases: list[tuple[int, list[str]]] = []
        super().__init__(
            name=name or dataset,
            annotations=path,
            images=images,
            layout=layout,
            records=_records(refs, split, path, instances, skipped, phrases),
            skipped=skipped,
        )
        self._foreign_category = np.array([category for category, _ in phrases], np.int64)
        self._foreign = PackedRecords(texts for _, texts in phrases)

    def _prompted(
        self,
        record: dict[str, Any],
        rgb: NDArray[np.uint8],
        rng: np.random.Generator,
        prompts: int,
        where: str,
    ) -> PromptedImage:
        image_hw = rgb.shape[:2]
        masks = []
        for identity, segmentation in record["objects"]:
            masks.append(decode_segmentation(segmentation, image_hw, f"{where}, annotation {identity}"))
            if not masks[-1].any():
                raise RecordError(f"{where}, annotation {identity}: the object holds no pixel")
        waiting = rng.permutation(len(record["phrases"])).tolist()
        drawn: list[TrainPrompt] = []
        while len(drawn) < prompts and waiting:
            phrase = self._absent_phrase(record, rng) if rng.random() < self._negative_share else None
            labels = np.full(len(masks), NO_CONDITION, np.int64)
            kind = "absent_referring"
            if phrase is None:
                place, texts = record["phrases"][waiting.pop()]
                phrase, kind = texts[rng.integers(len(texts))], "referring"
                labels[place] = 0
            conversation = ask(Query(task=Task.REFERRING, text=phrase), where)
            drawn.append(TrainPrompt(kind=kind, conversation=conversation, labels=labels))
        return PromptedImage(rgb=rgb, masks=stack_masks(masks, image_hw), prompts=tuple(drawn))

    def _absent_phrase(self, record: dict[str, Any], rng: np.random.Generator) -> str | None:
        """A phrase for something that is not in the picture; None if the split has none."""
        foreign = np.flatnonzero(~np.isin(self._foreign_category, record["categories"]))
        if len(foreign) == 0:
            return None
        texts: list[str] = self._foreign[int(rng.choice(foreign))]
        return texts[rng.integers(len(texts))]


class _PlainUnpickler(pickle.Unpickler):
    """Reads pickles of dicts, lists, strings and numbers alone.

    A pickle runs code only by way of a class or function that it names. Each of these, whatever the
    opcode, is looked up by `find_class`, which refuses them all; persistent ids are refused by the base
    class. What is left can only build plain values.
    """

    def find_class(self, module_name: str, global_name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}; only plain values are read")


def load_plain_pickle(file: BinaryIO) -> Any:
    """Read a pickle of plain values, also one written by Python 2.

    Raises:
        pickle.UnpicklingError: it names a class or function, or is damaged.
    """
    try:
        return _PlainUnpickler(file, encoding="utf-8").load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # a damaged pickle may fail in any way
        raise pickle.UnpicklingError(f"{type(error).__name__}: {error}") from error


def _read_refs(folder: Path, partition: str, layout: Layout) -> tuple[Path, Any]:
    as_json, as_pickle = (folder / f"refs({partition}){suffix}" for suffix in (".json", ".p"))
    if as_json.is_file():
        return as_json, read_json(as_json)
    if not as_pickle.is_file():
        raise missing(as_pickle, layout)
    with as_pickle.open("rb") as file:
        try:
            return as_pickle, load_plain_pickle(file)
        except pickle.UnpicklingError as error:
            raise DatasetError(
                f"{as_pickle} cannot be read safely: {error}", hint="download it again, or give it as .json"
            ) from error


def _records(
    refs: Any,
    split: str,
    path: Path,
    instances: Path,
    skipped: Counter[str],
    foreign: list[tuple[int, list[str]]],
) -> Iterator[dict[str, Any]]:
    """Pictures with phrases of the split; `foreign` gets those that name their category."""
    data = read_json(instances)
    names, class_of = read_categories(data, str(instances))
    annotations = {}
    in_picture: dict[int, set[int]] = defaultdict(set)
    for number, annotation in enumerate(take(data, "annotations", list, str(instances))):
        identity = take(annotation, "id", int, f"{instances}, annotation number {number}")
        where = f"{instances}, annotation {identity}"
        annotations[identity] = annotation
        category = take(annotation, "category_id", int, where)
        if category not in class_of:
            raise RecordError(f"{where}: category {category} is not in 'categories'")
        in_picture[take(annotation, "image_id", int, where)].add(class_of[category])
    by_picture: dict[int, list[tuple[int, list[str]]]] = defaultdict(list)
    for identity, ref, texts in _phrases(refs, split, path, skipped):
        where = f"{path}, ref {identity}"
        annotation_id = take(ref, "ann_id", int, where)
        annotation = annotations.get(annotation_id)
        if annotation is None or annotation["image_id"] != take(ref, "image_id", int, where):
            raise RecordError(f"{where}: {instances.name} has no annotation {annotation_id} in its picture")
        by_picture[annotation["image_id"]].append((annotation_id, texts))
        category = class_of[annotation["category_id"]]
        naming = [text for text in texts if _names(text, names[category])]
        if naming:
            foreign.append((category, naming))
    for image in image_records(data, instances):
        found = by_picture.pop(image["id"], [])
        if not found:
            continue  # of another split
        where = f"{instances}, annotation"
        objects = {
            key: take(annotations[key], "segmentation", (list, dict), f"{where} {key}") for key, _ in found
        }
        place = {key: number for number, key in enumerate(objects)}
        yield {
            **image,
            "objects": list(objects.items()),
            "phrases": [(place[key], texts) for key, texts in found],
            "categories": sorted(in_picture[image["id"]]),
        }
    if by_picture:
        raise RecordError(f"{path}: picture {next(iter(by_picture))} is not in {instances}")


def _phrases(
    refs: Any, split: str, path: Path, skipped: Counter[str]
) -> Iterator[tuple[int, dict[str, Any], list[str]]]:
    if not isinstance(refs, list):
        raise DatasetError(f"{path} must hold a list of refs")
    splits: Counter[str] = Counter()
    for number, ref in enumerate(refs):
        identity = take(ref, "ref_id", int, f"{path}, ref number {number}")
        where = f"{path}, ref {identity}"
        splits[take(ref, "split", str, where)] += 1
        if ref["split"] != split:
            continue
        sentences = [take(item, "sent", str, where) for item in take(ref, "sentences", list, where)]
        texts = [text for text in map(clean_text, sentences) if text]
        if not count_if(skipped, "refs without words", not texts):
            yield identity, ref, texts
    if split not in splits:
        raise DatasetError(f"{path} has no split {split!r}", hint=f"it has {', '.join(sorted(splits))}")


def _names(text: str, category: str) -> bool:
    """Whether a phrase says what category its object is of, such as "wooden table" a dining table."""
    words = set(re.findall(r"[a-z]+", text.lower()))
    if category == "person":
        return not words.isdisjoint(_PERSON)
    noun = category.lower().split()[-1]
    return not words.isdisjoint({noun, f"{noun}s", f"{noun}es"})
