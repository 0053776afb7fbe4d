"""ReasonSeg: questions whose answer is a region, annotated with LabelMe polygons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from xsam.data.readers.files import Layout, parse_json, read_json, require_file, require_folder, take
from xsam.data.readers.source import FileSource, check_probability, count_if, record_conversation
from xsam.data.samples import PromptedImage, TrainPrompt, answer_with_masks
from xsam.errors import DatasetError, RecordError
from xsam.inference.prompts import Conversation, clean_text
from xsam.types.masks import BoolMask
from xsam.types.requests import Query, Task

LAYOUT = Layout(
    dataset="ReasonSeg",
    folders=(
        "train/ with a .json beside each .jpg, likewise val/ and test/, and explanatory/train.json for the "
        "explanations"
    ),
    published="https://github.com/dvlab-research/LISA",
)
_MAX_IMAGE_SIZES = 16  # see `decode_segmentation`


class ReasonSeg(FileSource):
    """Reasoning segmentation.

    An image has one mask, the target of all its questions. Sentences become reasoning queries and phrases
    become referring expressions, as a user would ask them. Images without text or without a target are
    skipped.

    Args:
        root: folder that contains the split's folder.
        split: such as "train" or "val".
        explanations: a file of explained answers; by default `explanatory/train.json` for the training split,
            if it exists. False disables explanations.
        explain_share: how often a question with a known explanation asks for it.
        name: name used in logs and in the mixture.

    Source: Lai et al. 2024 (LISA, arXiv 2308.00692).
    """

    def __init__(
        self,
        *,
        root: str | Path,
        split: str = "train",
        explanations: str | Path | bool = True,
        explain_share: float = 0.5,
        name: str = "reason_seg",
    ) -> None:
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
        explained = _read_explanations(self._explanations) if self._explanations else {}
        return _records(self._annotations, explained, self._skipped)

    def _make_sample(
        self,
        record: dict[str, Any],
        rgb: NDArray[np.uint8],
        rng: np.random.Generator,
        prompts: int,
        where: str,
    ) -> PromptedImage:
        target, ignored = _paint(record["shapes"], rgb.shape[:2], where)
        if not target.any():
            raise RecordError(f"{where}: the target covers no pixels")
        drawn = []
        for pick in rng.permutation(len(record["texts"]))[:prompts]:
            explain = bool(record["explanation"]) and bool(rng.random() < self._explain_share)
            task = Task.REASONING if record["sentences"] or explain else Task.REFERRING
            query = Query(task=task, text=record["texts"][pick], explain=explain)
            conversation = record_conversation(query, where)
            if explain:
                answer = answer_with_masks(record["explanation"])
                conversation = Conversation(question=conversation.question, answer=answer)
            drawn.append(
                TrainPrompt(
                    kind="explained_reasoning" if explain else "reasoning",
                    conversation=conversation,
                    labels=np.zeros(1, np.int64),
                )
            )
        return PromptedImage(rgb=rgb, masks=target[None], prompts=tuple(drawn), ignored=ignored)


def _records(folder: Path, explained: dict[str, str], skipped: Counter[str]) -> Iterator[dict[str, Any]]:
    for image in sorted(folder.glob("*.jpg")):
        path = require_file(image.with_suffix(".json"), LAYOUT)
        where = str(path)
        data = _read_labelme(path)
        texts = take(data, "text", list, where)
        if not all(isinstance(text, str) for text in texts):
            raise RecordError(f"{where}: 'text' must be a list of strings")
        texts = [text for text in map(clean_text, texts) if text]
        shapes = []
        for number, shape in enumerate(take(data, "shapes", list, where)):
            shape_where = f"{where}, shape number {number}"
            label = take(shape, "label", str, shape_where).lower()
            if label != "flag":  # an artifact of the annotation tool
                shapes.append(("ignore" in label, _points(shape, shape_where)))
        if count_if(skipped, "without a text", not texts) or count_if(
            skipped, "without a target", all(ignore for ignore, _ in shapes)
        ):
            continue
        yield {
            "id": image.stem,
            "file_name": image.name,
            "texts": texts,
            "sentences": bool(take(data, "is_sentence", (bool, int), where)),
            "shapes": shapes,
            "explanation": explained.get(image.name, ""),
        }


def _points(shape: Any, where: str) -> Any:
    points = take(shape, "points", list, where)
    good = all(
        isinstance(point, list) and len(point) == 2 and all(isinstance(v, (int, float)) for v in point)
        for point in points
    )
    if not points or not good:
        raise RecordError(f"{where}: 'points' must be a list of [x, y]")
    return points


def _paint(
    shapes: list[tuple[bool, list[list[float]]]], image_hw: tuple[int, int], where: str
) -> tuple[BoolMask, BoolMask | None]:
    """Rasterize the target and the ignored pixels, each (H, W) bool.

    Smaller polygons are painted over larger ones, and a polygon includes its border, as in the benchmark's
    own reader: a hole in the target is an ignored region on top of it.
    """
    drawn = []
    for ignore, points in shapes:
        corners = np.array(points, np.float64)
        if not (np.abs(corners) < _MAX_IMAGE_SIZES * max(image_hw)).all():
            raise RecordError(f"{where}: a polygon has coordinates far outside the image")
        canvas = np.zeros(image_hw, np.uint8)
        cv2.fillPoly(canvas, [corners.astype(np.int32)], 1)  # includes the border, and clips
        drawn.append((ignore, canvas.astype(np.bool_)))
    drawn.sort(key=lambda item: int(item[1].sum()), reverse=True)
    target, ignored = np.zeros(image_hw, np.bool_), np.zeros(image_hw, np.bool_)
    for ignore, mask in drawn:
        target[mask], ignored[mask] = not ignore, ignore
    return target, ignored if ignored.any() else None


def _read_labelme(path: Path) -> Any:
    """Read the file of a record; some of the published files are in Windows-1252 instead of UTF-8."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
    return parse_json(text, path)


def _read_explanations(path: Path) -> dict[str, str]:
    """Read the explanations of why a target is the answer, by file name of the image."""
    items = read_json(path)
    if not isinstance(items, list):
        raise DatasetError(f"{path} must hold a list of explanations")
    found = {}
    for number, item in enumerate(items):
        where = f"{path}, explanation number {number}"
        found[take(item, "image", str, where)] = clean_text(take(item, "outputs", str, where))
    return found
