"""Descriptions in the names of the census; without a network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.unit.inference.test_doubts import HW, box, census_with, result_of
from xsam import Query, SegmentationResult, Status, Task
from xsam.inference.mask_support import NO_SUPPORT, MaskSupport
from xsam.inference.naming import COMPLETED, completed
from xsam.types.masks import MaskRle

LEFT, MIDDLE, RIGHT = box(0), box(60), box(120)


def described(text: str, *said: tuple[str, float, MaskRle], **options: float) -> SegmentationResult:
    """A description whose phrases are those with a segment, each once."""
    phrases = tuple(dict.fromkeys(phrase for phrase, _, _ in said))
    result = result_of(Query(task=Task.GROUNDED_CONVERSATION, **options), *said)
    indices = np.array([phrases.index(phrase) for phrase, _, _ in said], np.int32)
    return replace(
        result, text=text, phrases=phrases, segments=replace(result.segments, label_indices=indices)
    )


def complete(result: SegmentationResult, *found: tuple[str, float, MaskRle]) -> SegmentationResult:
    named, _ = completed(result, NO_SUPPORT, Task.GROUNDED_CONVERSATION, census_with(*found))
    return named


def test_what_a_mask_shows_is_named_by_the_census_and_keeps_its_color() -> None:
    said = described("a green mug is on the table.", ("a green mug", 0.9, LEFT))
    result = complete(said, ("vase", 0.8, LEFT), ("mug", 0.2, LEFT))
    assert (result.text, result.phrases) == ("a green vase is on the table.", ("a green vase",))
    assert result.segments.labels == ("a green vase",)
    assert result.hint == COMPLETED


def test_the_article_follows_the_name() -> None:
    census = census_with(("apple", 0.9, LEFT))
    result, _ = completed(
        described("a mug is on the table.", ("a mug", 0.9, LEFT)),
        NO_SUPPORT,
        Task.GROUNDED_CONVERSATION,
        replace(census, names=("mug", "apple")),
    )
    assert result.text == "an apple is on the table."


def test_what_was_not_mentioned_is_added_with_its_own_score_and_box() -> None:
    said = described("a red mug is on the table.", ("a red mug", 0.5, LEFT))
    result = complete(said, ("mug", 0.9, LEFT), ("knife", 0.8, RIGHT), ("vase", 0.1, MIDDLE))
    assert result.text == "a red mug and a knife are on the table."
    segments = result.segments
    assert segments.labels == ("a knife", "a red mug"), "best score first"
    assert segments.scores.tolist() == pytest.approx([0.8, 0.5])
    assert segments.boxes_xyxy[0].tolist() == [120, 10, 140, 30]
    assert [result.phrases[index] for index in segments.label_indices.tolist()] == list(segments.labels)


def test_a_phrase_shows_as_many_objects_as_it_says() -> None:
    one = described("a red mug is on the table.", ("a red mug", 0.9, LEFT), ("a red mug", 0.8, MIDDLE))
    assert complete(one, ("mug", 0.9, LEFT)).segments.masks == (LEFT,)
    two = described(
        "two red mugs are here.", *(("two red mugs", 0.9, mask) for mask in (LEFT, MIDDLE, RIGHT))
    )
    result = complete(two, ("mug", 0.9, LEFT), ("vase", 0.9, MIDDLE))
    assert result.phrases == ("a red mug", "a red vase")
    assert result.segments.masks == (LEFT, MIDDLE)


def test_an_empty_description_is_replaced_by_what_is_there() -> None:
    nothing = described("there is nothing on the table.")
    assert nothing.status is Status.NOT_FOUND
    result = complete(nothing, ("mug", 0.9, LEFT), ("vase", 0.6, RIGHT))
    assert (result.status, result.message) == (Status.FOUND, "")
    assert result.text == "a mug and a vase are there."


@pytest.mark.parametrize("phrase", ["a shiny robot", "a mug with a crack"])
def test_unknown_things_and_longer_phrases_keep_their_words(phrase: str) -> None:
    said = described(f"{phrase} is on the table.", (phrase, 0.9, LEFT))
    result = complete(said, ("vase", 0.9, LEFT))
    assert (result.text, result.hint) == (f"{phrase} is on the table.", "")


@pytest.mark.parametrize(
    "said",
    [
        described("a red mug stands by a vase.", ("a red mug", 0.9, LEFT), ("a vase", 0.9, MIDDLE)),
        described("a red mug is on the table.", ("a red mug", 0.9, LEFT), score_threshold=0.0),
    ],
    ids=["running text", "a threshold asks for all that was said"],
)
def test_what_must_stay_stays(said: SegmentationResult) -> None:
    assert complete(said, ("vase", 0.9, LEFT), ("knife", 0.9, RIGHT)) is said


def test_what_the_network_says_for_the_masks_follows_their_order() -> None:
    census = replace(
        census_with(("mug", 0.9, LEFT), ("knife", 0.8, RIGHT)),
        support=MaskSupport(firmness=(0.1, 0.2), runners_up=(0.3, 0.4)),
    )
    said = described("a mug is on the table.", ("a mug", 0.5, LEFT))
    own = MaskSupport(firmness=(0.7,), runners_up=(0.6,))
    result, support = completed(said, own, Task.GROUNDED_CONVERSATION, census)
    assert result.segments.labels == ("a knife", "a mug")
    assert support == MaskSupport(firmness=(0.2, 0.7), runners_up=(0.4, 0.6))
    assert result.segments.image_hw == HW


def test_no_more_is_added_than_the_query_wants() -> None:
    said = described("a mug is on the table.", ("a mug", 0.9, LEFT), max_instances=2)
    result = complete(said, ("mug", 0.9, LEFT), ("vase", 0.8, MIDDLE), ("knife", 0.7, RIGHT))
    assert result.phrases == ("a mug", "a vase")
