"""From logits to segments, against hand-computed values. No fixture is symmetric, so swapped axes show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.unit.inference.logits import (
    CORNER,
    LEFT,
    NO,
    SMALL,
    TOP,
    YES,
    class_logits,
    decoded,
    mask_logits,
    pixels,
)
from xsam.inference.mask_support import firmness_of, runners_up
from xsam.inference.pointing import most_overlapping
from xsam.inference.postprocess import (
    UnlabeledSegments,
    best_first,
    best_query,
    instances,
    matching_queries,
    panoptic,
    probabilities,
    to_segments,
    without_duplicates,
)
from xsam.inference.regions import semantic_bands
from xsam.inference.upsample import MaskGeometry


def test_background_takes_its_share() -> None:
    logits = torch.tensor([[1.0, 2.0, 5.0], [4.0, 4.0, 2.0]]).log()
    torch.testing.assert_close(probabilities(logits), torch.tensor([[0.125, 0.25], [0.4, 0.4]]))


def test_a_padded_condition_has_no_probability() -> None:
    logits = torch.tensor([[3.0, 0.0, 1.0]]).log()
    torch.testing.assert_close(probabilities(logits), torch.tensor([[0.75, 0.0]]))


# ---------------------------------------------------------------------------------------- one by one


def test_best_query_of_each_condition() -> None:
    classes = class_logits((0.1, 0.7), (0.6, 0.3), (0.2, 0.2))
    found = best_query(classes, mask_logits(LEFT, TOP, CORNER), SMALL)
    assert found.label_indices.tolist() == [0, 1]
    torch.testing.assert_close(found.scores, torch.tensor([0.6, 0.7]))
    assert [pixels(mask) for mask in decoded(found)] == [{(0, 0), (0, 1), (0, 2)}, {(0, 0), (1, 0)}]


def test_one_query_may_be_the_best_for_two_conditions() -> None:
    found = best_query(class_logits((0.4, 0.5), (0.3, 0.1)), mask_logits(LEFT, TOP), SMALL)
    assert [pixels(mask) for mask in decoded(found)] == [{(0, 0), (1, 0)}] * 2


def test_every_query_above_the_threshold_matches_once() -> None:
    nearly_left = [[0.95, NO, NO], [0.55, NO, NO]]
    classes = class_logits((0.6,), (0.55,), (0.4,), (0.9,))
    found = matching_queries(classes, mask_logits(nearly_left, CORNER, TOP, LEFT), SMALL, threshold=0.5)
    assert found.scores.tolist() == pytest.approx([0.9, 0.55])
    assert [pixels(mask) for mask in decoded(found)] == [{(0, 0), (1, 0)}, {(1, 2)}]


def test_without_a_match_the_best_query_answers() -> None:
    classes = class_logits((0.2, 0.05), (0.3, 0.6), (0.1, 0.2))
    found = matching_queries(classes, mask_logits(LEFT, TOP, CORNER), SMALL, threshold=0.5)
    answers = {int(label): (float(s), pixels(m)) for label, s, m in _rows(found)}
    assert answers[0] == (pytest.approx(0.3), {(0, 0), (0, 1), (0, 2)})
    assert answers[1] == (pytest.approx(0.6), {(0, 0), (0, 1), (0, 2)})
    assert len(found.scores) == 2


def _rows(found: UnlabeledSegments) -> list[tuple[Tensor, Tensor, Tensor]]:
    return list(zip(found.label_indices, found.scores, decoded(found), strict=True))


# ----------------------------------------------------------------------------------------- instances


def test_the_score_of_an_instance_is_class_times_certainty_inside() -> None:
    """0.5 × (0.75 + 0.75 + 0.9) / 3 = 0.4; pixels outside the mask do not count."""
    masks = mask_logits([[0.75, 0.75, 0.2], [0.9, 0.01, 0.4]])
    found = instances(class_logits((0.1, 0.5)), masks, SMALL, threshold=0.39)
    assert found.label_indices.tolist() == [1]
    assert float(found.scores[0]) == pytest.approx(0.4, abs=1e-5)
    assert pixels(decoded(found)[0]) == {(0, 0), (0, 1), (1, 0)}
    assert len(instances(class_logits((0.1, 0.5)), masks, SMALL, threshold=0.41).scores) == 0


def test_as_many_pairs_as_queries_compete() -> None:
    """Two queries and three classes make six pairs; the two best are both of the first query."""
    classes = class_logits((0.45, 0.05, 0.4), (0.3, 0.2, 0.35))
    found = instances(classes, mask_logits(TOP, CORNER), SMALL, threshold=0.0)
    pairs = {(int(label), round(float(score), 3)) for label, score, _ in _rows(found)}
    assert pairs == {(0, round(0.45 * YES, 3)), (2, round(0.4 * YES, 3))}
    assert all(len(pixels(mask)) == 3 for mask in decoded(found))


def test_no_instances_at_all() -> None:
    found = instances(class_logits((0.3,), (0.2,)), mask_logits(LEFT, TOP), SMALL, threshold=1.0)
    assert decoded(found).shape == (0, 2, 3)
    assert found.scores.shape == found.label_indices.shape == (0,)


def test_an_empty_mask_scores_nothing() -> None:
    found = instances(class_logits((0.9,)), mask_logits([[NO] * 3] * 2), SMALL, threshold=0.0)
    assert float(found.scores[0]) == 0.0


# --------------------------------------------------------------------------------- overlap with prompt


def _raw(
    pictures: Sequence[Sequence[Sequence[int]]], scores: Sequence[float], labels: Sequence[int]
) -> UnlabeledSegments:
    masks = np.array(pictures, np.bool_).reshape(-1, 2, 3)
    return UnlabeledSegments.of_masks(masks, torch.tensor(labels), torch.tensor(scores), (2, 3))


def test_the_tightest_mask_around_the_prompt_wins() -> None:
    """The large mask covers more of the prompt and scores higher, but its IoU is lower."""
    large, tight, beside = [[1, 1, 1], [1, 1, 1]], [[0, 1, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 1]]
    candidates = _raw([large, tight, beside], [0.9, 0.3, 0.8], [0, 0, 0])
    prompt = np.array([[False, True, True], [False, False, False]])
    chosen = most_overlapping(candidates, prompt)  # 2/6, 1/2, 0/3
    assert len(chosen.scores) == 1
    assert float(chosen.scores[0]) == pytest.approx(0.3)
    assert pixels(decoded(chosen)[0]) == {(0, 1)}


def test_nothing_overlaps_with_nothing() -> None:
    none = _raw([], [], [])
    assert len(most_overlapping(none, np.ones((2, 3), np.bool_)).scores) == 0


# ----------------------------------------------------------------------------------------- semantic


def test_weak_queries_of_one_class_add_up() -> None:
    """Pixel (0, 2): one query gives 0.6 · 0.9 = 0.54, two others 0.4 · 0.8 · 2 = 0.64 for the other class."""
    classes = class_logits((0.6, 0.1), (0.05, 0.4), (0.05, 0.4))
    first = [[0.9, 0.9, 0.9], [0.9, 0.9, 0.9]]
    second = [[0.1, 0.1, 0.8], [0.1, 0.9, 0.1]]
    third = [[0.1, 0.1, 0.8], [0.1, 0.1, 0.1]]
    bands = semantic_bands(classes, mask_logits(first, second, third), SMALL)
    assert torch.cat([band for _, _, band in bands]).tolist() == [[0, 0, 1], [0, 0, 0]]


# ----------------------------------------------------------------------------------------- panoptic

FIVE = MaskGeometry(side=6, scaled_hw=(2, 6), image_hw=(2, 6))


def _strip(*rows: str) -> list[list[float]]:
    """Return 6×6 logits from two rows of text: # object, + weak object, . nothing."""
    value = {"#": 6.0, "+": 0.9, ".": -6.0}
    return [[value[c] for c in row] for row in rows] + [[6.0] * 6] * 4


