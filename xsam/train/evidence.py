"""Measure how far the evidence about a segment can be trusted, on validation scenes.

The result is the section `xsam.calibration` of `config.json`. Every sample is a segment that the model gave,
with its evidence, and whether it is right: whether it has an IoU of at least 0.5 with something that was
asked for. Present and absent things are asked for equally often.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from xsam.config.calibration import (
    COMPLETED_KINDS,
    EVIDENCE,
    KINDS,
    Calibration,
    EvidenceWeights,
    Kind,
    evidence_row,
)
from xsam.data.region_prompts import draw_region_prompt
from xsam.inference.census import named_category
from xsam.inference.doubts import Evidence, chance_of, evidence_of
from xsam.inference.examine import examine
from xsam.inference.forward import ForwardPass
from xsam.inference.kinds import kind_of
from xsam.inference.look_alikes import with_look_alikes
from xsam.inference.naming import completed
from xsam.inference.places import corrected
from xsam.sim.annotate import ObjectAnnotation, annotate
from xsam.sim.household import CATEGORIES, COLORS
from xsam.sim.language import (
    RELATION_KINDS,
    absent_expressions,
    reasoning_questions,
    referring_expressions,
)
from xsam.sim.render import STUFF_NAMES, RenderedView
from xsam.sim.scene import sample_scene
from xsam.types.masks import MaskRle
from xsam.types.requests import Frame, PromptKind, Query, SegmentationResult, Task
from xsam.types.segments import Segments

MIN_IOU = 0.5
TARGET_PRECISION = 0.95
MIN_SAMPLES = 50  # of a kind; fewer do not determine its weights
PLAIN_KINDS = (
    "category",
    "color_category",
    "color",
)  # of referring expressions; places are checked otherwise

_RIDGE = 0.1
_STEPS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A segment's evidence, and whether it is right."""

    evidence: Evidence
    right: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    query: Query
    wanted: tuple[int, ...]  # instance ids; empty = nothing fits
    is_comparison: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneEvidence:
    """What the answers about one scene tell.

    Attributes:
        samples: one for each segment.
        own_places, corrected_places: for each phrase that compares objects, whether the object that the model
            chose is right, and whether the one that the outlines show is.
        own_answers, completed_answers: for each kind of answer that a census can complete, whether its
            segments are right, as the model gives them, and completed.
    """

    samples: tuple[Sample, ...]
    own_places: tuple[bool, ...]
    corrected_places: tuple[bool, ...]
    own_answers: Mapping[Kind, tuple[bool, ...]]
    completed_answers: Mapping[Kind, tuple[bool, ...]]


@torch.inference_mode()
def scene_evidence(forward: ForwardPass, seed: int, view: RenderedView) -> SceneEvidence:
    """Ask about a scene in every way: with words, and with marks."""
    items = annotate(sample_scene(seed), view)
    masks = {item.instance_id: MaskRle.encode(view.instance_ids == item.instance_id) for item in items}
    asked = list(_questions(items, view.rgb.shape[1], np.random.default_rng([seed, 102])))
    asked += _marked_questions(items, view, np.random.default_rng([seed, 104]))
    frame = Frame(rgb=view.rgb, depth_m=view.depth_m)
    answers, census = examine(forward, frame, [question.query for question in asked], CATEGORIES)
    samples: list[Sample] = []
    own, corrections = [], []
    said: dict[Kind, list[bool]] = {kind: [] for kind in COMPLETED_KINDS}
    completions: dict[Kind, list[bool]] = {kind: [] for kind in COMPLETED_KINDS}
    for question, (result, support) in zip(asked, answers, strict=True):
        task = question.query.resolved_task()
        if question.is_comparison:
            (truth,) = (masks[key] for key in question.wanted)
            placed, _ = corrected(result, support, task, frame, census)
            own.append(_shows(result.segments, truth))
            corrections.append(_shows(placed.segments, truth))
            continue
        kind = kind_of(question.query, task)
        if kind in COMPLETED_KINDS:
            complete = completed if task is Task.GROUNDED_CONVERSATION else with_look_alikes
            said[kind] += _known(_judged(question, result, items, masks))
            result, support = complete(result, support, task, census)
            completions[kind] += _known(_judged(question, result, items, masks))
        found = evidence_of(result, task, census, support)
        judged = _judged(question, result, items, masks)
        samples += (
            Sample(evidence=evidence, right=right)
            for evidence, right in zip(found, judged, strict=True)
            if right is not None
        )
    return SceneEvidence(
        samples=tuple(samples),
        own_places=tuple(own),
        corrected_places=tuple(corrections),
        own_answers={kind: tuple(judged) for kind, judged in said.items()},
        completed_answers={kind: tuple(judged) for kind, judged in completions.items()},
    )


