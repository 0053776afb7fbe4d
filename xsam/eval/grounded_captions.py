"""Grounded conversation: do the masks fit, are the phrases grounded, does the caption agree.

Conventions of GranD-f, the data set's evaluation (Rasheed et al., arXiv 2311.03356):

* mIoU: in each picture, masks of the answer and of the truth are paired one to one, the best IoU first, as
  long as they overlap; the mean over the *pairs* of a picture, 0 without any; the mean over pictures. Missed
  and invented masks cost nothing here: read it together with the next ones.
* Truth mIoU: the same pairs, but the mean over all phrases of the truth, 0 for a missed one; not in GranD-f.
* AP50: mask AP at IoU 0.5 without categories.
* recall: share of the truth's phrases that have a pair with IoU ≥ 0.5 *and* alike words. There, words are
  compared by BERT embeddings (cosine ≥ 0.5); here by `captions.content_f1` (≥ 0.5), which needs no model, so
  recall is not comparable with published numbers.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xsam.eval.average_precision import MaskAP
from xsam.eval.captions import cider_d, content_f1
from xsam.types.masks import MaskRle

MATCH_IOU = 0.5
MATCH_WORDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundedPhrase:
    """A phrase of a caption with the mask it means."""

    text: str
    mask: MaskRle
    score: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundedScores:
    """All but `cider` in [0, 1]; None when there is nothing to average."""

    miou: float | None
    truth_miou: float | None
    recall: float | None
    ap50: float | None
    caption_f1: float | None
    cider: float | None  # from 0 to 10; None for fewer than two pictures


class GroundedCaptions:
    """Collects captions with grounded phrases of many pictures."""

    def __init__(self) -> None:
        self._mious: list[float] = []
        self._paired_iou = 0.0
        self._matched = 0
        self._phrases = 0
        self._ap = MaskAP()
        self._captions: list[tuple[str, str]] = []

    def add(
        self,
        *,
        caption: str,
        phrases: Sequence[GroundedPhrase],
        true_caption: str,
        true_phrases: Sequence[GroundedPhrase],
    ) -> float:
        """Count one picture and return its mIoU; the captions without tags."""
        ious = np.array([[p.mask.iou(t.mask) for t in true_phrases] for p in phrases], np.float64)
        ious = ious.reshape(len(phrases), len(true_phrases))
        alike = np.array([[content_f1(p.text, t.text) for t in true_phrases] for p in phrases], np.float64)
        alike = alike.reshape(ious.shape)
        pairs = best_pairs(ious, ious > 0)
        miou = statistics.fmean(ious[pair] for pair in pairs) if pairs else 0.0
        self._paired_iou += sum(float(ious[pair]) for pair in pairs)
        self._mious.append(miou)
        self._matched += len(best_pairs(ious, (ious >= MATCH_IOU) & (alike >= MATCH_WORDS)))
        self._phrases += len(true_phrases)
        self._ap.add(
            truth=[("", t.mask) for t in true_phrases], found=[("", p.mask, p.score) for p in phrases]
        )
        self._captions.append((caption, true_caption))
        return miou

    def scores(self) -> GroundedScores:
        """Scores over everything added so far."""
        f1 = [content_f1(mine, theirs) for mine, theirs in self._captions]
        return GroundedScores(
            miou=statistics.fmean(self._mious) if self._mious else None,
            truth_miou=self._paired_iou / self._phrases if self._phrases else None,
            recall=self._matched / self._phrases if self._phrases else None,
            ap50=self._ap.scores().ap50,
            caption_f1=statistics.fmean(f1) if f1 else None,
            cider=cider_d([mine for mine, _ in self._captions], [[theirs] for _, theirs in self._captions]),
        )


def best_pairs(values: NDArray[np.float64], allowed: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(row, column) of pairs among the allowed ones, the greatest value first, no row or column twice."""
    left = np.where(allowed, values, -np.inf)
    pairs: list[tuple[int, int]] = []
    while left.size and left.max() > -np.inf:
        row, column = np.unravel_index(int(left.argmax()), left.shape)
        pairs.append((int(row), int(column)))
        left[row, :] = left[:, column] = -np.inf
    return pairs
