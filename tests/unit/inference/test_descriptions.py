"""Descriptions keep the phrases that they can show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.unit.inference.test_doubts import box, result_of
from xsam import Query, SegmentationResult, Status, Task
from xsam.inference.descriptions import with_shown_phrases, worth_saying

PHRASES = ("a mug", "a duck", "a duck", "two pans")
TEXT = "a mug, a duck, a duck and two pans are on the table."


def description(*shown: int, text: str = TEXT) -> SegmentationResult:
    """A description with a segment for some of its phrases."""
    query = Query(task=Task.GROUNDED_CONVERSATION)
    result = result_of(query, *((PHRASES[index], 0.9, box(40 * index)) for index in shown))
    segments = replace(result.segments, label_indices=np.array(shown, np.int32))
    return replace(result, segments=segments, text=text, phrases=PHRASES)


@pytest.mark.parametrize(
    ("shown", "text", "phrases"),
    [
        ((0, 1), "a mug and a duck are on the table.", ("a mug", "a duck")),
        ((0, 2, 3), "a mug, a duck and two pans are on the table.", ("a mug", "a duck", "two pans")),
        ((1,), "a duck is on the table.", ("a duck",)),
        ((3,), "two pans are on the table.", ("two pans",)),
        ((0, 1, 2, 3), "a mug, two ducks and two pans are on the table.", ("a mug", "two ducks", "two pans")),
    ],
)
def test_only_phrases_with_a_mask_are_said_and_equal_ones_are_counted(
    shown: tuple[int, ...], text: str, phrases: tuple[str, ...]
) -> None:
    result = with_shown_phrases(description(*shown))
    assert (result.text, result.phrases) == (text, phrases)
    said = [result.phrases[index] for index in result.segments.label_indices.tolist()]
    assert said == list(result.segments.labels)


def test_nothing_that_can_be_shown_is_not_found() -> None:
    result = with_shown_phrases(description())
    assert (result.status, result.text, result.phrases) == (Status.NOT_FOUND, "", ())
    assert "with confidence" in result.message


@pytest.mark.parametrize(
    "text",
    ["a mug stands by a duck, a duck and two pans.", "there is a mug."],  # running text; phrases are missing
)
def test_running_text_stays(text: str) -> None:
    result = description(0, 1, text=text)
    kept = with_shown_phrases(result)
    assert (kept.text, kept.phrases, len(kept)) == (text, PHRASES, 2)
    assert kept.hint == "said, but not shown with confidence: a duck, two pans"
    nothing = with_shown_phrases(description(text=text))
    assert (nothing.status, nothing.text) == (Status.NOT_FOUND, ""), "words alone are no answer"


def test_one_phrase_for_each_object_and_none_that_is_likely_wrong() -> None:
    query = Query(task=Task.GROUNDED_CONVERSATION)
    found = [("a mug", box(0)), ("a cup", box(2)), ("a duck", box(100)), ("a pan", box(150))]
    segments = result_of(query, *((label, 0.9, mask) for label, mask in found)).segments
    assert worth_saying(segments, [0.7, 0.9, 0.49, 0.5]).tolist() == [False, True, False, True]
