"""Phrases that compare objects, decided by the outlines of the census; without a network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.unit.inference.test_doubts import HW, box, census_with, result_of
from xsam import Frame, Query, Status, Task
from xsam.inference.mask_support import MaskSupport
from xsam.inference.places import CORRECTED, corrected, misplaced
from xsam.spatial.phrases import parse_spatial_phrase

MUGS = [box(5), box(50), box(150)]
FRAME = Frame(rgb=np.zeros((*HW, 3), np.uint8))


def correct(phrase: str, *chosen: int, scores: tuple[float, ...] = (0.9, 0.8, 0.7), **options):
    query = Query(text=phrase, **options)
    result = result_of(query, *((phrase, 0.4, MUGS[index]) for index in chosen))
    support = MaskSupport(firmness=(0.5,) * len(chosen), runners_up=(0.0,) * len(chosen))
    census = census_with(*(("mug", score, mug) for score, mug in zip(scores, MUGS, strict=True)))
    census = replace(census, support=MaskSupport(firmness=scores, runners_up=(0.1, 0.2, 0.3)))
    return corrected(result, support, Task.REFERRING, FRAME, census)


def test_the_leftmost_mug_is_the_one_on_the_left_whatever_the_model_chose() -> None:
    """The tiny model finds the mugs and then picks one of them at random: 28 % were right."""
    result, support = correct("the leftmost mug", 2)
    assert result.segments.masks == (MUGS[0],)
    assert result.segments.labels == ("the leftmost mug",)
    assert result.segments.scores.tolist() == pytest.approx([0.9])
    assert result.segments.boxes_xyxy.tolist() == [[5, 10, 25, 30]]
    assert (support.firmness, support.runners_up) == ((0.9,), (0.1,))
    assert CORRECTED in result.hint


def test_a_right_choice_keeps_its_own_outline_and_loses_its_company() -> None:
    result, support = correct("the leftmost mug", 1, 0)
    assert result.segments.masks == (MUGS[0],)
    assert result.segments.scores.tolist() == pytest.approx([0.4])
    assert (support.firmness, result.hint) == ((0.5,), "")


def test_what_the_model_rejected_is_found_by_its_place() -> None:
    result, _ = correct("the second mug from the right")
    assert (result.status, result.segments.masks, result.message) == (Status.FOUND, (MUGS[1],), "")


def test_weak_objects_count_where_the_others_do_not_decide() -> None:
    """Of two mugs the census often finds one well and the other hardly: both tell right from left."""
    result, _ = correct("the rightmost mug", 1, scores=(0.9, 0.01, 0.12))
    assert result.segments.masks == (MUGS[2],)
    assert CORRECTED in result.hint


@pytest.mark.parametrize(
    ("phrase", "options"),
    [
        ("the red mug", {}),  # compares nothing
        ("the leftmost mug", {"score_threshold": 0.0}),  # everything that the model found is wanted
        ("the nearest mug", {}),  # there is no depth
        ("the leftmost vase", {}),  # none was found
        ("the largest mug", {}),  # they are of one size
    ],
)
def test_where_the_outlines_do_not_decide_nothing_changes(phrase: str, options: dict) -> None:
    result, _ = correct(phrase, 2, **options)
    assert (result.segments.masks, result.hint) == ((MUGS[2],), "")


@pytest.mark.parametrize(
    ("scores", "doubt"),
    [
        ((0.9, 0.8, 0.7), ""),
        ((0.3, 0.8, 0.7), "that depends on objects in doubt"),  # is the left one a mug at all?
        ((0.15, 0.8, 0.7), "its place could not be checked"),  # too weak to count
    ],
)
def test_a_place_is_believed_if_doubtful_objects_do_not_matter(scores: tuple[float, ...], doubt: str) -> None:
    census = census_with(*(("mug", score, mug) for score, mug in zip(scores, MUGS, strict=True)))
    phrase = parse_spatial_phrase("the leftmost mug")
    assert phrase is not None
    assert misplaced(phrase, MUGS[0], census, FRAME) == doubt


def test_one_alone_is_not_the_leftmost() -> None:
    """Where only one carrot was found, the leftmost carrot was it, and the other one stayed unseen."""
    phrase = parse_spatial_phrase("the leftmost mug")
    assert phrase is not None
    alone = census_with(("mug", 0.9, MUGS[1]))
    assert misplaced(phrase, MUGS[1], alone, FRAME) == "only 1 found to compare"


def test_a_weak_one_farther_left_makes_the_answer_doubtful() -> None:
    census = census_with(("mug", 0.15, MUGS[0]), ("mug", 0.8, MUGS[1]), ("mug", 0.7, MUGS[2]))
    phrase = parse_spatial_phrase("the leftmost mug")
    assert phrase is not None
    assert misplaced(phrase, MUGS[1], census, FRAME) == "that depends on objects in doubt"


def test_among_several_there_is_a_leftmost_one_however_close() -> None:
    """The pan's middle was 20 pixels left of the hammer's, and "the leftmost object" was not found."""
    near = [box(50), box(54, top=40), box(150)]
    query = Query(text="the leftmost mug")
    census = census_with(*(("mug", 0.9, mug) for mug in near))
    census = replace(census, support=MaskSupport(firmness=(1.0,) * 3, runners_up=(0.0,) * 3))
    nothing = (result_of(query), MaskSupport(), Task.REFERRING, FRAME)
    result, _ = corrected(*nothing, census)
    assert (result.status, result.segments.masks) == (Status.FOUND, (near[0],))
    phrase = parse_spatial_phrase(query.text)
    assert phrase is not None
    assert misplaced(phrase, near[0], census, FRAME) == "another one is too close to tell by position"
    one = replace(census, labels=("vase", "mug", "vase"))
    assert corrected(*nothing, one)[0].status is Status.NOT_FOUND, "who says leftmost sees several"
