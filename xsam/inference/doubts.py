"""What speaks against a segment: an unknown word, a label that fits better, a low chance, a wrong place.

The mask of a query with marks on the image must obey them.

A segment is compared with what the census of the frame says of the same pixels:

* `named`: the score of the category that was asked for ("the red mug" → mug);
* `rival`: the best score of any other category;

and with what the network itself says for it (`MaskSupport`):

* `firmness`: how little the outline depends on the threshold of the mask;
* `runner_up`: the best score of another mask for the same words;

and with the rest of the answer:

* `alone`: one divided by the number of segments;
* `kin`: the share of the objects of its category that are in the answer: "what can I drink from?" means all
  of the mugs or none.

`Calibration.chance` turns these and the segment's own score into the chance that it is right. Phrases that
compare objects are checked against the outlines of the census (`xsam.spatial.phrases`). Without a
calibration only words, places, and labels of the same request can speak against a segment.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from xsam.config.calibration import EVIDENCE, Calibration, EvidenceWeights, Kind
from xsam.inference.census import MIN_CANDIDATE_SCORE, Census, best_label, named_category
from xsam.inference.descriptions import with_shown_phrases, worth_saying
from xsam.inference.kinds import CATEGORY_TASKS, kind_of
from xsam.inference.look_alikes import marked_categories
from xsam.inference.mask_support import NO_SUPPORT, MaskSupport
from xsam.inference.places import misplaced
from xsam.spatial.marks import disobedience, obeys_mark
from xsam.spatial.phrases import parse_spatial_phrase
from xsam.types.masks import MaskRle
from xsam.types.nouns import with_article
from xsam.types.requests import Frame, Query, SegmentationResult, Segments, Status, Task

SAME_OBJECT = 0.8  # IoU from which the segments of two queries show the same object
MIN_CHANCE = 0.25  # beside segments that are believed, less likely ones are left out
_TEXT_TASKS = (Task.REFERRING, Task.REASONING, Task.GROUNDED_CONVERSATION)
_MARK_TASKS = (Task.VISUAL_GROUNDED, Task.INTERACTIVE)
CHECKED_TASKS = (*CATEGORY_TASKS, *_TEXT_TASKS, Task.VISUAL_GROUNDED)
"""Tasks whose segments are compared with the census: those with words, and those that mean a kind."""

_WORD = re.compile(r"[^\W\d_]+")
# Calibrated checkpoints are small ones: they find "the mug that is not red" on the red mug.
_NEGATION = re.compile(
    r"\b(?:not|no|non|without|except|excluding|neither|nor|never|nothing|none|other than)\b|\b\w+n['’]t\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known about one segment."""

    kind: Kind
    score: float
    named: float  # 0 when no known category was named
    rival: float
    rival_label: str
    firmness: float = 1.0
    runner_up: float = 0.0
    alone: float = 1.0
    kin: float = 0.5


def evidence_of(
    result: SegmentationResult,
    task: Task,
    census: Census,
    support: MaskSupport = NO_SUPPORT,
    *,
    marks_here: bool = True,
) -> list[Evidence]:
    """Return the evidence about each segment of a result; the marks of a query may be on an earlier frame."""
    segments, found = result.segments, []
    marked = marked_categories(result, census, marks_here) if task is Task.VISUAL_GROUNDED else {}
    # Other tasks take no census, and must not depend on one that is cached.
    labels = [census.on(mask) if task in CHECKED_TASKS else {} for mask in segments.masks]
    columns = zip(
        segments.labels,
        segments.scores.tolist(),
        labels,
        support.firmness or (1.0,) * len(segments),
        support.runners_up or (0.0,) * len(segments),
        census.kin([best_label(here) for here in labels], segments.masks),
        strict=True,
    )
    for label, score, here, firmness, runner_up, kin in columns:
        if task is Task.VISUAL_GROUNDED:
            name = marked.get(label)
        else:
            name = None if task is Task.REASONING else named_category(label, census.names)
        rivals = {other: value for other, value in here.items() if other != name}
        rival_label = best_label(rivals)
        found.append(
            Evidence(
                kind=kind_of(result.query, task, is_named=name is not None),
                score=score,
                named=here.get(name, 0.0) if name is not None else 0.0,
                rival=rivals.get(rival_label, 0.0),
                rival_label=rival_label,
                firmness=firmness,
                runner_up=runner_up,
                alone=1 / len(segments),
                kin=kin,
            )
        )
    return found


