"""What the network said about one query → a `SegmentationResult`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from xsam.config import XSamConfig
from xsam.inference.pointing import CANDIDATE_SHARE, pointed_at
from xsam.inference.postprocess import (
    NESTED_SHARE,
    RawSegments,
    best_query,
    instances,
    matching_queries,
    most_overlapping,
    panoptic,
    probabilities,
    stuff_regions,
    to_segments,
    without_duplicates,
)
from xsam.inference.preprocess import prompt_mask
from xsam.inference.prompts import END_TAG, PHRASE_CLOSE, PHRASE_OPEN, SEG_TAG
from xsam.inference.upsample import MaskGeometry
from xsam.types.requests import Frame, Query, SegmentationResult, Segments, Status, Task, Timing

# From the last opening tag to the next closing one, as `mark_positions` counts conditions.
_PHRASE = re.compile(f"{PHRASE_OPEN}((?:(?!{PHRASE_OPEN}).)*?){PHRASE_CLOSE}", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawAnswer:
    """Decoder output for one query, and the words if they were generated."""

    class_logits: Tensor | None  # (Q, K + 1); None when there is no mask (chat, no `<SEG>`)
    mask_logits: Tensor | None  # (Q, h, w)
    text: str = ""  # generated answer, tags included


def compose(
    raw: RawAnswer,
    query: Query,
    frame: Frame,
    config: XSamConfig,
    *,
    model_id: str,
    stages_s: Mapping[str, float],
    hint: str = "",
) -> SegmentationResult:
    """Build the typed answer: segments, words, status, and a message when nothing was found."""
    task = query.resolved_task()
    phrases = tuple(" ".join(phrase.split()) for phrase in _PHRASE.findall(raw.text))
    text = plain_text(raw.text)
    segments = Segments(image_hw=frame.image_hw)
    message = ""
    if raw.class_logits is not None and raw.mask_logits is not None:
        labels = _labels(query, task, phrases)
        found = _segments(raw.class_logits, raw.mask_logits, query, task, frame, config)
        segments = to_segments(found, labels, max_instances=query.max_instances)
        best = float(probabilities(raw.class_logits).max()) if raw.class_logits.shape[1] > 1 else 0.0
        message = f"nothing matches {_asked(query, task)}; best score {best:.2f}"
    elif task is not Task.CHAT:
        message = "the generated answer holds no mask"
    found_something = len(segments) > 0 or (task is Task.CHAT and bool(text))
    return SegmentationResult(
        status=Status.FOUND if found_something else Status.NOT_FOUND,
        query=query,
        segments=segments,
        text=text,
        phrases=phrases,
        message="" if found_something else message or "the model gave no answer",
        hint=hint,
        model_id=model_id,
        camera=frame.camera,
        frame_id=frame.frame_id,
        stamp_ns=frame.stamp_ns,
        timing=Timing(stages_s=dict(stages_s)),
    )


def plain_text(generated: str) -> str:
    """Generated text without tags and without the sentence that only carries the mask."""
    text = generated.split(END_TAG, maxsplit=1)[0]
    text = re.sub(rf"(Sure, )?[^.<>]*\b(is|are)?\s*{re.escape(SEG_TAG)}\s*\.?", "", text, flags=re.IGNORECASE)
    text = re.sub(rf"{SEG_TAG}|</?p>|<\|[a-z]+\|>|</?s>|<unk>", " ", text)
    return re.sub(r"\s+([,.?!])", r"\1", " ".join(text.split()))


def _labels(query: Query, task: Task, phrases: tuple[str, ...]) -> tuple[str, ...]:
    if task in (Task.GENERIC, Task.OPEN_VOCABULARY):
        return query.thing_classes + query.stuff_classes
    if task in (Task.GROUNDED_CONVERSATION, Task.CHAT):
        return phrases
    if task is Task.VISUAL_GROUNDED:
        return tuple(f"region {i + 1}" for i in range(sum(p.positive for p in query.prompts)))
    return ("region",) if task is Task.INTERACTIVE else (query.text.strip(),)


def _asked(query: Query, task: Task) -> str:
    if task in (Task.GENERIC, Task.OPEN_VOCABULARY):
        return "the categories " + ", ".join(map(repr, (query.thing_classes + query.stuff_classes)[:10]))
    return f"{query.text!r}" if query.text else f"the {task.value.replace('_', ' ')} prompt"


def _segments(
    class_logits: Tensor, mask_logits: Tensor, query: Query, task: Task, frame: Frame, config: XSamConfig
) -> RawSegments:
    geometry = MaskGeometry.for_image(frame.image_hw, config.sam.image_size)
    threshold = query.score_threshold
    if task in (Task.GENERIC, Task.OPEN_VOCABULARY):
        return _categories(class_logits, mask_logits, query, geometry, config)
    if task is Task.VISUAL_GROUNDED:
        limit = config.instance_threshold if threshold is None else threshold
        return without_duplicates(
            instances(class_logits, mask_logits, geometry, threshold=limit), nested=_nested(config)
        )
    if task is Task.INTERACTIVE:
        if config.one_mask_per_object:
            floor = CANDIDATE_SHARE * float(probabilities(class_logits).max())
            candidates = matching_queries(class_logits, mask_logits, geometry, threshold=floor)
            best = pointed_at(candidates, query.prompts, frame.image_hw)
        else:
            wide = instances(class_logits, mask_logits, geometry, threshold=threshold or 0.0)
            candidates = wide if len(wide.scores) else best_query(class_logits, mask_logits, geometry)
            best = most_overlapping(candidates, prompt_mask(query.prompts, frame.image_hw))
        return best.pick(best.scores >= (threshold or 0.0))
    limit = config.reject_below if threshold is None else threshold
    found = (
        matching_queries(class_logits, mask_logits, geometry)
        if config.one_mask_per_object
        else best_query(class_logits, mask_logits, geometry)
    )
    return found.pick(found.scores >= limit)


def _categories(
    class_logits: Tensor, mask_logits: Tensor, query: Query, geometry: MaskGeometry, config: XSamConfig
) -> RawSegments:
    """Things only → instances; stuff only → regions; both → panoptic."""
    things, stuff = len(query.thing_classes), len(query.stuff_classes)
    threshold = config.instance_threshold if query.score_threshold is None else query.score_threshold
    if things and stuff:
        return panoptic(
            class_logits,
            mask_logits,
            geometry,
            stuff=range(things, things + stuff),
            threshold=threshold,
            weigh_own=not config.one_mask_per_object,
        )
    if things:
        return without_duplicates(
            instances(class_logits, mask_logits, geometry, threshold=threshold), nested=_nested(config)
        )
    return stuff_regions(class_logits, mask_logits, geometry, threshold=threshold)


def _nested(config: XSamConfig) -> float | None:
    return NESTED_SHARE if config.one_mask_per_object else None
