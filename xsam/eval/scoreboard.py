"""Accumulate results of any task and compute their scores.

Every question names the group it counts in; the metrics follow from the type of its truth:

=============  ==================================================================================
RegionTruth    `<group>_miou`, `_ciou`, `_giou`, `_p50`, `iou_<kind>`; group "grefcoco" also `_n_acc`
               and `_t_acc`; group "interactive" only `interactive_<kind>_iou` and `_ciou`, or
               `interactive_iou` and `_ciou` for questions without a kind
InstanceTruth  `<group>_ap`, `_ap50`, `_ap75`
PanopticTruth  `<group>_pq`, `_sq`, `_rq`, `_pq_things`, `_pq_stuff`
SemanticTruth  `<group>_miou`
CaptionTruth   `<group>_miou`, `_truth_miou`, `_precision`, `_recall`, `_mention_precision`,
               `_mention_recall`, `_ap50`, `_caption_f1`, `_cider`
PresenceTruth  `presence_auc`, `absent_rejected_at_01`, `_05`, `_10` (share of false alarms)
CountTruth     `count_exact`, `count_mae`
=============  ==================================================================================

Phrases of the groups with a RegionTruth also give `presence_mcc` (found against unsure and not found), those
of the group "near_miss" only `near_miss_believed` and `<kind>_believed`: the share answered "found".

A result "not found" counts as an empty prediction. A refused or failed result enters no score and is counted
in `failed`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.eval.average_precision import MaskAP
from xsam.eval.grounded_captions import GroundedCaptionScorer, GroundedPhrase
from xsam.eval.overlap import RegionOverlap
from xsam.eval.panoptic_quality import PanopticQuality, SemanticOverlap
from xsam.eval.presence import PresenceScorer
from xsam.eval.questions import (
    CaptionTruth,
    CountTruth,
    InstanceTruth,
    PanopticTruth,
    PresenceTruth,
    Question,
    RegionTruth,
    SemanticTruth,
)
from xsam.types.masks import MaskRle, mask_iou
from xsam.types.requests import SegmentationResult, Segments, Status

Scores = dict[str, Any]
"""Scores of an evaluation, as strict JSON; None where nothing was measured."""

INTERACTIVE = "interactive"
GENERALIZED = "grefcoco"  # phrases for no, one, or several objects
NEAR_MISS = "near_miss"  # phrases that nothing fits, but almost
_MAX_REASONS = 20


class Scoreboard:
    """Accumulated scores of results of any task."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self._regions: dict[str, RegionOverlap] = defaultdict(RegionOverlap)
        self._kinds: dict[str, RegionOverlap] = defaultdict(RegionOverlap)
        self._rejected: dict[tuple[str, bool], list[bool]] = defaultdict(list)  # by group and absence
        self._ap: dict[str, MaskAP] = defaultdict(MaskAP)
        self._panoptic: dict[str, PanopticQuality] = {}
        self._semantic: dict[str, SemanticOverlap] = {}
        self._captions: dict[str, GroundedCaptionScorer] = defaultdict(GroundedCaptionScorer)
        self._presence = PresenceScorer()

    def add(self, question: Question, result: SegmentationResult) -> float | None:
        """Add one result.

        Returns:
            The IoU of this result alone: of the region, of the instances (see `_merged_iou`), of a caption's
            phrases, or the mean over the classes of a whole image. None for refused and failed results.
        """
        is_absent = question.absent and question.group != NEAR_MISS
        self.counts["absent" if is_absent else question.group] += 1
        if result.status in (Status.REFUSED, Status.FAILED):
            self._count_failure(question, result)
            return None
        truth = question.truth
        if isinstance(truth, PresenceTruth):
            score = float(result.segments.scores.max(initial=0.0))
            self._presence.add_score(score, present=truth.present)
            return None
        if isinstance(truth, CountTruth):
            found = Counter(result.segments.label_indices.tolist())
            for label, count in enumerate(truth.counts):
                self._presence.add_count(found[label], count)
            return None
        if isinstance(truth, RegionTruth):
            return self._add_region(question, truth, result)
        if isinstance(truth, InstanceTruth):
            return self._add_instances(question, truth, result)
        if isinstance(truth, CaptionTruth):
            return self._add_caption(question, truth, result)
        if isinstance(truth, PanopticTruth):
            return self._add_panoptic(question, truth, result)
        return self._add_semantic(question, truth, result)

    def mean_iou(self, kinds: Iterable[str]) -> float | None:
        """Compute the mean IoU of region questions of these kinds with a non-empty truth, or None."""
        together = RegionOverlap()
        for kind in kinds:
            if (part := self._kinds.get(kind)) is not None:
                together.intersections += part.intersections
                together.unions += part.unions
                together.has_truth += part.has_truth
        return together.mean_iou

    def scores(self) -> Scores:
        """Compute all scores, and the number of questions and failures."""
        found: dict[str, float | None] = {}
        for group, regions in self._regions.items():
            found |= {
                f"{group}_miou": regions.mean_iou,
                f"{group}_ciou": regions.ciou,
                f"{group}_giou": regions.giou,
                f"{group}_p50": regions.precision(0.5),
            }
        if GENERALIZED in self._regions:
            missed = _share(self._rejected[GENERALIZED, False])
            found[f"{GENERALIZED}_n_acc"] = _share(self._rejected[GENERALIZED, True])
            found[f"{GENERALIZED}_t_acc"] = None if missed is None else 1 - missed
        for kind, regions in self._kinds.items():
            if kind == INTERACTIVE or kind.startswith(f"{INTERACTIVE}_"):
                found |= {f"{kind}_iou": regions.mean_iou, f"{kind}_ciou": regions.ciou}
            elif regions.mean_iou is not None:
                found[f"iou_{kind}"] = regions.mean_iou
        for group, instances in self._ap.items():
            found |= {f"{group}_{name}": value for name, value in asdict(instances.scores()).items()}
        for group, panoptic in self._panoptic.items():
            quality = panoptic.scores()
            for name in ("pq", "sq", "rq", "pq_things", "pq_stuff"):
                found[f"{group}_{name}"] = getattr(quality, name)
        found |= {f"{group}_miou": semantic.mean_iou for group, semantic in self._semantic.items()}
        for group, captions in self._captions.items():
            found |= {f"{group}_{name}": value for name, value in asdict(captions.scores()).items()}
        found |= self._presence.results()
        if self._regions:
            for name, is_absent in (("absent_rejected", True), ("present_rejected", False)):
                flags = (f for (_, absent), f in self._rejected.items() if absent is is_absent)
                found[name] = _share(list(chain.from_iterable(flags)))
        return {
            **{name: None if value is None else round(value, 4) for name, value in found.items()},
            "counts": dict(sorted(self.counts.items())),
            "questions": self.counts.total(),
            "failed": self.failures.total(),
            "failures": dict(self.failures),
        }

    def _count_failure(self, question: Question, result: SegmentationResult) -> None:
        reason = f"{question.group}: {result.code}: {result.message}"
        if reason not in self.failures and len(self.failures) >= _MAX_REASONS:
            reason = "other reasons"
        self.failures[reason] += 1

    def _add_region(self, question: Question, truth: RegionTruth, result: SegmentationResult) -> float:
        found = result.masks.any(axis=0) if len(result) else np.zeros_like(truth.mask)
        rejected = not len(result) or int(np.count_nonzero(found)) < truth.least_px
        if rejected:
            found = np.zeros_like(truth.mask)
        if question.group == INTERACTIVE:
            name = f"{INTERACTIVE}_{question.kind}" if question.kind else INTERACTIVE
            return self._kinds[name].add(found, truth.mask, truth.ignored)
        near_miss = question.kind if question.group == NEAR_MISS else ""
        if question.group != GENERALIZED:
            believed = result.status is Status.FOUND and not rejected
            self._presence.add_answer(believed, present=not question.absent, near_miss=near_miss)
        if near_miss:
            return float(rejected)
        self._rejected[question.group, question.absent].append(rejected)
        if question.kind:
            self._kinds[question.kind].add(found, truth.mask, truth.ignored)
        return self._regions[question.group].add(found, truth.mask, truth.ignored)

    def _add_instances(self, question: Question, truth: InstanceTruth, result: SegmentationResult) -> float:
        segments = result.segments
        found: list[list[tuple[MaskRle, float]]] = [[] for _ in truth.classes]
        for label, mask, score in zip(
            segments.label_indices.tolist(), segments.masks, segments.scores, strict=True
        ):
            found[label].append((mask, float(score)))
        for labels in _without_repeats(truth.classes):
            self._ap[question.group].add(
                truth=[(truth.classes[i], MaskRle.encode(m)) for i in labels for m in truth.masks[i]],
                crowd=[
                    (truth.classes[i], MaskRle.encode(m))
                    for i in labels
                    for m in (truth.crowd[i] if truth.crowd else ())
                ],
                found=[(truth.classes[i], mask, score) for i in labels for mask, score in found[i]],
            )
        return _merged_iou(truth, segments)

    def _add_caption(self, question: Question, truth: CaptionTruth, result: SegmentationResult) -> float:
        segments = result.segments
        phrases = []
        for index in sorted(set(segments.label_indices.tolist())):
            of_phrase = segments[segments.label_indices == index]
            union = MaskRle.encode(of_phrase.decode_masks().any(axis=0))
            text = result.phrases[index]
            score = float(of_phrase.scores.max()) if truth.ranked else 1.0
            phrases.append(GroundedPhrase(text=text, mask=union, score=score))
        return self._captions[question.group].add(
            caption=result.text,
            phrases=phrases,
            ungrounded=[
                text
                for index, text in enumerate(result.phrases)
                if index not in segments.label_indices.tolist()
            ],
            true_caption=truth.text,
            true_phrases=[
                GroundedPhrase(text=text, mask=MaskRle.encode(mask))
                for text, mask in zip(truth.phrases, truth.masks, strict=True)
            ],
        )

    def _add_panoptic(self, question: Question, truth: PanopticTruth, result: SegmentationResult) -> float:
        query = question.query
        names = query.thing_classes + query.stuff_classes
        if question.group not in self._panoptic:
            self._panoptic[question.group] = PanopticQuality(names, len(query.thing_classes))
        quality = self._panoptic[question.group]
        if quality.class_names != names or quality.thing_count != len(query.thing_classes):
            raise ValueError(f"all {question.group} questions must ask for the same classes")
        classes = {i + 1: label for i, label in enumerate(result.segments.label_indices.tolist())}
        quality.add(truth.segment_ids, truth.classes, result.segments.label_map(), classes, crowd=truth.crowd)
        known, inverse = np.unique(truth.segment_ids, return_inverse=True)
        class_of = np.array([truth.classes[segment] if segment else -1 for segment in known.tolist()])
        class_map = class_of[inverse].reshape(truth.segment_ids.shape)
        return _class_iou(names, class_map, _found_classes(result))

    def _add_semantic(self, question: Question, truth: SemanticTruth, result: SegmentationResult) -> float:
        names = question.query.thing_classes + question.query.stuff_classes
        overlap = self._semantic.setdefault(question.group, SemanticOverlap(names))
        if overlap.class_names != names:
            raise ValueError(f"all {question.group} questions must ask for the same classes")
        found = _found_classes(result)
        overlap.add(truth.class_map, found)
        return _class_iou(names, truth.class_map, found)