def _known(judged: Sequence[bool | None]) -> tuple[bool, ...]:
    return tuple(right for right in judged if right is not None)


def _judged(
    question: _Asked,
    result: SegmentationResult,
    items: Sequence[ObjectAnnotation],
    masks: Mapping[int, MaskRle],
) -> list[bool | None]:
    """Return whether each segment shows what was asked for; None if that is not known.

    It is not known of surfaces, and of what is hardly visible.
    """
    unclear = {item.instance_id for item in items if not item.labeled}
    judged: list[bool | None] = []
    for mask, label in zip(result.segments.masks, result.segments.labels, strict=True):
        overlaps = {key: mask.iou(truth) for key, truth in masks.items()}
        best = max(overlaps, key=lambda key: overlaps[key], default=0)
        wanted = question.wanted
        if question.query.resolved_task() is Task.GROUNDED_CONVERSATION:
            wanted = _described(label, items)
        elif len(question.query.thing_classes) > 1:
            if label not in CATEGORIES:
                judged.append(None)
                continue
            wanted = tuple(item.instance_id for item in items if item.category == label)
        if best in unclear and overlaps[best] > 0 and best not in wanted:
            judged.append(None)
        else:
            judged.append(max((overlaps[key] for key in wanted), default=0.0) >= MIN_IOU)
    return judged


def _described(phrase: str, items: Sequence[ObjectAnnotation]) -> tuple[int, ...]:
    """Return the objects that a phrase of a description names, by its color if it has one: "two red mugs"."""
    category = named_category(phrase, CATEGORIES)
    colors = set(COLORS) & set(phrase.split())
    return tuple(
        item.instance_id
        for item in items
        if item.category == category and (not colors or item.color in colors)
    )


def _shows(segments: Segments, truth: MaskRle) -> bool:
    """Return whether the first segment has the outline of an object."""
    return len(segments) > 0 and segments.masks[0].iou(truth) >= MIN_IOU


def _questions(
    items: Sequence[ObjectAnnotation], width_px: int, rng: np.random.Generator
) -> Iterator[_Asked]:
    seen = sorted({item.category for item in items if item.labeled})
    unseen = [name for name in CATEGORIES if name not in {item.category for item in items}]
    for name in rng.permutation(seen)[:3]:
        wanted = tuple(item.instance_id for item in items if item.category == name)
        yield _Asked(query=Query(thing_classes=(str(name),)), wanted=wanted)
    for name in rng.permutation(unseen)[:3]:
        yield _Asked(query=Query(thing_classes=(str(name),)), wanted=())
        yield _Asked(query=Query(text=f"the {name}"), wanted=())
    plain = [e for e in referring_expressions(items, width_px) if e.kind in PLAIN_KINDS]
    for index in rng.permutation(len(plain))[:5]:
        yield _Asked(query=Query(text=plain[index].text), wanted=plain[index].instance_ids)
    compared = [e for e in referring_expressions(items, width_px) if e.kind in RELATION_KINDS]
    for index in rng.permutation(len(compared))[:3]:
        expression = compared[index]
        yield _Asked(query=Query(text=expression.text), wanted=expression.instance_ids, is_comparison=True)
    questions = reasoning_questions(items)
    for index in rng.permutation(len(questions))[:2]:
        question = questions[index]
        yield _Asked(query=Query(text=question.text, task=Task.REASONING), wanted=question.instance_ids)
    for expression in absent_expressions(items, rng, count_per_kind=2):
        if expression.kind == "absent_reasoning":
            yield _Asked(query=Query(text=expression.text, task=Task.REASONING), wanted=())
        elif expression.kind != "absent_category":
            yield _Asked(query=Query(text=expression.text), wanted=())
    # What is wanted of these depends on the label.
    yield _Asked(query=Query(task=Task.GROUNDED_CONVERSATION), wanted=())
    yield _Asked(query=Query(thing_classes=CATEGORIES), wanted=())
    yield _Asked(query=Query(thing_classes=CATEGORIES, stuff_classes=STUFF_NAMES[1:]), wanted=())


