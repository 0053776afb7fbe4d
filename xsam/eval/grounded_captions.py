"""Metrics of grounded conversation: mask quality, phrase recall, and caption agreement.

The conventions follow the evaluation of GranD-f (Rasheed et al., arXiv 2311.03356):

* mIoU: in each image, predicted and true masks are paired one to one, best IoU first, as long as they
  overlap. The score is the mean over the *pairs* of an image (0 if there are none), averaged over images.
  Missed and spurious masks are not penalized, so read it together with the next scores.
* Truth mIoU: the same pairs, averaged over all true phrases, with 0 for a missed one; not part of GranD-f.
* AP50: mask AP at IoU 0.5, without categories.
* Precision: share of the phrases of the caption, those without a mask included, that have such a pair.
* Recall: share of the true phrases that have a pair with IoU ≥ 0.5 *and* similar text. GranD-f compares BERT
  embeddings (cosine ≥ 0.5); here it is `captions.content_f1` (≥ 0.5), which needs no model, so recall is not
  comparable with published numbers.
* Mentions: precision and recall of the same pairs by text alone, whatever the masks.
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
MATCH_TEXT_F1 = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundedPhrase:
    """A phrase of a caption and its mask."""

    text: str
    mask: MaskRle
    score: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundedScores:
    """Scores in [0, 1], except `cider`; None if there is nothing to average."""

    miou: float | None
    truth_miou: float | None
    precision: float | None
    recall: float | None
    mention_precision: float | None
    mention_recall: float | None
    ap50: float | None
    caption_f1: float | None
    cider: float | None  # from 0 to 10; None for fewer than two images


class GroundedCaptionScorer:
    """Accumulates the captions and grounded phrases of many images."""

    def __init__(self) -> None:
        self._mious: list[float] = []
        self._paired_iou = 0.0
        self._matched = 0
        self._mentioned = 0
        self._phrases = 0
        self._own_phrases = 0
        self._ap = MaskAP()
        self._captions: list[tuple[str, str]] = []

    def add(
        self,
        *,
        caption: str,
        phrases: Sequence[GroundedPhrase],
        true_caption: str,
        true_phrases: Sequence[GroundedPhrase],
        ungrounded: Sequence[str] = (),
    ) -> float:
        """Add one image, with captions without tags, and return its mIoU.

        Args:
            caption, phrases: of the model.
            true_caption, true_phrases: of the ground truth.
            ungrounded: phrases of the model that have no mask.
        """
        ious = MaskRle.iou_matrix([p.mask for p in phrases], [t.mask for t in true_phrases])
        texts = [*(p.text for p in phrases), *ungrounded]
        mentions = np.array([[content_f1(p, t.text) for t in true_phrases] for p in texts], np.float64)
        mentions = mentions.reshape(len(texts), len(true_phrases))
        text_f1 = mentions[: len(phrases)]
        pairs = best_pairs(ious, ious > 0)
        miou = statistics.fmean(ious[pair] for pair in pairs) if pairs else 0.0
        self._paired_iou += sum(float(ious[pair]) for pair in pairs)
        self._mious.append(miou)
        self._matched += len(best_pairs(ious, (ious >= MATCH_IOU) & (text_f1 >= MATCH_TEXT_F1)))
        self._mentioned += len(best_pairs(mentions, mentions >= MATCH_TEXT_F1))
        self._phrases += len(true_phrases)
        self._own_phrases += len(texts)
        self._ap.add(
            truth=[("", t.mask) for t in true_phrases], found=[("", p.mask, p.score) for p in phrases]
        )
        self._captions.append((caption, true_caption))
        return miou

    def scores(self) -> GroundedScores:
        """Compute the scores over all images added so far."""
        f1 = [content_f1(caption, truth) for caption, truth in self._captions]
        return GroundedScores(
            miou=statistics.fmean(self._mious) if self._mious else None,
            truth_miou=self._paired_iou / self._phrases if self._phrases else None,
            precision=self._matched / self._own_phrases if self._own_phrases else None,
            recall=self._matched / self._phrases if self._phrases else None,
            mention_precision=self._mentioned / self._own_phrases if self._own_phrases else None,
            mention_recall=self._mentioned / self._phrases if self._phrases else None,
            ap50=self._ap.scores().ap50,
            caption_f1=statistics.fmean(f1) if f1 else None,
            cider=cider_d(
                [caption for caption, _ in self._captions], [[truth] for _, truth in self._captions]
            ),
        )


def best_pairs(values: NDArray[np.float64], allowed: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Greedily choose allowed (row, column) pairs by descending value, using no row or column twice."""
    remaining = np.where(allowed, values, -np.inf)
    pairs: list[tuple[int, int]] = []
    while remaining.size and remaining.max() > -np.inf:
        row, column = np.unravel_index(int(remaining.argmax()), remaining.shape)
        pairs.append((int(row), int(column)))
        remaining[row, :] = remaining[:, column] = -np.inf
    return pairs
