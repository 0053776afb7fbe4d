"""Decoder output for one query → a `SegmentationResult`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from xsam.config import ModelConfig
from xsam.inference.chat_format import END_TAG
from xsam.inference.finite import all_finite
from xsam.inference.kinds import CATEGORY_TASKS, least_score
from xsam.inference.mask_support import MaskSupport
from xsam.inference.pointing import Reference, followed, most_overlapping, pointed_at
from xsam.inference.postprocess import (
    CANDIDATE_SHARE,
    NESTED_SHARE,
    Check,
    UnlabeledSegments,
    always_go_on,
    best_first,
    best_query,
    instances,
    matching_queries,
    panoptic,
    probabilities,
    to_segments,
    without_duplicates,
)
from xsam.inference.prompts import PHRASE_CLOSE, PHRASE_OPEN, SEG_TAG
from xsam.inference.regions import stuff_regions
from xsam.inference.undecided import with_undecided
from xsam.inference.upsample import MaskGeometry
from xsam.spatial.phrases import means_one
from xsam.types.masks import BoolMask
from xsam.types.requests import Frame, Query, SegmentationResult, Segments, Status, Task

# From the last opening tag to the next closing one, as `mark_positions` counts conditions.
_PHRASE = re.compile(f"{PHRASE_OPEN}((?:(?!{PHRASE_OPEN}).)*?){PHRASE_CLOSE}", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Decoder output for one query, and the text if it was generated."""

    class_logits: Tensor | None  # (Q, K + 1); None when there is no mask (chat, no `<SEG>`)
    mask_logits: Tensor | None  # (Q, h, w)
    text: str = ""  # generated answer, tags included
    states: Tensor | None = None  # (Q, C)

    @property
    def logits(self) -> tuple[Tensor, ...]:
        return tuple(t for t in (self.class_logits, self.mask_logits) if t is not None)

    @property
    def is_finite(self) -> bool:
        """False if a logit is NaN or infinite."""
        return all_finite(self.logits)


def compose(
    prediction: Prediction,
    query: Query,
    frame: Frame,
    config: ModelConfig,
    *,
    task: Task,
    prompt_region: BoolMask | None = None,
    references: Sequence[Reference] = (),
    model_id: str = "",
    hint: str = "",
    check: Check = always_go_on,
) -> tuple[SegmentationResult, MaskSupport]:
    """Build the typed result: segments, text, status, and a message when nothing was found.

    Args:
        prediction: output of the network.
        query: the query it belongs to.
        frame: the source image.
        config: thresholds and sizes of the model.
        task: the query's resolved task.
        prompt_region: (H, W) pixels that the visual prompts of an INTERACTIVE query cover.
        references: masks of its object in earlier frames of a video; they replace the region.
        model_id: identifier of the model.
        hint: what may explain a poor result, such as unknown words.
        check: called in every loop over queries, classes and bands; may raise.

    Returns:
        The result, still without timing, and what the network itself says for its masks.
    """
    phrases = tuple(" ".join(phrase.split()) for phrase in _PHRASE.findall(prediction.text))
    text = plain_text(prediction.text)
    segments = Segments(image_hw=frame.image_hw)
    message, support = "", MaskSupport()
    if prediction.class_logits is not None and prediction.mask_logits is not None:
        class_logits, mask_logits = prediction.class_logits, prediction.mask_logits
        unlabeled = _select(
            class_logits, mask_logits, query, task, frame, config, prompt_region, references, check
        )
        unlabeled = best_first(unlabeled, max_instances=query.max_instances)
        segments = to_segments(unlabeled, _labels(query, task, phrases), states=prediction.states)
        support = MaskSupport(
            firmness=tuple(unlabeled.firmness.tolist()), runners_up=tuple(unlabeled.runners_up.tolist())
        )
        best = float(probabilities(class_logits).max()) if class_logits.shape[1] > 1 else 0.0
        message = f"nothing matches {_describe(query, task)}; best score {best:.2f}"
    elif task is not Task.CHAT:
        message = "the generated answer holds no mask"
    found = len(segments) > 0 or (task is Task.CHAT and bool(text))
    result = SegmentationResult(
        status=Status.FOUND if found else Status.NOT_FOUND,
        query=query,
        segments=segments,
        text=text,
        phrases=phrases,
        message="" if found else message or "the model gave no answer",
        hint=hint,
        model_id=model_id,
        camera=frame.camera,
        frame_id=frame.frame_id,
        stamp_ns=frame.stamp_ns,
    )
    return result, support


