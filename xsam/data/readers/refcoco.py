"""RefCOCO, RefCOCO+, and RefCOCOg: phrases for single objects, in the layout of REFER."""

from __future__ import annotations

import pickle
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from xsam.data.readers.annotations import Identity, image_records, take_id
from xsam.data.readers.categories import read_categories
from xsam.data.readers.files import (
    Layout,
    PackedRecords,
    read_json,
    require_file,
    require_folder,
    take,
)
from xsam.data.readers.segmentations import decode_segmentation, stack_masks
from xsam.data.readers.source import FileSource, check_probability, count_if, record_conversation
from xsam.data.samples import NO_CONDITION, PromptedImage, TrainPrompt
from xsam.errors import DatasetError, RecordError
from xsam.inference.prompts import clean_text
from xsam.types.requests import Query, Task

PARTITIONS = {"refcoco": ("unc", "google"), "refcoco+": ("unc",), "refcocog": ("umd", "google")}
# Few phrases for people contain the word "person".
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
    """Referring expressions of RefCOCO, RefCOCO+, or RefCOCOg.

    The masks of an image are all objects that some phrase of the split refers to. A prompt is a random phrase
    for one of them; no object is used twice in a sample.

    Args:
        dataset: a key of `PARTITIONS`.
        root: folder that contains the dataset's folder, such as `refcoco/`, with `instances.json` and
            `refs(unc).p`, or `refs(unc).json` with the same content.
        images: folder of COCO's `train2014` images.
        split: such as "train", "val", "testA".
        partition: author of the split, "unc", "umd", or "google"; by default the first of `PARTITIONS`.
        negative_share: how often a prompt is a phrase from another image, for an object of a category that
            is not in this one. Only phrases that name their category are used ("the left one" may also be
            true here).
        name: name used in logs and in the mixture.

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
            raise DatasetError(f"unknown dataset {dataset!r}, known: {', '.join(PARTITIONS)}")
        partition = partition or PARTITIONS[dataset][0]
        if partition not in PARTITIONS[dataset]:
            raise DatasetError(
                f"{dataset} has the partitions {' and '.join(PARTITIONS[dataset])}, not {partition!r}"
            )
        self._negative_share = check_probability("negative_share", negative_share)
        layout = Layout(
            dataset=dataset,
            folders=(
                f"{dataset}/instances.json and {dataset}/refs({partition}).p in the root folder, and the "
                "images of COCO train2014"
            ),
            published="https://github.com/lichengunc/refer",
        )
        folder = require_folder(Path(root) / dataset, layout)
        path = folder / f"refs({partition}).json"
        if not path.is_file():
            path = require_file(path.with_suffix(".p"), layout)
        self._split = split
        self._instances = require_file(folder / "instances.json", layout)
        super().__init__(name=name or dataset, annotations=path, images=images, layout=layout)

    def _read_records(self) -> Iterator[dict[str, Any]]:
        path = self._annotations
        refs = read_json(path) if path.suffix == ".json" else _read_pickle(path)
        phrases: list[tuple[int, list[str]]] = []
        yield from _records(refs, self._split, path, self._instances, self._skipped, phrases)
        self._phrase_category = np.array([category for category, _ in phrases], np.int64)
        self._phrases = PackedRecords(texts for _, texts in phrases)

    def _make_sample(
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
                raise RecordError(f"{where}, annotation {identity}: the object covers no pixels")
        unused = rng.permutation(len(record["phrases"])).tolist()
        drawn: list[TrainPrompt] = []
        while len(drawn) < prompts and unused:
            phrase = self._absent_phrase(record, rng) if rng.random() < self._negative_share else None
            labels = np.full(len(masks), NO_CONDITION, np.int64)
            kind = "absent_referring"
            if phrase is None:
                index, texts = record["phrases"][unused.pop()]
                phrase, kind = texts[rng.integers(len(texts))], "referring"
                labels[index] = 0
            conversation = record_conversation(Query(task=Task.REFERRING, text=phrase), where)
            drawn.append(TrainPrompt(kind=kind, conversation=conversation, labels=labels))
        return PromptedImage(rgb=rgb, masks=stack_masks(masks, image_hw), prompts=tuple(drawn))

    def _absent_phrase(self, record: dict[str, Any], rng: np.random.Generator) -> str | None:
        """Draw a phrase for something that is not in the image; return None if the split has none."""
        absent = np.flatnonzero(~np.isin(self._phrase_category, record["categories"]))
        if len(absent) == 0:
            return None
        texts: list[str] = self._phrases[int(rng.choice(absent))]
        return texts[rng.integers(len(texts))]


class _PlainUnpickler(pickle.Unpickler):
    """Unpickler that accepts only dicts, lists, strings, and numbers.

    A pickle can run code only through a class or function that it names. All of these, whatever the opcode,
    are looked up by `find_class`, which refuses them; persistent ids are refused by the base class. The
    remaining opcodes can only build plain values.
    """

    def find_class(self, module_name: str, global_name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}; only plain values are allowed")


def load_plain_pickle(file: BinaryIO) -> Any:
    """Read a pickle of plain values, including those written by Python 2.

    Raises:
        pickle.UnpicklingError: the pickle names a class or function, or is damaged.
    """
    try:
        return _PlainUnpickler(file, encoding="utf-8").load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # a damaged pickle may fail in any way
        raise pickle.UnpicklingError(f"{type(error).__name__}: {error}") from error


def _read_pickle(path: Path) -> Any:
    with path.open("rb") as file:
        try:
            return load_plain_pickle(file)
        except pickle.UnpicklingError as error:
            raise DatasetError(
                f"{path} cannot be read safely: {error}", hint="download it again, or provide it as .json"
            ) from error


def _records(
    refs: Any,
    split: str,
    path: Path,
    instances: Path,
    skipped: Counter[str],
    phrases: list[tuple[int, list[str]]],
) -> Iterator[dict[str, Any]]:
    """Parse the images with phrases of the split; phrases that name their category are added to `phrases`."""
    data = read_json(instances)
    names, class_of = read_categories(data, str(instances))
    annotations: dict[Identity, dict[str, Any] | None] = {}  # None: two different ones have the id
    categories_in: dict[Identity, set[int]] = defaultdict(set)
    for number, entry in enumerate(take(data, "annotations", list, str(instances))):
        identity = take_id(entry, "id", f"{instances}, annotation number {number}")
        where = f"{instances}, annotation {identity}"
        category = take_id(entry, "category_id", where)
        if category not in class_of:
            raise RecordError(f"{where}: category {category} is not in 'categories'")
        image_id = take_id(entry, "image_id", where)
        categories_in[image_id].add(class_of[category])
        parsed = {"image": image_id, "class": class_of[category], "segmentation": entry.get("segmentation")}
        annotations[identity] = parsed if annotations.setdefault(identity, parsed) == parsed else None
    by_image: dict[Identity, list[tuple[Identity, list[str]]]] = defaultdict(list)
    for identity, ref, texts in _phrases(refs, split, path, skipped):
        where = f"{path}, ref {identity}"
        annotation_id, image_id = take_id(ref, "ann_id", where), take_id(ref, "image_id", where)
        annotation = annotations.get(annotation_id)
        if annotation is None and annotation_id in annotations:
            raise RecordError(f"{where}: {instances.name} has two annotations {annotation_id}")
        if annotation is None or annotation["image"] != image_id:
            raise RecordError(f"{where}: {instances.name} has no annotation {annotation_id} in its image")
        by_image[image_id].append((annotation_id, texts))
        class_ = annotation["class"]
        explicit = [text for text in texts if _names_category(text, names[class_])]
        if explicit:
            phrases.append((class_, explicit))
    for image in image_records(data, instances, skipped):
        found = by_image.pop(image["id"], [])
        if not found:
            continue  # in another split
        where = f"{instances}, annotation"
        objects = {
            key: take(annotations[key], "segmentation", (list, dict), f"{where} {key}") for key, _ in found
        }
        index_of = {key: index for index, key in enumerate(objects)}
        yield {
            **image,
            "objects": list(objects.items()),
            "phrases": [(index_of[key], texts) for key, texts in found],
            "categories": sorted(categories_in[image["id"]]),
        }
    if by_image:
        raise RecordError(f"{path}: image {next(iter(by_image))} is not in {instances}")


def _phrases(
    refs: Any, split: str, path: Path, skipped: Counter[str]
) -> Iterator[tuple[Identity, dict[str, Any], list[str]]]:
    if not isinstance(refs, list):
        raise DatasetError(f"{path} must hold a list of refs")
    splits: Counter[str] = Counter()
    for number, ref in enumerate(refs):
        identity = take_id(ref, "ref_id", f"{path}, ref number {number}")
        where = f"{path}, ref {identity}"
        splits[take(ref, "split", str, where)] += 1
        if ref["split"] != split:
            continue
        sentences = [take(item, "sent", str, where) for item in take(ref, "sentences", list, where)]
        texts = [text for text in map(clean_text, sentences) if text]
        if not count_if(skipped, "refs without text", not texts):
            yield identity, ref, texts
    if split not in splits:
        raise DatasetError(f"{path} has no split {split!r}", hint=f"it has {', '.join(sorted(splits))}")


def _names_category(text: str, category: str) -> bool:
    """Return True if a phrase names the category of its object, as "wooden table" does for "dining table"."""
    words = set(re.findall(r"[a-z]+", text.lower()))
    if category == "person":
        return not words.isdisjoint(_PERSON)
    noun = category.lower().split()[-1]
    return not words.isdisjoint({noun, f"{noun}s", f"{noun}es"})
