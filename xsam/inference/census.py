"""The census of a frame: which of the categories that a checkpoint knows are where.

It is the answer to one more prompt on the frame, computed once per frame with the first request that has
words. It adds about a tenth to the tiny model's time for a new frame on a CPU. Other answers are checked
against it (`xsam.inference.doubts`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from xsam.config.calibration import Calibration
from xsam.inference.mask_support import NO_SUPPORT, MaskSupport
from xsam.spatial.phrases import parse_spatial_phrase
from xsam.types.masks import MaskRle
from xsam.types.requests import MAX_CATEGORIES, Query, SegmentationResult, Segments, Task

SAME_PIXELS = 0.5  # IoU from which a mask of the census shows what a segment shows
MIN_CENSUS_SCORE = 0.05
MIN_CANDIDATE_SCORE = 0.25  # of an object that a phrase such as "the leftmost mug" compares

_ANY_OBJECT = frozenset(("object", "objects", "thing", "things", "item", "items"))
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """Where the known categories are on one frame.

    Attributes:
        names: the categories that were looked for.
        labels, scores, masks: what was found, (N,); one object may have several labels.
        support: what the network says for the masks.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    masks: tuple[MaskRle, ...] = ()
    support: MaskSupport = NO_SUPPORT

    def on(self, mask: MaskRle) -> dict[str, float]:
        """Return the labels on a mask, each with its score weighted by the overlap."""
        found: dict[str, float] = {}
        if self.masks:
            overlaps = MaskRle.iou_matrix([mask], self.masks)[0]
            for label, score, overlap in zip(self.labels, self.scores, overlaps.tolist(), strict=True):
                if overlap > SAME_PIXELS:
                    found[label] = max(found.get(label, 0.0), score * overlap)
        return found

    def kin(self, names: Sequence[str], masks: Sequence[MaskRle]) -> tuple[float, ...]:
        """Return for each mask of an answer the share of the objects of its category that the answer shows.

        Args:
            names: the best label on each mask (`best_label`), "" for none.
            masks: of the answer.

        Returns:
            0.5 for a mask without a label, or with the only object of its category.
        """
        shares = {"": 0.5}
        for name in dict.fromkeys(filter(None, names)):
            own = self.objects(name)
            shares[name] = 0.5
            if len(own) > 1:
                shown = MaskRle.iou_matrix([self.masks[index] for index in own], masks) > SAME_PIXELS
                shares[name] = float(shown.any(axis=1).mean())
        return tuple(shares[name] for name in names)

    def objects(self, noun: str, *, least: float = MIN_CANDIDATE_SCORE) -> tuple[int, ...]:
        """Return the indices of the objects that a noun names, each once; of all objects for "object".

        Args:
            noun: a category, possibly with attributes, or "object".
            least: score from which an object counts.
        """
        anything = noun in _ANY_OBJECT
        name = noun if anything else named_category(noun, self.names)
        order = sorted(range(len(self.masks)), key=lambda index: -self.scores[index])
        taken: list[int] = []
        for index in order:
            fits = anything or self.labels[index] == name
            if not fits or self.scores[index] < least:
                continue
            others = [self.masks[k] for k in taken]
            if not (MaskRle.iou_matrix([self.masks[index]], others) > SAME_PIXELS).any():
                taken.append(index)
        return tuple(taken)

    def segments(self, indices: Sequence[int], image_hw: tuple[int, int]) -> Segments:
        """Return objects as segments, with their labels, each the only one of its label."""
        masks = tuple(self.masks[index] for index in indices)
        return Segments(
            image_hw=image_hw,
            masks=masks,
            labels=tuple(self.labels[index] for index in indices),
            label_indices=np.arange(len(masks), dtype=np.int32),
            scores=np.array([self.scores[index] for index in indices], np.float32),
            boxes_xyxy=np.array([mask.crop().box_xyxy for mask in masks], np.float32).reshape(-1, 4),
        )


NO_CENSUS = Census(names=())


def best_label(found: Mapping[str, float], default: str = "") -> str:
    """Return the label with the best score on a mask, see `Census.on`; `default` if there is none."""
    return max(found, key=lambda label: found[label], default=default)


def census_names(queries: Sequence[Query], calibration: Calibration | None) -> tuple[str, ...]:
    """Return the categories that a census must look for to check these queries; empty if it cannot help."""
    names = dict.fromkeys(calibration.known_categories if calibration is not None else ())
    for query in queries:
        phrase = parse_spatial_phrase(query.text)
        for noun in (phrase.noun, *phrase.anchors) if phrase is not None else ():
            if noun not in _ANY_OBJECT and named_category(noun, tuple(names)) is None:
                names[noun] = None
    return tuple(names)


def named_category(text: str, names: Sequence[str]) -> str | None:
    """Return the known category that a text names first: "the red mug left of the vase" → "mug"."""
    words = _WORD.findall(text.lower())
    best: tuple[int, int, str] | None = None
    for name in names:
        parts = _WORD.findall(name.lower())
        for start in range(len(words) - len(parts) + 1):
            if parts and _same_words(words[start : start + len(parts)], parts):
                candidate = (start, -len(parts), name)
                best = min(best, candidate) if best is not None else candidate
                break
    return best[2] if best is not None else None


def _same_words(words: Sequence[str], parts: Sequence[str]) -> bool:
    """Compare words; the last one may be a plural."""
    *front, last = parts
    plurals = (last, last + "s", last + "es", last.removesuffix("fe") + "ves")
    return list(words[:-1]) == front and words[-1] in plurals


def census_query(names: Sequence[str]) -> Query:
    """Return the query whose result is a census."""
    return Query(
        task=Task.OPEN_VOCABULARY,
        thing_classes=tuple(names[:MAX_CATEGORIES]),
        score_threshold=MIN_CENSUS_SCORE,
    )


def census_of(result: SegmentationResult, support: MaskSupport = NO_SUPPORT) -> Census:
    """Return the census that the result of a `census_query` holds; empty if the query failed."""
    segments = result.segments
    return Census(
        names=result.query.thing_classes,
        labels=segments.labels,
        scores=tuple(segments.scores.tolist()),
        masks=segments.masks,
        support=support,
    )