def plain_text(generated: str) -> str:
    """Strip tags, and the sentence that only carries the mask, from generated text."""
    text = generated.split(END_TAG, maxsplit=1)[0]
    text = re.sub(rf"(Sure, )?[^.<>]*\b(is|are)?\s*{re.escape(SEG_TAG)}\s*\.?", "", text, flags=re.IGNORECASE)
    text = re.sub(rf"{SEG_TAG}|</?p>|<\|[^|<>]*\|>|</?s>|<unk>", " ", text)
    return re.sub(r"\s+([,.?!])", r"\1", " ".join(text.split()))


def with_names_of(result: SegmentationResult, query: Query) -> SegmentationResult:
    """Return a result for the same query without repeated categories as the result for `query`."""
    names = query.thing_classes + query.stuff_classes
    indices = np.array([names.index(label) for label in result.segments.labels], np.int32)
    return replace(result, query=query, segments=replace(result.segments, label_indices=indices))


def _labels(query: Query, task: Task, phrases: tuple[str, ...]) -> tuple[str, ...]:
    if task in CATEGORY_TASKS:
        return query.thing_classes + query.stuff_classes
    if task in (Task.GROUNDED_CONVERSATION, Task.CHAT):
        return phrases
    if task is Task.VISUAL_GROUNDED:
        return tuple(f"region {i + 1}" for i in range(sum(p.positive for p in query.prompts)))
    return ("region",) if task is Task.INTERACTIVE else (query.text.strip(),)


def _describe(query: Query, task: Task) -> str:
    if task in CATEGORY_TASKS:
        return "the categories " + ", ".join(map(repr, (query.thing_classes + query.stuff_classes)[:10]))
    return f"{query.text!r}" if query.text else f"the {task.value.replace('_', ' ')} prompt"


def _select(
    class_logits: Tensor,
    mask_logits: Tensor,
    query: Query,
    task: Task,
    frame: Frame,
    config: ModelConfig,
    prompt_region: BoolMask | None,
    references: Sequence[Reference],
    check: Check,
) -> UnlabeledSegments:
    """Apply the selection rule of the task."""
    geometry = MaskGeometry.for_image(frame.image_hw, config.square)
    threshold = query.score_threshold
    if task in CATEGORY_TASKS:
        return _select_categories(class_logits, mask_logits, query, task, geometry, config, check)
    if task is Task.VISUAL_GROUNDED:
        least = least_score(query, task, config)
        return without_duplicates(
            instances(class_logits, mask_logits, geometry, threshold=least, check=check),
            nested=_nested(config),
            check=check,
        )
    if task is Task.INTERACTIVE and references:
        least = threshold or 0.0
        best = followed(class_logits, mask_logits, geometry, references, threshold=least, check=check)
        return best.pick(best.scores >= least)
    if task is Task.INTERACTIVE:
        assert prompt_region is not None
        if config.one_mask_per_object:
            least = CANDIDATE_SHARE * float(probabilities(class_logits).max())
            candidates = matching_queries(class_logits, mask_logits, geometry, threshold=least, check=check)
            best = pointed_at(candidates, query.prompts, prompt_region)
        else:
            least = config.instance_threshold if threshold is None else threshold
            candidates = instances(class_logits, mask_logits, geometry, threshold=least, check=check)
            if not candidates.masks:
                candidates = best_query(class_logits, mask_logits, geometry, check=check)
            best = most_overlapping(candidates, prompt_region)
        return best.pick(best.scores >= (threshold or 0.0))
    least = config.reject_below if threshold is None else threshold
    found = (
        matching_queries(class_logits, mask_logits, geometry, check=check)
        if config.one_mask_per_object and not (task is Task.REFERRING and means_one(query.text))
        else best_query(class_logits, mask_logits, geometry, check=check)
    )
    return found.pick(found.scores >= least)


def _select_categories(
    class_logits: Tensor,
    mask_logits: Tensor,
    query: Query,
    task: Task,
    geometry: MaskGeometry,
    config: ModelConfig,
    check: Check,
) -> UnlabeledSegments:
    """Things only → instances; stuff only → regions; both → panoptic."""
    things, stuff = len(query.thing_classes), len(query.stuff_classes)
    threshold = least_score(query, task, config)
    if things and stuff:
        return panoptic(
            class_logits,
            mask_logits,
            geometry,
            stuff=range(things, things + stuff),
            threshold=threshold,
            weigh_own=not config.one_mask_per_object,
            check=check,
        )
    if things:
        decided = without_duplicates(
            instances(class_logits, mask_logits, geometry, threshold=threshold, check=check),
            nested=_nested(config),
            check=check,
        )
        if config.calibration is None or query.score_threshold is not None:
            return decided
        return with_undecided(
            decided,
            class_logits,
            mask_logits,
            geometry,
            threshold=threshold,
            nested=_nested(config),
            check=check,
        )
    return stuff_regions(class_logits, mask_logits, geometry, threshold=threshold, check=check)


def _nested(config: ModelConfig) -> float | None:
    return NESTED_SHARE if config.one_mask_per_object else None
