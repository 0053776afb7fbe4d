"""Caption metrics against hand-computed values."""

from __future__ import annotations

import math

import pytest

from xsam.eval.captions import cider_d, content_f1, split_words


def test_split_words() -> None:
    assert split_words("A red mug, the cat's; 2 books.") == ["a", "red", "mug", "the", "cat's", "2", "books"]


@pytest.mark.parametrize(
    ("candidate", "reference", "f1"),
    [
        ("a red mug on the table.", "the red mug is on a table", 1.0),
        ("a red mug", "a blue mug", 0.5),
        ("mug mug mug", "a mug and a mug", 2 * 2 / 5),  # three words against two, two of them shared
        ("", "a mug", 0.0),
        ("the", "is", 1.0),
    ],
)
def test_content_f1(candidate: str, reference: str, f1: float) -> None:
    assert content_f1(candidate, reference) == pytest.approx(f1)


def test_cider_of_equal_captions() -> None:
    """Two words make unigrams and one bigram, so two of the four lengths score 1 each."""
    assert cider_d(["red mug", "blue book"], [["red mug"], ["blue book"]]) == pytest.approx(10 * 2 / 4)
    long = ["one two three four five", "six seven eight nine ten"]
    assert cider_d(long, [[text] for text in long]) == pytest.approx(10.0)


def test_cider_by_hand() -> None:
    """ "red mug red" for "red mug": all words are rare, each has weight log 2.

    Single words: (2, 1) against (1, 1), the 2 clipped to 1: (1 + 1) / (√5 · √2). Pairs: 1 / (√2 · 1). The
    caption is one word too long: exp(−1 / 72).
    """
    expected = 10 * (2 / math.sqrt(10) + 1 / math.sqrt(2)) / 4 * math.exp(-1 / 72)
    score = cider_d(["red mug red", "nothing alike"], [["red mug"], ["blue book"]])
    assert score == pytest.approx(expected / 2)


def test_words_of_every_picture_have_no_weight() -> None:
    references = [["see mug"], ["see book"]]
    # "see" weighs nothing, the pair (see, lamp) occurs nowhere else and the true pair is another.
    assert cider_d(["see lamp", "see lamp"], references) == 0.0
    # Only "mug" and its pair score: all of the weight of the single words and of the pairs.
    assert cider_d(["see mug", "lamp"], references) == pytest.approx(10 * 2 / 4 / 2)


def test_several_references_are_averaged() -> None:
    score = cider_d(["red mug", "blue book"], [["red mug", "green cup"], ["blue book"]])
    assert score == pytest.approx((5.0 / 2 + 5.0) / 2)


def test_cider_needs_a_corpus() -> None:
    assert cider_d(["red mug"], [["red mug"]]) is None
    with pytest.raises(ValueError, match="at least one reference"):
        cider_d(["red mug", "book"], [["red mug"], []])
