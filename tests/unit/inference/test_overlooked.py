"""Weak signs of more objects than an answer shows; without a network."""

from __future__ import annotations

import pytest

from tests.unit.inference.test_doubts import box, census_with, result_of
from xsam import Query
from xsam.inference.census import Census
from xsam.inference.overlooked import with_overlooked

LEFT, MIDDLE, RIGHT = box(0), box(60), box(120)
MUG = Query(thing_classes=("mug",))
WEAK = census_with(("mug", 0.9, LEFT), ("mug", 0.2, RIGHT), ("vase", 0.8, MIDDLE))


def hint(query: Query, label: str = "mug", census: Census = WEAK) -> str:
    result = result_of(query, (label, 0.9, LEFT))
    return with_overlooked(result, query.resolved_task(), census).hint


@pytest.mark.parametrize(
    ("query", "label"),
    [
        (MUG, "mug"),
        (Query(thing_classes=("Mug",)), "Mug"),
        (Query(thing_classes=("mug", "vase")), "mug"),
        (Query(text="the mug"), "the mug"),
    ],
)
def test_who_counts_hears_of_an_object_that_is_too_weak_to_show(query: Query, label: str) -> None:
    assert hint(query, label) == (
        "weak signs of one more mug at pixel (130, 20), not shown: the number is not certain"
    )


def test_all_are_counted_and_the_same_pixels_once() -> None:
    census = census_with(
        ("mug", 0.2, RIGHT), ("mug", 0.18, MIDDLE), ("mug", 0.16, box(122)), ("mug", 0.1, box(160))
    )
    assert hint(MUG, census=census) == (
        "weak signs of two more mugs at pixel (130, 20), (70, 20), not shown: the number is not certain"
    )


@pytest.mark.parametrize(
    ("query", "label"),
    [
        (Query(thing_classes=("knife",)), "knife"),
        (Query(text="the red mug"), "the red mug"),
        (Query(text="the leftmost mug"), "the leftmost mug"),
        (Query(thing_classes=("mug",), score_threshold=0.05), "mug"),
    ],
    ids=["another category", "a color", "a place", "a threshold asks for all"],
)
def test_what_is_no_sign(query: Query, label: str) -> None:
    assert hint(query, label) == ""


@pytest.mark.parametrize(("block", "signs"), [(0.8, 0), (0.5, 1), (0.7, 1)], ids=["clear", "weak", "close"])
def test_a_clear_block_that_could_be_a_mug_is_no_sign_of_a_mug(block: float, signs: int) -> None:
    census = census_with(("mug", 0.9, LEFT), ("mug", 0.38, RIGHT), ("vase", block, box(121)))
    assert hint(MUG, census=census).count("weak signs") == signs


def test_nothing_found_is_no_number() -> None:
    result = result_of(MUG)
    assert with_overlooked(result, MUG.resolved_task(), WEAK) is result