def with_doubts(
    result: SegmentationResult,
    task: Task,
    frame: Frame,
    *,
    census: Census,
    calibration: Calibration | None,
    unknown: Mapping[str, Sequence[str]],
    support: MaskSupport = NO_SUPPORT,
    marks_here: bool = True,
    decided_from: float = 0.0,
) -> SegmentationResult:
    """Return the result with what speaks against each segment, and UNSURE instead of FOUND if anything does.

    Beside segments that are believed, those that are hardly ever right are left out, unless the
    query sets its own threshold: then all are wanted. A description loses the phrases that it cannot show
    (`xsam.inference.descriptions`).

    Args:
        result: of one query.
        task: its task.
        frame: the source image, whose depth decides what is near.
        census: of the frame.
        calibration: of the checkpoint.
        unknown: label → its words that the model does not know.
        support: what the network says for the masks of the result.
        marks_here: the marks of the query are on this frame, not on an earlier one.
        decided_from: the score below which the category of an object is undecided
            (`xsam.inference.undecided`).
    """
    if result.status is not Status.FOUND or task not in (*CHECKED_TASKS, *_MARK_TASKS) or not len(result):
        return result
    segments = result.segments
    checkable = task is Task.REFERRING and bool(census.names)
    phrase = parse_spatial_phrase(result.query.text) if checkable else None
    doubts, chances, known_chances = [], [], []
    found = evidence_of(result, task, census, support, marks_here=marks_here)
    for index, evidence in enumerate(found):
        if phrase is not None:
            evidence = _of_its_kind(evidence)
        chance = _chance(evidence, calibration)
        chances.append(chance)
        label = segments.labels[index]
        known_chances.append(math.nan if _weights(evidence, calibration) is None else chance)
        if words := unknown.get(label, ()):
            known_chances[-1] = 0.0
            doubts.append(f"the model does not know {', '.join(map(repr, words))}")
        elif calibration is not None and (negation := _NEGATION.search(_asked(result.query, task, label))):
            known_chances[-1] = 0.0
            doubts.append(f"the model does not understand {negation[0]!r}: check what it must not be")
        elif calibration is not None and (chance < calibration.sure_from or evidence.score < decided_from):
            doubts.append(_in_words(evidence, chance))
        elif phrase is not None:
            doubts.append(misplaced(phrase, segments.masks[index], census, frame))
        else:
            doubts.append("")
    keep = np.ones(len(segments), np.bool_)
    if task in CATEGORY_TASKS and not result.query.stuff_classes and result.query.score_threshold is None:
        keep = _worth_showing(segments, doubts, chances)
    elif task is Task.VISUAL_GROUNDED and result.query.score_threshold is None:
        keep = ~_unlikely(segments, doubts, chances)
    tidies = (
        task is Task.GROUNDED_CONVERSATION
        and calibration is not None
        and "description" in calibration.weights
    )
    if tidies and result.query.score_threshold is None:
        keep = worth_saying(segments, chances)
    measured = np.array(known_chances, np.float32)
    result = replace(result, segments=replace(segments, doubts=tuple(doubts), chances=measured)[keep])
    return doubted(with_shown_phrases(result) if tidies else result)


def _asked(query: Query, task: Task, label: str) -> str:
    """Return the words that a segment answers: not those of a description, which are the model's own."""
    return "" if task in (Task.GROUNDED_CONVERSATION, *_MARK_TASKS) else query.text or label


def with_mark_doubts(result: SegmentationResult, task: Task) -> SegmentationResult:
    """Return the result with a doubt for each segment that does not obey the marks of its query.

    It comes before other doubts. The segments that look like a marked region are doubted together when none
    of them is at the mark.
    """
    if result.status not in (Status.FOUND, Status.UNSURE) or not len(result):
        return result
    segments, marks = result.segments, result.query.prompts
    if task is Task.INTERACTIVE:
        doubts = [disobedience(mask.decode(), marks) for mask in segments.masks]
    elif task is Task.VISUAL_GROUNDED:
        doubts = [""] * len(segments)
        positive = [mark for mark in marks if mark.positive]
        for label_index, mark in enumerate(positive):
            own = np.flatnonzero(segments.label_indices == label_index)
            union = np.zeros(segments.image_hw, np.bool_)
            for index in own:
                union |= segments.masks[index].decode()
            if len(own) and not obeys_mark(union, mark):
                for index in own:
                    doubts[index] = f"nothing was found at the {mark.kind.value} itself"
    else:
        return result
    doubts = [own or earlier for own, earlier in zip(doubts, segments.doubts, strict=True)]
    return doubted(replace(result, segments=replace(segments, doubts=tuple(doubts))))