def _found_classes(result: SegmentationResult) -> NDArray[np.int64]:
    """Return the (H, W) label index of each pixel, −1 = no segment."""
    segments = result.segments
    classes = np.append(segments.label_indices, -1).astype(np.int64)  # index −1, the last one: no segment
    found: NDArray[np.int64] = classes[segments.label_map().astype(np.int64) - 1]
    return found


def _class_iou(names: tuple[str, ...], truth: NDArray[np.integer], found: NDArray[np.integer]) -> float:
    """Compute the mean IoU of the classes in one image; 1 if nothing in it is labeled."""
    overlap = SemanticOverlap(names)
    overlap.add(truth, found)
    return 1.0 if overlap.mean_iou is None else overlap.mean_iou


def confident(segments: Segments) -> Segments:
    """Select the segments whose score is at least half the best score."""
    return segments[segments.scores >= 0.5 * segments.scores.max(initial=0.0)]


def _merged_iou(truth: InstanceTruth, segments: Segments) -> float:
    """Average, over the labels in truth or confident segments, the IoU of the unions of their masks."""
    kept = confident(segments)
    ious = []
    for label, masks in enumerate(truth.masks):
        found = kept[kept.label_indices == label]
        if masks or len(found):
            union = np.logical_or.reduce(masks) if masks else np.zeros(kept.image_hw, np.bool_)
            ious.append(mask_iou(union, found.decode_masks().any(axis=0)))
    return float(np.mean(ious)) if ious else 1.0


def _without_repeats(names: tuple[str, ...]) -> list[list[int]]:
    """Split the indices of the names into lists in which no name occurs twice."""
    lists: list[list[int]] = []
    for index, name in enumerate(names):
        for used in lists:
            if all(names[other] != name for other in used):
                used.append(index)
                break
        else:
            lists.append([index])
    return lists


def _share(flags: list[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None
