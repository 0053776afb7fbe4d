"""Grounded captions: pairs, recall and AP50 against hand-computed values."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.eval.answers import rectangle
from xsam.eval.grounded_captions import GroundedCaptionScorer, GroundedPhrase, best_pairs
from xsam.types.masks import MaskRle

HW = (10, 40)


def _phrase(text: str, x_min: int, x_max: int, score: float = 1.0) -> GroundedPhrase:
    return GroundedPhrase(text=text, mask=MaskRle.encode(rectangle(x_min, 0, x_max, 10, HW)), score=score)


def test_the_best_pair_is_taken_first() -> None:
    values = np.array([[0.9, 0.8], [0.7, 0.1]])
    assert best_pairs(values, values > 0) == [
        (0, 0),
        (1, 1),
    ]  # not (0, 1) and (1, 0), though their sum is larger
    assert best_pairs(values, values < 0.9) == [(0, 1), (1, 0)]
    assert best_pairs(values, values > 1) == []
    assert best_pairs(np.zeros((0, 2)), np.zeros((0, 2), np.bool_)) == []


def test_a_picture_by_hand() -> None:
    scores = GroundedCaptionScorer()
    miou = scores.add(
        caption="a red mug and a book",
        phrases=[
            _phrase("a red mug", 0, 10, 0.5),
            _phrase("a book", 20, 26, 0.4),
            _phrase("air", 36, 40, 0.9),
        ],
        true_caption="a red mug and a blue book",
        true_phrases=[_phrase("the red mug", 0, 8), _phrase("a pan", 20, 30), _phrase("a lamp", 31, 35)],
    )
    # IoU 8/10 and 6/10; the lamp is missed and the air invented, which costs nothing here.
    assert miou == pytest.approx(0.7)
    found = scores.scores()
    assert found.miou == pytest.approx(0.7)
    assert found.truth_miou == pytest.approx((0.8 + 0.6 + 0) / 3)
    # Only the mug: the book overlaps the pan well enough, but the words differ.
    assert found.recall == pytest.approx(1 / 3)
    # By score: air wrong, mug right, book right; precision at both is at best 2/3, of 101 recall steps 67.
    assert found.ap50 == pytest.approx(67 / 101 * 2 / 3)
    # Content words: red mug book / red mug blue book.
    assert found.caption_f1 == pytest.approx(2 * 3 / 7)
    assert found.cider is None


def test_the_mean_goes_over_pictures() -> None:
    scores = GroundedCaptionScorer()
    truth = [_phrase("a mug", 0, 10)]
    scores.add(caption="a mug", phrases=truth, true_caption="a mug", true_phrases=truth)
    assert scores.add(caption="", phrases=[], true_caption="a mug", true_phrases=truth) == 0.0
    found = scores.scores()
    assert (found.miou, found.truth_miou, found.recall, found.caption_f1) == (0.5, 0.5, 0.5, 0.5)
    assert found.cider is not None


def test_a_pair_of_equal_words_must_overlap_by_half() -> None:
    scores = GroundedCaptionScorer()
    scores.add(
        caption="",
        phrases=[_phrase("a mug", 0, 4)],
        true_caption="",
        true_phrases=[_phrase("a mug", 0, 10)],
    )
    assert scores.scores().miou == pytest.approx(0.4)
    assert scores.scores().recall == 0.0


def test_without_pictures_there_is_no_score() -> None:
    found = GroundedCaptionScorer().scores()
    assert (found.miou, found.truth_miou, found.recall, found.ap50, found.caption_f1) == (None,) * 5
    assert found.cider is None