def _marked_questions(
    items: Sequence[ObjectAnnotation], view: RenderedView, rng: np.random.Generator
) -> Iterator[_Asked]:
    """Mark objects with a point and with a box, and ask for them and for all that look like them."""
    labeled = [item for item in items if item.labeled]
    for index in rng.permutation(len(labeled))[:3]:
        item = labeled[index]
        same = tuple(other.instance_id for other in items if other.category == item.category)
        for kind in (PromptKind.POINT, PromptKind.BOX):
            mark = draw_region_prompt(kind, view.instance_ids == item.instance_id, rng)
            yield _Asked(query=Query(task=Task.INTERACTIVE, prompts=(mark,)), wanted=(item.instance_id,))
            yield _Asked(query=Query(task=Task.VISUAL_GROUNDED, prompts=(mark,)), wanted=same)


def calibrate_evidence(scenes: Sequence[SceneEvidence]) -> Calibration:
    """Fit the weights of every kind; choose the chance from which to believe and who decides on places."""
    samples = [sample for scene in scenes for sample in scene.samples]
    weights: dict[Kind, EvidenceWeights] = {}
    for kind in KINDS:
        chosen = [sample for sample in samples if sample.evidence.kind == kind]
        if len(chosen) >= MIN_SAMPLES:
            weights[kind] = _fit(chosen)
    # Marks are nearly always right: with them, less likely answers to words would be believed.
    known = [s for s in samples if s.evidence.kind in weights and s.evidence.kind != "mark"]
    chances = [chance_of(s.evidence, weights[s.evidence.kind]) for s in known]
    right = [sample.right for sample in known]
    return Calibration(
        known_categories=CATEGORIES,
        sure_from=choose_sure_from(chances, right),
        corrects_places=sum(sum(s.corrected_places) - sum(s.own_places) for s in scenes) > 0,
        completes=tuple(kind for kind in COMPLETED_KINDS if _gains(kind, scenes)),
        weights=weights,
    )


def _gains(kind: Kind, scenes: Sequence[SceneEvidence]) -> bool:
    """Return whether the segments that a census adds to answers are more often right than wrong."""
    own = [right for scene in scenes for right in scene.own_answers[kind]]
    complete = [right for scene in scenes for right in scene.completed_answers[kind]]
    return 2 * sum(complete) - len(complete) > 2 * sum(own) - len(own)


def choose_sure_from(
    chances: Sequence[float], right: Sequence[bool], *, target: float = TARGET_PRECISION
) -> float:
    """Return the lowest chance, with two decimals, from which a share of `target` is right; at most 0.99."""
    values, truth = np.asarray(chances), np.asarray(right)
    for hundredth in range(100):
        believed = values >= hundredth / 100
        if believed.any() and truth[believed].mean() >= target:
            return hundredth / 100
    return 0.99


def _fit(samples: Sequence[Sample]) -> EvidenceWeights:
    """Fit a logistic regression with a small ridge penalty by Newton's method."""
    rows = [(1.0, *evidence_row({name: getattr(s.evidence, name) for name in EVIDENCE})) for s in samples]
    x: NDArray[np.float64] = np.array(rows)
    y = np.array([sample.right for sample in samples], np.float64)
    ridge = _RIDGE * np.diag([0.0, *([1.0] * len(EVIDENCE))])
    w = np.zeros(x.shape[1])
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-(x @ w)))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + ridge + 1e-6 * np.eye(len(w))
        w -= np.linalg.solve(hessian, x.T @ (p - y) + ridge @ w)
    bias, *values = (round(float(value), 3) for value in w)
    return EvidenceWeights(bias=bias, **dict(zip(EVIDENCE, values, strict=True)))
