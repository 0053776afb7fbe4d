"""Objects that are there for certain, and whose category is not."""

from __future__ import annotations

import pytest
import torch

from tests.unit.inference.logits import CORNER, LEFT, SMALL, class_logits, decoded, mask_logits, pixels
from xsam.inference.postprocess import UnlabeledSegments, instances
from xsam.inference.undecided import with_undecided

LEFT_PIXELS, CORNER_PIXELS = {(0, 0), (1, 0)}, {(1, 2)}
CERTAINTY = 0.9  # mean mask probability inside the masks of `logits.py`


def answer(*queries: tuple[tuple[float, ...], list[list[float]]], least: float = 0.6) -> UnlabeledSegments:
    classes = class_logits(*(row for row, _ in queries))
    masks = mask_logits(*(mask for _, mask in queries))
    decided = instances(classes, masks, SMALL, threshold=least)
    return with_undecided(decided, classes, masks, SMALL, threshold=least, nested=0.85)


def test_a_mug_that_may_be_a_box_is_in_the_answer_once() -> None:
    """Two mugs in plain sight, 0.42 mug and 0.42 box each, were missing from an overview of a table."""
    found = answer(((0.5, 0.45), LEFT), ((0.9, 0.01), CORNER))
    assert found.label_indices.tolist() == [0, 0]
    assert found.scores.tolist() == pytest.approx([0.9 * CERTAINTY, 0.5 * CERTAINTY], abs=1e-4)
    assert [pixels(mask) for mask in decoded(found)] == [CORNER_PIXELS, LEFT_PIXELS]
    assert found.queries.tolist() == [1, 0]
    assert found.runners_up.tolist() == pytest.approx([0.5, 0.9], abs=1e-4)


@pytest.mark.parametrize(
    ("queries", "labels"),
    [
        ([((0.3, 0.3), LEFT)], []),
        ([((0.9, 0.02), LEFT)], [0]),
        ([((0.5,), LEFT)], []),
        ([((0.9, 0.02), LEFT), ((0.5, 0.45), LEFT)], [0]),
        ([((0.45, 0.5), LEFT), ((0.5, 0.4), LEFT)], [1]),
        ([((0.45, 0.5), LEFT), ((0.5, 0.4), CORNER)], [1, 0]),
    ],
    ids=["perhaps nothing", "decided", "one category", "shown already", "one object twice", "two objects"],
)
def test_only_objects_that_are_not_shown(queries, labels: list[int]) -> None:
    assert answer(*queries).label_indices.tolist() == labels


def test_an_empty_answer_has_the_types_of_others() -> None:
    nothing = answer(((0.01, 0.01), LEFT))
    assert nothing.masks == ()
    assert {t.dtype for t in (nothing.label_indices, nothing.queries)} == {torch.long}