def test_a_segment_that_lost_a_fifth_is_dropped() -> None:
    """The second query owns 5 pixels and keeps 4: 0.8 is not more than 0.8."""
    classes = class_logits((0.95, 0.01), (0.02, 0.9))
    masks = torch.tensor([_strip("##....", "......"), _strip(".#####", "......")])
    found = panoptic(classes, masks, FIVE, stuff=())
    assert found.label_indices.tolist() == [0]
    assert pixels(decoded(found)[0]) == {(0, 0), (0, 1)}


def test_a_segment_that_lost_a_sixth_keeps_the_rest() -> None:
    classes = class_logits((0.95, 0.01), (0.02, 0.9))
    masks = torch.tensor([_strip("##....", "......"), _strip(".#####", "#.....")])
    found = panoptic(classes, masks, FIVE, stuff=())
    assert found.label_indices.tolist() == [0, 1]
    assert found.scores.tolist() == pytest.approx([0.95, 0.9])
    assert pixels(decoded(found)[0]) == {(0, 0), (0, 1)}
    assert pixels(decoded(found)[1]) == {(0, 2), (0, 3), (0, 4), (0, 5), (1, 0)}


def test_the_class_score_weighs_in_a_fight_for_pixels() -> None:
    """0.98 · sigmoid(0.9) = 0.70 beats 0.6 · sigmoid(6) = 0.60, although its mask is weaker."""
    classes = class_logits((0.98, 0.01), (0.01, 0.6))
    masks = torch.tensor([_strip("++++..", "......"), _strip("...###", "######")])
    found = panoptic(classes, masks, FIVE, stuff=())
    assert found.label_indices.tolist() == [0, 1]
    assert pixels(decoded(found)[0]) == {(0, 0), (0, 1), (0, 2), (0, 3)}
    assert (0, 3) not in pixels(decoded(found)[1])


