"""ReasonSeg: questions whose answer is a region, annotated with LabelMe polygons."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.data.readers.annotations import MALFORMED, skip, take_flag
from xsam.data.readers.files import Layout, read_json, require_file, require_folder, take
from xsam.data.readers.labelme import (
    IMAGE_SUFFIXES,
    annotated_size,
    fill_outline,
    read_labelme,
    read_outline,
)
from xsam.data.readers.source import FileSource, check_probability, count_if, record_conversation
from xsam.data.samples import PromptedImage, TrainPrompt, answer_with_masks
from xsam.errors import DatasetError, InvalidOptionError, RecordError
from xsam.inference.prompts import Conversation, clean_text
from xsam.types.masks import BoolMask
from xsam.types.requests import Query, Task

LAYOUT = Layout(
    dataset="ReasonSeg",
    folders=(
        "train/ with a .json beside each image, likewise val/ and test/, and explanatory/train.json for the "
        "explanations"
    ),
    published="https://github.com/dvlab-research/LISA",
)


QUERIES = ("all", "short", "long")


class ReasonSeg(FileSource):
    """Reasoning segmentation.

    An image has one mask, the target of all its questions. Sentences become reasoning queries and phrases
    become referring expressions, as a user would ask them. Images without text or without a target are
    skipped, and so are those with a shape that has no area, such as a line. Images are turned upright by
    their orientation tag, because LabelMe shows and annotates them that way.

    Args:
        root: folder that contains the split's folder.
        split: such as "train" or "val".
        explanations: a file of explained answers; by default `explanatory/train.json` for the training split,
            if it exists. False disables explanations.
        explain_share: how often a question with a known explanation asks for it.
        queries: "short" for the images with phrases only, "long" for those with sentences (`is_sentence`).
        name: name used in logs and in the mixture.

    Source: Lai et al. 2024 (LISA, arXiv 2308.00692).
    """

    _upright = True

    def __init__(
        self,
        *,
        root: str | Path,
        split: str = "train",
        explanations: str | Path | bool = True,
        explain_share: float = 0.5,
        queries: str = "all",
        name: str = "reason_seg",
    ) -> None:
        if queries not in QUERIES:
            raise InvalidOptionError(f"queries must be one of {', '.join(QUERIES)}, not {queries!r}")
        self._queries = queries
        self._explain_share = check_probability("explain_share", explain_share)
        folder = require_folder(Path(root) / split, LAYOUT)
        path: Path | None = None
        if not isinstance(explanations, bool):
            path = require_file(explanations, LAYOUT)
        elif explanations and split == "train":
            found = Path(root) / "explanatory" / "train.json"
            path = found if found.is_file() else None
        self._explanations = path
        super().__init__(name=name, annotations=folder, images=folder, layout=LAYOUT)

    def _read_records(self) -> Iterable[dict[str, Any]]:
        explained = _read_explanations(self._explanations, self._skipped) if self._explanations else {}
        for record in _records(self._annotations, explained, self._skipped):
            if self._queries == "all" or record["sentences"] is (self._queries == "long"):
                yield record

    def _make_sample(
        self,
        record: dict[str, Any],
        rgb: NDArray[np.uint8],
        rng: np.random.Generator,
        prompts: int,
        where: str,
    ) -> PromptedImage:
        target, ignored = _paint(record["shapes"], rgb.shape[:2], where)
        drawn = []
        for pick in rng.permutation(len(record["texts"]))[:prompts]:
            explain = bool(record["explanation"]) and bool(rng.random() < self._explain_share)
            drawn.append(_prompt(record, record["texts"][pick], where, explain=explain))
        return PromptedImage(rgb=rgb, masks=target[None], prompts=tuple(drawn), ignored=ignored)

    def _make_whole(self, record: dict[str, Any], rgb: NDArray[np.uint8], where: str) -> PromptedImage:
        target, ignored = _paint(record["shapes"], rgb.shape[:2], where)
        prompts = tuple(_prompt(record, text, where) for text in record["texts"])
        return PromptedImage(rgb=rgb, masks=target[None], prompts=prompts, ignored=ignored)


def _prompt(record: dict[str, Any], text: str, where: str, *, explain: bool = False) -> TrainPrompt:
    """Ask one of the texts of a record: a sentence as a question, a phrase as a referring expression."""
    task = Task.REASONING if record["sentences"] or explain else Task.REFERRING
    conversation = record_conversation(Query(task=task, text=text, explain=explain), where)
    if explain:
        answer = answer_with_masks(record["explanation"])
        conversation = Conversation(question=conversation.question, answer=answer)
    return TrainPrompt(
        kind="explained_reasoning" if explain else "reasoning",
        conversation=conversation,
        labels=np.zeros(1, np.int64),
    )


def _records(folder: Path, explained: dict[str, str], skipped: Counter[str]) -> Iterator[dict[str, Any]]:
    files: dict[str, list[Path]] = defaultdict(list)  # in lower case
    for path in sorted(folder.iterdir()):
        files[path.suffix.lower()].append(path)
    images: dict[str, list[Path]] = defaultdict(list)
    for suffix in IMAGE_SUFFIXES:
        for path in files[suffix]:
            images[path.stem].append(path)
    annotations = {path.stem: path for path in files[".json"]}
    for stem in sorted(images.keys() | annotations.keys()):
        if count_if(skipped, "annotations without an image", stem not in images):
            continue
        if count_if(skipped, "without an annotation", stem not in annotations):
            continue
        try:
            if len(images[stem]) > 1:
                raise RecordError(f"{annotations[stem]} belongs to {len(images[stem])} images")
            record = _record(annotations[stem], images[stem][0], explained)
        except DatasetError as error:
            skip(skipped, MALFORMED, error)
            continue
        if count_if(skipped, "without a text", not record["texts"]) or count_if(
            skipped, "without a target", all(ignore for ignore, _ in record["shapes"])
        ):
            continue
        yield record


def _record(path: Path, image: Path, explained: dict[str, str]) -> dict[str, Any]:
    where = str(path)
    data = read_labelme(path)
    texts = take(data, "text", list, where)
    if not all(isinstance(text, str) for text in texts):
        raise RecordError(f"{where}: 'text' must be a list of strings")
    shapes = []
    for number, shape in enumerate(take(data, "shapes", list, where)):
        shape_where = f"{where}, shape number {number}"
        label = take(shape, "label", str, shape_where).lower()
        if label != "flag":  # an artifact of the annotation tool
            shapes.append(("ignore" in label, read_outline(shape, shape_where)))
    return {
        "id": image.stem,
        "file_name": image.name,
        **annotated_size(data, where),
        "texts": [text for text in map(clean_text, texts) if text],
        "sentences": take_flag(data, "is_sentence", where),
        "shapes": shapes,
        "explanation": explained.get(image.name, ""),
    }


def _paint(
    shapes: list[tuple[bool, list[list[float]]]], image_hw: tuple[int, int], where: str
) -> tuple[BoolMask, BoolMask | None]:
    """Rasterize the target and the ignored pixels, each (H, W) bool.

    Smaller shapes are painted over larger ones, as in the benchmark's own reader: a hole in the target is an
    ignored region on top of it.

    Raises:
        RecordError: the target covers no pixels.
    """
    drawn = [(ignore, fill_outline(corners, image_hw, where)) for ignore, corners in shapes]
    drawn.sort(key=lambda item: int(item[1].sum()), reverse=True)
    target, ignored = np.zeros(image_hw, np.bool_), np.zeros(image_hw, np.bool_)
    for ignore, mask in drawn:
        target[mask], ignored[mask] = not ignore, ignore
    if not target.any():
        raise RecordError(f"{where}: the target covers no pixels")
    return target, ignored if ignored.any() else None


def _read_explanations(path: Path, skipped: Counter[str]) -> dict[str, str]:
    """Read the explanations of why a target is the answer, by file name of the image."""
    items = read_json(path)
    if not isinstance(items, list):
        raise DatasetError(f"{path} must hold a list of explanations")
    found = {}
    for number, item in enumerate(items):
        where = f"{path}, explanation number {number}"
        try:
            found[take(item, "image", str, where)] = clean_text(take(item, "outputs", str, where))
        except RecordError as error:
            skip(skipped, "malformed explanations", error)
    return found
