"""RefCOCO, RefCOCO+, and RefCOCOg: phrases for single objects, in the layout of REFER."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.data.readers.files import Layout, PackedRecords, require_file, require_folder
from xsam.data.readers.refer import REFER_URL, ReferFiles, find_refs
from xsam.data.readers.segmentations import decode_segmentation, stack_masks
from xsam.data.readers.source import FileSource, check_probability, record_conversation
from xsam.data.samples import NO_CONDITION, PromptedImage, TrainPrompt
from xsam.errors import InvalidOptionError, RecordError
from xsam.types.masks import BoolMask
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
            raise InvalidOptionError(f"unknown dataset {dataset!r}, known: {', '.join(PARTITIONS)}")
        partition = partition or PARTITIONS[dataset][0]
        if partition not in PARTITIONS[dataset]:
            raise InvalidOptionError(
                f"{dataset} has the partitions {' and '.join(PARTITIONS[dataset])}, not {partition!r}"
            )
        self._negative_share = check_probability("negative_share", negative_share)
        layout = Layout(
            dataset=dataset,
            folders=(
                f"{dataset}/instances.json and {dataset}/refs({partition}).p in the root folder, and the "
                "images of COCO train2014"
            ),
            published=REFER_URL,
        )
        folder = require_folder(Path(root) / dataset, layout)
        path = find_refs(folder, f"refs({partition})", layout)
        self._split = split
        self._instances = require_file(folder / "instances.json", layout)
        super().__init__(name=name or dataset, annotations=path, images=images, layout=layout)

    def _read_records(self) -> Iterator[dict[str, Any]]:
        files = ReferFiles(self._annotations, self._instances, self._split, self._skipped)
        phrases: list[tuple[int, list[str]]] = []
        for record in files.records():
            for indices, texts in record["refs"]:
                category = record["classes"][indices[0]]
                explicit = [text for text in texts if _names_category(text, files.names[category])]
                if explicit:
                    phrases.append((category, explicit))
            yield record
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
        masks = decode_targets(record, rgb.shape[:2], where)
        unused = rng.permutation(len(record["refs"])).tolist()
        drawn: list[TrainPrompt] = []
        while len(drawn) < prompts and unused:
            absent = self._absent_phrase(record, rng) if rng.random() < self._negative_share else None
            if absent is None:
                indices, texts = record["refs"][unused.pop()]
                drawn.append(phrase_prompt(texts[rng.integers(len(texts))], indices, len(masks), where))
            else:
                drawn.append(phrase_prompt(absent, [], len(masks), where))
        return PromptedImage(rgb=rgb, masks=masks, prompts=tuple(drawn))

    def _make_whole(self, record: dict[str, Any], rgb: NDArray[np.uint8], where: str) -> PromptedImage:
        masks = decode_targets(record, rgb.shape[:2], where)
        return PromptedImage(rgb=rgb, masks=masks, prompts=all_phrases(record, len(masks), where))

    def _absent_phrase(self, record: dict[str, Any], rng: np.random.Generator) -> str | None:
        """Draw a phrase for something that is not in the image; return None if the split has none."""
        absent = np.flatnonzero(~np.isin(self._phrase_category, record["categories"]))
        if len(absent) == 0:
            return None
        texts: list[str] = self._phrases[int(rng.choice(absent))]
        return texts[rng.integers(len(texts))]


def decode_targets(record: dict[str, Any], image_hw: tuple[int, int], where: str) -> BoolMask:
    """Decode the objects of a record of `ReferFiles` to masks (N, H, W).

    Raises:
        RecordError: one of them cannot be decoded, or covers no pixels.
    """
    masks = []
    for identity, segmentation in record["objects"]:
        masks.append(decode_segmentation(segmentation, image_hw, f"{where}, annotation {identity}"))
        if not masks[-1].any():
            raise RecordError(f"{where}, annotation {identity}: the object covers no pixels")
    return stack_masks(masks, image_hw)


def phrase_prompt(text: str, indices: list[int], mask_count: int, where: str) -> TrainPrompt:
    """Build the prompt for a phrase that refers to the masks with these indices, or to none."""
    labels = np.full(mask_count, NO_CONDITION, np.int64)
    labels[indices] = 0
    return TrainPrompt(
        kind="referring" if indices else "absent_referring",
        conversation=record_conversation(Query(task=Task.REFERRING, text=text), where),
        labels=labels,
    )


def all_phrases(record: dict[str, Any], mask_count: int, where: str) -> tuple[TrainPrompt, ...]:
    """Build the prompts for all phrases of a record of `ReferFiles`, in file order."""
    return tuple(
        phrase_prompt(text, indices, mask_count, where) for indices, texts in record["refs"] for text in texts
    )


def _names_category(text: str, category: str) -> bool:
    """Return True if a phrase names the category of its object, as "wooden table" does for "dining table"."""
    words = set(re.findall(r"[a-z]+", text.lower()))
    if category == "person":
        return not words.isdisjoint(_PERSON)
    noun = category.lower().split()[-1]
    return not words.isdisjoint({noun, f"{noun}s", f"{noun}es"})