def test_stuff_becomes_one_segment_and_things_stay_apart() -> None:
    rows = [(0.01, 0.7), (0.8, 0.01), (0.01, 0.9), (0.75, 0.01)]
    pictures = [("##....", "......"), ("..#...", "......"), ("......", "####.."), ("......", "....##")]
    found = panoptic(
        class_logits(*rows), torch.tensor([_strip(*p) for p in pictures]), FIVE, stuff=range(1, 2)
    )
    assert sorted(found.label_indices.tolist()) == [0, 0, 1]
    floor = int((found.label_indices == 1).nonzero()[0, 0])
    assert float(found.scores[floor]) == pytest.approx(0.9)
    assert pixels(decoded(found)[floor]) == {(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (1, 3)}
    assert int(decoded(found).sum(dim=0).max()) == 1


def test_a_segment_gets_its_whole_mask_and_no_pixel_that_nobody_claims() -> None:
    """0.6 · sigmoid(0.9) = 0.43: the reference counts such a pixel as lost, but not as another's."""
    found = panoptic(class_logits((0.6, 0.01)), torch.tensor([_strip("###+..", "......")]), FIVE, stuff=())
    assert pixels(decoded(found)[0]) == {(0, 0), (0, 1), (0, 2), (0, 3)}
    reference = panoptic(
        class_logits((0.6, 0.01)),
        torch.tensor([_strip("###+..", "......")]),
        FIVE,
        stuff=(),
        every_pixel=True,
    )
    assert len(pixels(decoded(reference)[0])) == 12


@pytest.mark.parametrize(
    ("row", "picture"),
    [
        ((0.3, 0.2), ("######", "######")),  # below the threshold
        ((0.01, 0.02), ("######", "######")),  # background
        ((0.9, 0.01), ("......", "......")),  # no pixels
    ],
)
def test_a_picture_of_nothing_has_no_segments(row: tuple[float, float], picture: tuple[str, str]) -> None:
    found = panoptic(class_logits(row), torch.tensor([_strip(*picture)]), FIVE, stuff=())
    assert decoded(found).shape == (0, 2, 6)
    assert decoded(found).dtype == torch.bool
    assert len(found.scores) == len(found.label_indices) == 0


# --------------------------------------------------------------------------------- duplicates, packing


def test_repetitions_of_a_better_segment_are_dropped() -> None:
    masks = [
        [[1, 1, 1], [0, 0, 0]],
        [[1, 1, 1], [1, 0, 0]],  # 3/4 of the first
        [[1, 1, 1], [0, 0, 0]],  # the same, of another label
        [[0, 0, 1], [0, 0, 0]],  # a third of it
    ]
    kept = without_duplicates(_raw(masks, [0.5, 0.8, 0.4, 0.3], [0, 0, 1, 0]))
    assert kept.scores.tolist() == pytest.approx([0.8, 0.4, 0.3])
    strict = without_duplicates(_raw(masks, [0.5, 0.8, 0.4, 0.3], [0, 0, 1, 0]), iou=0.76)
    assert strict.scores.tolist() == pytest.approx([0.8, 0.5, 0.4, 0.3])
    assert len(without_duplicates(_raw([], [], [])).scores) == 0


def test_of_nested_segments_of_a_label_the_better_one_stays() -> None:
    masks = [
        [[1, 1, 1], [1, 1, 1]],  # holds the next two
        [[1, 1, 0], [0, 0, 0]],
        [[0, 0, 1], [0, 0, 1]],  # of another label
    ]
    found = _raw(masks, [0.6, 0.5, 0.4], [0, 0, 1])
    assert without_duplicates(found, nested=0.9).scores.tolist() == pytest.approx([0.6, 0.4])
    assert without_duplicates(found).scores.tolist() == pytest.approx([0.6, 0.5, 0.4])
    better_inside = _raw(masks, [0.6, 0.7, 0.4], [0, 0, 1])
    assert without_duplicates(better_inside, nested=0.9).scores.tolist() == pytest.approx([0.7, 0.4])
    side_by_side = _raw(masks[1:], [0.6, 0.5], [0, 0])
    assert len(without_duplicates(side_by_side, nested=0.9).scores) == 2


def test_segments_come_best_first_without_empty_ones() -> None:
    raw = _raw(
        [[[0, 1, 1], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 1]], [[1, 0, 0], [1, 0, 0]]],
        [0.4, 0.99, 0.7, 0.5],
        [1, 0, 2, 0],
    )
    packed = to_segments(best_first(raw, max_instances=2), ("a", "b", "c"))
    assert packed.labels == ("c", "a")
    assert packed.label_indices.tolist() == [2, 0]
    assert packed.scores.tolist() == pytest.approx([0.7, 0.5])
    assert packed.boxes_xyxy.tolist() == [[2, 1, 3, 2], [0, 0, 1, 2]]
    assert packed.decode_masks().tolist() == [[[0, 0, 0], [0, 0, 1]], [[1, 0, 0], [1, 0, 0]]]
    assert packed.scores.dtype == packed.boxes_xyxy.dtype == np.float32
    assert packed.label_indices.dtype == np.int32


def test_a_firm_outline_does_not_depend_on_the_threshold() -> None:
    steep = torch.tensor([[-9.0, 9.0, 9.0, -9.0]])
    soft = torch.tensor([[-1.0, 0.5, 9.0, -0.5]])  # one of four pixels is certain
    assert firmness_of(steep) == 1.0
    assert firmness_of(soft) == 0.25
    assert firmness_of(torch.full((2, 2), -9.0)) == 0.0


def test_a_runner_up_is_another_query_with_the_same_label() -> None:
    p = torch.tensor([[0.9, 0.1], [0.3, 0.6], [0.2, 0.5]])
    found = runners_up(p, torch.tensor([0, 1, 2, 1]), torch.tensor([0, 0, 1, 1]))
    assert found.tolist() == pytest.approx([0.3, 0.9, 0.6, 0.5])
    assert runners_up(p[:1], torch.tensor([0]), torch.tensor([1])).tolist() == [0.0]


def test_nothing_is_packed_as_nothing() -> None:
    packed = to_segments(best_first(_raw([], [], []), max_instances=5), ("a",))
    assert (len(packed), packed.boxes_xyxy.shape, packed.image_hw) == (0, (0, 4), (2, 3))