def doubted(result: SegmentationResult) -> SegmentationResult:
    """Return the result with the status that its segments' doubts call for."""
    found = result.status in (Status.FOUND, Status.UNSURE)
    return result.with_doubts(result.segments.doubts) if found else result


def compete(results: Sequence[SegmentationResult]) -> list[SegmentationResult]:
    """Doubt segments on which a category of another query of the same request has a clearly better score.

    This needs no list of known categories. A category whose name contains the other's ("mug", "red mug") is
    no rival.
    """
    rivals = [
        (label, score, mask)
        for result in results
        if result.query.resolved_task() in CATEGORY_TASKS
        for label, score, mask in zip(
            result.segments.labels, result.segments.scores.tolist(), result.segments.masks, strict=True
        )
    ]
    if len({label for label, _, _ in rivals}) < 2:
        return list(results)
    masks = [mask for _, _, mask in rivals]
    competed = []
    for result in results:
        segments = result.segments
        if result.query.resolved_task() not in CATEGORY_TASKS or not len(segments):
            competed.append(result)
            continue
        overlaps = MaskRle.iou_matrix(segments.masks, masks)
        doubts = list(segments.doubts)
        for index, (own, score) in enumerate(zip(segments.labels, segments.scores.tolist(), strict=True)):
            better = [
                (other_score, label)
                for k, (label, other_score, _) in enumerate(rivals)
                if overlaps[index, k] > SAME_OBJECT and other_score > score and not _same_name(own, label)
            ]
            if better and not doubts[index]:
                other_score, label = max(better)
                doubts[index] = _looks_like(label, other_score)
        competed.append(doubted(replace(result, segments=replace(segments, doubts=tuple(doubts)))))
    return competed


def _same_name(one: str, two: str) -> bool:
    first, second = (set(_WORD.findall(label.lower())) for label in (one, two))
    return first <= second or second <= first


def _weights(evidence: Evidence, calibration: Calibration | None) -> EvidenceWeights | None:
    return calibration.weights.get(evidence.kind) if calibration is not None else None


def _chance(evidence: Evidence, calibration: Calibration | None) -> float:
    weights = _weights(evidence, calibration)
    return 1.0 if weights is None else chance_of(evidence, weights)


def chance_of(evidence: Evidence, weights: EvidenceWeights) -> float:
    """Return the probability that a segment is right."""
    return weights.chance({name: getattr(evidence, name) for name in EVIDENCE})


def _of_its_kind(evidence: Evidence) -> Evidence:
    """Return the evidence that a segment is of the kind that a phrase about places compares.

    The model is bad at places, so its score for the whole phrase says little: the place is checked by itself.
    """
    evidence = replace(evidence, kin=0.5)  # one of its kind is meant
    if evidence.kind == "object":  # "the leftmost object": of whatever kind
        return replace(evidence, score=1.0)
    return replace(evidence, kind="category", score=max(evidence.score, evidence.named))


def _in_words(evidence: Evidence, chance: float) -> str:
    if evidence.kind not in ("question", "object", "mark") and evidence.rival > max(
        evidence.named, MIN_CANDIDATE_SCORE
    ):
        return _looks_like(evidence.rival_label, evidence.rival)
    if evidence.kind == "categories" and evidence.rival >= MIN_CANDIDATE_SCORE:
        return f"may also be {with_article(evidence.rival_label)}, {evidence.rival:.2f}"
    return f"weak: about {round(10 * chance)} of 10 such answers are right"


def _looks_like(label: str, score: float) -> str:
    return f"looks more like {with_article(label)}, {score:.2f}"


def _worth_showing(segments: Segments, doubts: Sequence[str], chances: Sequence[float]) -> NDArray[np.bool_]:
    """Return which segments to show (N,): one label for the same pixels, none unlikely beside a sure one."""
    keep = ~_unlikely(segments, doubts, chances)
    for index in range(len(segments)):
        better = [
            segments.masks[k]
            for k in range(len(segments))
            if keep[k] and k != index and (chances[k], -k) > (chances[index], -index)
        ]
        if (MaskRle.iou_matrix([segments.masks[index]], better) > SAME_OBJECT).any():
            keep[index] = False
    return keep


def _unlikely(segments: Segments, doubts: Sequence[str], chances: Sequence[float]) -> NDArray[np.bool_]:
    """Return which segments (N,) are hardly ever right, beside a sure one of the same label."""
    sure = {label for label, doubt in zip(segments.labels, doubts, strict=True) if not doubt}
    columns = zip(segments.labels, doubts, chances, strict=True)
    return np.array(
        [bool(doubt) and chance < MIN_CHANCE and label in sure for label, doubt, chance in columns], np.bool_
    )
