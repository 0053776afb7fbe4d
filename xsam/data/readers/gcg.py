"""GranD-f: captions with masks for their phrases, for grounded conversation."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.data.readers.annotations import (
    MALFORMED,
    annotations_by_image,
    image_records,
    skip,
    take_flag,
    take_id,
)
from xsam.data.readers.files import (
    Layout,
    holds_list,
    iterate_json_list,
    read_json,
    require_file,
    take,
)
from xsam.data.readers.segmentations import decode_segmentation, stack_masks
from xsam.data.readers.source import FileSource, count_if, record_conversation
from xsam.data.samples import PromptedImage, TrainPrompt, answer_with_masks
from xsam.errors import InvalidOptionError, RecordError
from xsam.inference.prompts import PHRASE_CLOSE, PHRASE_OPEN, Conversation, clean_text
from xsam.types.requests import Query, Task

_FILES = {
    "grandf": ("GranDf_HA_GCG_train.json", "GranDf_HA_images/train"),
    "openpsg": ("OpenPsgGCG_train.json", "COCO 2017, or the folder above train2017/ and val2017/"),
    "refcocog": ("RefCOCOg_GCG_train.json", "COCO train2014"),
    "flickr": ("flickr_mergedGT_GCG_train.json", "Flickr30k"),
}
_OPEN, _CLOSE = "\ue000", "\ue001"  # stand for <p> and </p> while tags are removed from the caption
_MIN_WORDS = 3  # as in the dataset's own reader
_Span = tuple[int, int]


class GroundedCaptions(FileSource):
    """One of the four parts of GranD-f.

    The answer is the caption in lowercase with `<p> … </p>` around its phrases; each phrase has one mask,
    the union of its regions. Phrases that overlap an earlier one, or whose mask is empty, stay plain text.

    The files have three forms, distinguished by their content:

    - GranD-f proper and OpenPSG: a list of `{file_name, image_id, caption, groundings: {phrase:
      {token_positives: [start, end], rle_masks: […]}}}`;
    - RefCOCOg: a list of `{key: {img_file_name, caption, refs: [{sentence, segmentation}]}}`;
    - Flickr30k: COCO's form, with captions in the image entries, and `tokens_positive: [[start, end], …]`
      and `sam_mask` in the annotations.

    Args:
        dataset: "grandf", "openpsg", "refcocog", or "flickr"; used in messages and the name.
        annotations: the annotation file.
        images: folder of the images.
        name: name used in logs and in the mixture.

    Source: Rasheed et al. 2024 (GLaMM, arXiv 2311.03356).
    """

    def __init__(
        self, dataset: str, *, annotations: str | Path, images: str | Path, name: str | None = None
    ) -> None:
        if dataset not in _FILES:
            raise InvalidOptionError(f"unknown part of GranD-f {dataset!r}, known: {', '.join(_FILES)}")
        annotation_file, image_folders = _FILES[dataset]
        layout = Layout(
            dataset=f"GranD-f ({dataset})",
            folders=f"annotations/train/{annotation_file} and the images: {image_folders}",
            published="https://huggingface.co/datasets/MBZUAI/GranD-f",
        )
        super().__init__(
            name=name or f"gcg_{dataset}",
            annotations=require_file(annotations, layout),
            images=images,
            layout=layout,
        )

    def _read_records(self) -> Iterable[dict[str, Any]]:
        return _records(self._annotations, self._skipped)

    def _make_sample(
        self,
        record: dict[str, Any],
        rgb: NDArray[np.uint8],
        rng: np.random.Generator,
        prompts: int,
        where: str,
    ) -> PromptedImage:
        image_hw = rgb.shape[:2]
        spans, masks = [], []
        for span, parts in record["phrases"]:
            mask = np.logical_or.reduce([decode_segmentation(part, image_hw, where) for part in parts])
            if mask.any():
                spans.append((span[0], span[1]))
                masks.append(mask)
        if not masks:
            raise RecordError(f"{where}: the masks of all phrases are empty")
        question = record_conversation(Query(task=Task.GROUNDED_CONVERSATION), where).question
        answer = answer_with_masks(_tag_phrases(record["caption"], spans))
        prompt = TrainPrompt(
            kind="grounded_conversation",
            conversation=Conversation(question=question, answer=answer),
            labels=np.arange(len(masks), dtype=np.int64),
        )
        return PromptedImage(rgb=rgb, masks=stack_masks(masks, image_hw), prompts=(prompt,))


def _records(path: Path, skipped: Counter[str]) -> Iterator[dict[str, Any]]:
    parsed = _listed(path, skipped) if holds_list(path) else _coco_form(read_json(path), path, skipped)
    for record, found in parsed:
        if count_if(skipped, "with too short a caption", len(record["caption"].split()) < _MIN_WORDS):
            continue
        record["phrases"] = _without_overlap(record["caption"], found)
        if count_if(skipped, "without a phrase in the caption", not record["phrases"]):
            continue
        yield record


def _listed(path: Path, skipped: Counter[str]) -> Iterator[tuple[dict[str, Any], list[tuple[_Span, Any]]]]:
    for number, item in enumerate(iterate_json_list(path)):
        where = f"{path}, record number {number}"
        try:
            yield _listed_form(item, where)
        except RecordError as error:
            skip(skipped, MALFORMED, error)


def _listed_form(item: Any, where: str) -> tuple[dict[str, Any], list[tuple[_Span, Any]]]:
    if isinstance(item, Mapping) and "groundings" in item:
        return _grand_form(item, where)
    if isinstance(item, Mapping) and len(item) == 1:
        return _refcocog_form(*next(iter(item.items())), where)
    raise RecordError(f"{where}: expected 'groundings', or {{key: {{refs, caption, …}}}}")


def _grand_form(item: Any, where: str) -> tuple[dict[str, Any], list[tuple[_Span, Any]]]:
    identity = take_id(item, "image_id", where)
    where = f"{where} (image {identity})"
    caption = take(item, "caption", str, where).strip('"').strip()
    found = []
    for phrase, grounding in take(item, "groundings", dict, where).items():
        phrase_where = f"{where}, phrase {phrase!r}"
        annotated = _span(take(grounding, "token_positives", list, phrase_where), phrase_where)
        span = _locate(caption, phrase.strip('"').strip(), annotated)
        if span is not None:
            found.append((span, take(grounding, "rle_masks", list, phrase_where)))
    return {"id": identity, "file_name": take(item, "file_name", str, where), "caption": caption}, found


def _refcocog_form(key: str, item: Any, where: str) -> tuple[dict[str, Any], list[tuple[_Span, Any]]]:
    where = f"{where} ({key})"
    caption = take(item, "caption", str, where).strip('"').strip()
    found = []
    for ref in take(item, "refs", list, where):
        span = _locate(caption, take(ref, "sentence", str, where).strip('"').strip(), None)
        if span is not None:
            found.append((span, take(ref, "segmentation", (list, dict), where)))
    return {"id": key, "file_name": take(item, "img_file_name", str, where), "caption": caption}, found


def _coco_form(
    data: Any, path: Path, skipped: Counter[str]
) -> Iterator[tuple[dict[str, Any], list[tuple[_Span, Any]]]]:
    images = list(image_records(data, path, skipped, texts=["caption"]))
    regions, malformed = annotations_by_image(data, images, path, skipped, _grounded_region)
    for record in images:
        if record["id"] not in malformed:
            found = regions.get(record["id"], [])
            yield record, [(item["span"], item["mask"]) for item in found if not item["ignore"]]


def _grounded_region(annotation: Any, where: str) -> dict[str, Any]:
    spans = take(annotation, "tokens_positive", list, where)
    if not spans:
        raise RecordError(f"{where}: 'tokens_positive' is empty")
    ignore = take_flag(annotation, "ignore", where)
    return {
        "id": take_id(annotation, "id", where) if "id" in annotation else "",
        "span": _span(spans[0], where),
        "ignore": ignore,
        "mask": None if ignore else take(annotation, "sam_mask", (dict, list), where),
    }


def _span(value: Any, where: str) -> _Span:
    if not isinstance(value, list) or len(value) != 2 or not all(type(v) is int for v in value):
        raise RecordError(f"{where}: a span must be [start, end] in characters, not {value!r}")
    return (value[0], value[1])


def _locate(caption: str, phrase: str, annotated: _Span | None) -> _Span | None:
    """Return the occurrence of a phrase nearest to the annotated span, or the first one; None if absent."""
    if not phrase:
        return None
    spans = [match.span() for match in re.finditer(re.escape(phrase), caption, re.IGNORECASE)]
    start = annotated[0] if annotated else 0
    return min(spans, key=lambda span: abs(span[0] - start), default=None)


def _without_overlap(caption: str, found: list[tuple[_Span, Any]]) -> list[tuple[_Span, list[Any]]]:
    """Sort phrases, merge the regions of equal spans, and drop spans that overlap an earlier one."""
    parts: dict[_Span, list[Any]] = defaultdict(list)
    for (start, end), region in found:
        text = caption[start:end] if 0 <= start < end <= len(caption) else ""
        start += len(text) - len(text.lstrip())
        if clean_text(text):
            parts[start, start + len(text.strip())].append(region)
    kept: list[tuple[_Span, list[Any]]] = []
    for span in sorted(parts, key=lambda span: (span[0], -span[1])):
        if not kept or span[0] >= kept[-1][0][1]:
            kept.append((span, parts[span]))
    return kept


def _tag_phrases(caption: str, spans: list[_Span]) -> str:
    """Convert a caption to lowercase, remove its own tags, and put tags around the phrases.

    Args:
        caption: as in the file.
        spans: character ranges of `caption`, in order, without overlap.
    """
    pieces, last = [], 0
    plain = caption.replace(_OPEN, " ").replace(_CLOSE, " ")
    for start, end in spans:
        pieces += [plain[last:start], _OPEN, plain[start:end], _CLOSE]
        last = end
    text = clean_text("".join([*pieces, plain[last:]]).lower())
    text = text if text.endswith((".", "!", "?")) else f"{text}."
    return text.replace(_OPEN, PHRASE_OPEN).replace(_CLOSE, PHRASE_CLOSE)
