"""From logits to segments, against sums done by hand. No fixture is symmetric: swapped axes must show."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from xsam import Frame, Query, SegmentationResult, Status, Task, VisualPrompt
from xsam.config import XSamConfig
from xsam.inference.postprocess import (
    UnlabeledSegments,
    best_query,
    instances,
    matching_queries,
    most_overlapping,
    panoptic,
    probabilities,
    semantic_bands,
    to_segments,
    without_duplicates,
)
from xsam.inference.preprocess import prompt_mask
from xsam.inference.results import Prediction, compose, plain_text
from xsam.inference.upsample import MaskGeometry

# A picture of 2×3 pixels fills the upper part of a square of 3×3, so up-sampling changes nothing.
SMALL = MaskGeometry(side=3, scaled_hw=(2, 3), image_hw=(2, 3))
GOLDEN = XSamConfig.read(Path(__file__).parents[2] / "golden" / "data" / "a" / "config.json")


def _classes(*rows: Sequence[float]) -> Tensor:
    """Class logits whose softmax gives these probabilities; background makes up for the rest."""
    return torch.tensor([[*row, 1 - sum(row)] for row in rows], dtype=torch.float64).log().float() + 1.7


def _logit(p: float) -> float:
    return math.log(p / (1 - p))


def _masks(*pictures: Sequence[Sequence[float]]) -> Tensor:
    """Mask logits whose sigmoid gives these 2×3 probabilities; the padding row says "object"."""
    return torch.tensor([[[_logit(p) for p in row] for row in picture] + [[9.0] * 3] for picture in pictures])


def _decoded(found: UnlabeledSegments) -> Tensor:
    masks = [mask.decode() for mask in found.masks]
    return torch.from_numpy(np.array(masks, np.bool_).reshape(-1, *found.image_hw))


def _pixels(mask: Tensor) -> set[tuple[int, int]]:
    return {(int(row), int(column)) for row, column in mask.nonzero()}


NO, YES = 0.1, 0.9
LEFT = [[YES, NO, NO], [YES, NO, NO]]
TOP = [[YES, YES, YES], [NO, NO, NO]]
CORNER = [[NO, NO, NO], [NO, NO, YES]]


# --------------------------------------------------------------------------------------- up-sampling


def test_masks_are_interpolated_before_the_threshold() -> None:
    """−1 and 5 at twice the size are −1, ½, 3½, 5: three pixels of object, where nearest gives two."""
    geometry = MaskGeometry(side=4, scaled_hw=(4, 4), image_hw=(4, 4))
    up = geometry.upsample(torch.tensor([[[-1.0, 5.0], [-1.0, 5.0]]]))
    torch.testing.assert_close(up[0, 2], torch.tensor([-1.0, 0.5, 3.5, 5.0]))


def test_the_padding_is_cut_off_before_the_picture_is_stretched() -> None:
    geometry = MaskGeometry(side=4, scaled_hw=(2, 4), image_hw=(4, 8))
    logits = torch.full((1, 4, 4), -5.0)
    logits[0, 1:, 3] = 5.0  # row 1 is the lower half of the picture, rows 2 and 3 are padding
    mask = geometry.upsample(logits)[0] > 0
    assert mask.shape == (4, 8)
    assert _pixels(mask) == {(row, column) for row in (2, 3) for column in (6, 7)}


def test_no_masks_have_the_size_of_the_picture() -> None:
    assert SMALL.upsample(torch.zeros(0, 3, 3)).shape == (0, 2, 3)


def test_background_takes_its_share() -> None:
    logits = torch.tensor([[1.0, 2.0, 5.0], [4.0, 4.0, 2.0]]).log()
    torch.testing.assert_close(probabilities(logits), torch.tensor([[0.125, 0.25], [0.4, 0.4]]))


def test_a_padded_condition_has_no_probability() -> None:
    logits = torch.tensor([[3.0, 0.0, 1.0]]).log()
    torch.testing.assert_close(probabilities(logits), torch.tensor([[0.75, 0.0]]))


# ---------------------------------------------------------------------------------------- one by one


def test_best_query_of_each_condition() -> None:
    classes = _classes((0.1, 0.7), (0.6, 0.3), (0.2, 0.2))
    found = best_query(classes, _masks(LEFT, TOP, CORNER), SMALL)
    assert found.label_indices.tolist() == [0, 1]
    torch.testing.assert_close(found.scores, torch.tensor([0.6, 0.7]))
    assert [_pixels(mask) for mask in _decoded(found)] == [{(0, 0), (0, 1), (0, 2)}, {(0, 0), (1, 0)}]


def test_one_query_may_be_the_best_for_two_conditions() -> None:
    found = best_query(_classes((0.4, 0.5), (0.3, 0.1)), _masks(LEFT, TOP), SMALL)
    assert [_pixels(mask) for mask in _decoded(found)] == [{(0, 0), (1, 0)}] * 2


def test_every_query_above_the_threshold_matches_once() -> None:
    nearly_left = [[0.95, NO, NO], [0.55, NO, NO]]
    classes = _classes((0.6,), (0.55,), (0.4,), (0.9,))
    found = matching_queries(classes, _masks(nearly_left, CORNER, TOP, LEFT), SMALL, threshold=0.5)
    assert found.scores.tolist() == pytest.approx([0.9, 0.55])
    assert [_pixels(mask) for mask in _decoded(found)] == [{(0, 0), (1, 0)}, {(1, 2)}]


def test_without_a_match_the_best_query_answers() -> None:
    classes = _classes((0.2, 0.05), (0.3, 0.6), (0.1, 0.2))
    found = matching_queries(classes, _masks(LEFT, TOP, CORNER), SMALL, threshold=0.5)
    answers = {int(label): (float(s), _pixels(m)) for label, s, m in _rows(found)}
    assert answers[0] == (pytest.approx(0.3), {(0, 0), (0, 1), (0, 2)})
    assert answers[1] == (pytest.approx(0.6), {(0, 0), (0, 1), (0, 2)})
    assert len(found.scores) == 2


def _rows(found: UnlabeledSegments) -> list[tuple[Tensor, Tensor, Tensor]]:
    return list(zip(found.label_indices, found.scores, _decoded(found), strict=True))


# ----------------------------------------------------------------------------------------- instances


def test_the_score_of_an_instance_is_class_times_certainty_inside() -> None:
    """0.5 × (0.75 + 0.75 + 0.9) / 3 = 0.4; what lies outside the mask does not count."""
    masks = _masks([[0.75, 0.75, 0.2], [0.9, 0.01, 0.4]])
    found = instances(_classes((0.1, 0.5)), masks, SMALL, threshold=0.39)
    assert found.label_indices.tolist() == [1]
    assert float(found.scores[0]) == pytest.approx(0.4, abs=1e-5)
    assert _pixels(_decoded(found)[0]) == {(0, 0), (0, 1), (1, 0)}
    assert len(instances(_classes((0.1, 0.5)), masks, SMALL, threshold=0.41).scores) == 0


def test_as_many_pairs_as_queries_compete() -> None:
    """Two queries and three classes make six pairs; the two best are both of the first query."""
    classes = _classes((0.45, 0.05, 0.4), (0.3, 0.2, 0.35))
    found = instances(classes, _masks(TOP, CORNER), SMALL, threshold=0.0)
    pairs = {(int(label), round(float(score), 3)) for label, score, _ in _rows(found)}
    assert pairs == {(0, round(0.45 * YES, 3)), (2, round(0.4 * YES, 3))}
    assert all(len(_pixels(mask)) == 3 for mask in _decoded(found))


def test_no_instances_at_all() -> None:
    found = instances(_classes((0.3,), (0.2,)), _masks(LEFT, TOP), SMALL, threshold=1.0)
    assert _decoded(found).shape == (0, 2, 3)
    assert found.scores.shape == found.label_indices.shape == (0,)


def test_an_empty_mask_scores_nothing() -> None:
    found = instances(_classes((0.9,)), _masks([[NO] * 3] * 2), SMALL, threshold=0.0)
    assert float(found.scores[0]) == 0.0


# --------------------------------------------------------------------------------- overlap with prompt


def _raw(
    pictures: Sequence[Sequence[Sequence[int]]], scores: Sequence[float], labels: Sequence[int]
) -> UnlabeledSegments:
    masks = np.array(pictures, np.bool_).reshape(-1, 2, 3)
    return UnlabeledSegments.of_masks(masks, torch.tensor(labels), torch.tensor(scores), (2, 3))


def test_the_tightest_mask_around_the_prompt_wins() -> None:
    """The large mask holds more of the prompt and scores better, but overlaps it less."""
    large, tight, beside = [[1, 1, 1], [1, 1, 1]], [[0, 1, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 1]]
    candidates = _raw([large, tight, beside], [0.9, 0.3, 0.8], [0, 0, 0])
    prompt = np.array([[False, True, True], [False, False, False]])
    chosen = most_overlapping(candidates, prompt)  # 2/6, 1/2, 0/3
    assert len(chosen.scores) == 1
    assert float(chosen.scores[0]) == pytest.approx(0.3)
    assert _pixels(_decoded(chosen)[0]) == {(0, 1)}


def test_nothing_overlaps_with_nothing() -> None:
    none = _raw([], [], [])
    assert len(most_overlapping(none, np.ones((2, 3), np.bool_)).scores) == 0


# ----------------------------------------------------------------------------------------- semantic


def test_weak_queries_of_one_class_add_up() -> None:
    """Pixel (0, 2): one query says 0.6 · 0.9 = 0.54, two others 0.4 · 0.8 · 2 = 0.64 for the other class."""
    classes = _classes((0.6, 0.1), (0.05, 0.4), (0.05, 0.4))
    first = [[0.9, 0.9, 0.9], [0.9, 0.9, 0.9]]
    second = [[0.1, 0.1, 0.8], [0.1, 0.9, 0.1]]
    third = [[0.1, 0.1, 0.8], [0.1, 0.1, 0.1]]
    bands = semantic_bands(classes, _masks(first, second, third), SMALL)
    assert torch.cat([band for _, _, band in bands]).tolist() == [[0, 0, 1], [0, 0, 0]]


# ----------------------------------------------------------------------------------------- panoptic

FIVE = MaskGeometry(side=6, scaled_hw=(2, 6), image_hw=(2, 6))


def _strip(*rows: str) -> list[list[float]]:
    """A 6×6 picture of logits from two rows of text: # object, + weak object, . nothing."""
    value = {"#": 6.0, "+": 0.9, ".": -6.0}
    return [[value[c] for c in row] for row in rows] + [[6.0] * 6] * 4


def test_a_segment_that_lost_a_fifth_is_dropped() -> None:
    """The second query owns 5 pixels and keeps 4: 0.8 is not more than 0.8."""
    classes = _classes((0.95, 0.01), (0.02, 0.9))
    masks = torch.tensor([_strip("##....", "......"), _strip(".#####", "......")])
    found = panoptic(classes, masks, FIVE, stuff=())
    assert found.label_indices.tolist() == [0]
    assert _pixels(_decoded(found)[0]) == {(0, 0), (0, 1)}


def test_a_segment_that_lost_a_sixth_keeps_the_rest() -> None:
    classes = _classes((0.95, 0.01), (0.02, 0.9))
    masks = torch.tensor([_strip("##....", "......"), _strip(".#####", "#.....")])
    found = panoptic(classes, masks, FIVE, stuff=())
    assert found.label_indices.tolist() == [0, 1]
    assert found.scores.tolist() == pytest.approx([0.95, 0.9])
    assert _pixels(_decoded(found)[0]) == {(0, 0), (0, 1)}
    assert _pixels(_decoded(found)[1]) == {(0, 2), (0, 3), (0, 4), (0, 5), (1, 0)}


def test_the_class_score_weighs_in_a_fight_for_pixels() -> None:
    """0.98 · sigmoid(0.9) = 0.70 beats 0.6 · sigmoid(6) = 0.60, though its mask is the weaker one."""
    classes = _classes((0.98, 0.01), (0.01, 0.6))
    masks = torch.tensor([_strip("++++..", "......"), _strip("...###", "######")])
    found = panoptic(classes, masks, FIVE, stuff=())
    assert found.label_indices.tolist() == [0, 1]
    assert _pixels(_decoded(found)[0]) == {(0, 0), (0, 1), (0, 2), (0, 3)}
    assert (0, 3) not in _pixels(_decoded(found)[1])


def test_stuff_becomes_one_segment_and_things_stay_apart() -> None:
    rows = [(0.01, 0.7), (0.8, 0.01), (0.01, 0.9), (0.75, 0.01)]
    pictures = [("##....", "......"), ("..#...", "......"), ("......", "####.."), ("......", "....##")]
    found = panoptic(_classes(*rows), torch.tensor([_strip(*p) for p in pictures]), FIVE, stuff=range(1, 2))
    assert sorted(found.label_indices.tolist()) == [0, 0, 1]
    floor = int((found.label_indices == 1).nonzero()[0, 0])
    assert float(found.scores[floor]) == pytest.approx(0.9)
    assert _pixels(_decoded(found)[floor]) == {(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (1, 3)}
    assert int(_decoded(found).sum(dim=0).max()) == 1


@pytest.mark.parametrize(
    ("row", "picture"),
    [
        ((0.3, 0.2), ("######", "######")),  # below the threshold
        ((0.01, 0.02), ("######", "######")),  # background
        ((0.9, 0.01), ("......", "......")),  # no pixels
    ],
)
def test_a_picture_of_nothing_has_no_segments(row: tuple[float, float], picture: tuple[str, str]) -> None:
    found = panoptic(_classes(row), torch.tensor([_strip(*picture)]), FIVE, stuff=())
    assert _decoded(found).shape == (0, 2, 6)
    assert _decoded(found).dtype == torch.bool
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
    packed = to_segments(raw, ("a", "b", "c"), max_instances=2)
    assert packed.labels == ("c", "a")
    assert packed.label_indices.tolist() == [2, 0]
    assert packed.scores.tolist() == pytest.approx([0.7, 0.5])
    assert packed.boxes_xyxy.tolist() == [[2, 1, 3, 2], [0, 0, 1, 2]]
    assert packed.decode_masks().tolist() == [[[0, 0, 0], [0, 0, 1]], [[1, 0, 0], [1, 0, 0]]]
    assert packed.scores.dtype == packed.boxes_xyxy.dtype == np.float32
    assert packed.label_indices.dtype == np.int32


def test_nothing_is_packed_as_nothing() -> None:
    packed = to_segments(_raw([], [], []), ("a",), max_instances=5)
    assert (len(packed), packed.boxes_xyxy.shape, packed.image_hw) == (0, (0, 4), (2, 3))


# --------------------------------------------------------------------------- crops and bands

GEOMETRIES = [((64, 128), 128), ((97, 31), 64), ((3, 200), 96), ((480, 640), 512), ((1, 1), 32)]


@pytest.mark.parametrize(("image_hw", "side"), GEOMETRIES)
def test_a_crop_holds_all_that_is_positive(image_hw: tuple[int, int], side: int) -> None:
    geometry = MaskGeometry.for_image(image_hw, side)
    generator = torch.Generator().manual_seed(0)
    for size, islands in ((16, 1), (16, 3), (12, 40), (16, 0)):
        logits = torch.randn(size, size, generator=generator) - 4.0
        logits.view(-1)[torch.randperm(size * size, generator=generator)[:islands]] = 5.0
        whole = geometry.upsample(logits[None])[0]
        crop, top, left = geometry.crop(logits)
        outside = whole.clone()
        outside[top : top + crop.shape[0], left : left + crop.shape[1]] = -1.0
        assert not (outside > 0).any()
        part = whole[top : top + crop.shape[0], left : left + crop.shape[1]]
        torch.testing.assert_close(crop, part, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(("image_hw", "side"), GEOMETRIES)
def test_bands_make_up_the_whole(
    image_hw: tuple[int, int], side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    geometry = MaskGeometry.for_image(image_hw, side)
    logits = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(1))
    whole = geometry.upsample(logits)
    for rows in (1, 7, 10_000):
        monkeypatch.setattr("xsam.inference.upsample.BAND_BYTES", rows * 3 * image_hw[1] * 4)
        bands = list(geometry.bands(logits))
        assert [top for top, _ in bands] == list(range(0, image_hw[0], rows))
        torch.testing.assert_close(torch.cat([band for _, band in bands], dim=1), whole, atol=1e-4, rtol=1e-5)


# ------------------------------------------------------------------------------------------ answers

CONFIG = dataclasses.replace(GOLDEN, instance_threshold=0.5, reject_below=0.0, one_mask_per_object=False)
FRAME = Frame(rgb=np.zeros((64, 128, 3), np.uint8))  # the upper half of a square of 128
RIGHT_PART, BELOW_PART = (slice(0, 16), slice(20, 32)), (slice(10, 16), slice(0, 12))


def _answer(query: Query, classes: Tensor, *parts: tuple[slice, slice], text: str = "") -> SegmentationResult:
    """The composed answer to queries that mark parts of a map of 32×32, of which 16×32 are picture."""
    masks = torch.full((len(parts), 32, 32), -8.0)
    for mask, part in zip(masks, parts, strict=True):
        mask[part] = 8.0
    raw = Prediction(class_logits=classes, mask_logits=masks, text=text)
    region = prompt_mask(query.prompts, FRAME.image_hw) if query.prompts else None
    task = query.resolved_task()
    return compose(raw, query, FRAME, CONFIG, task=task, prompt_region=region, model_id="m")


def test_one_stuff_class_does_not_fill_the_picture() -> None:
    """Each pixel went to the likeliest class: asked for one class alone, that class got every pixel."""
    query = Query(stuff_classes=("floor",))
    result = _answer(query, _classes((0.9,), (0.02,)), RIGHT_PART, BELOW_PART)
    assert result.status is Status.FOUND
    assert result.masks.shape == (1, 64, 128)
    assert result.masks[0, :, 82:].all()
    assert not result.masks[0, :, :78].any()


def test_stuff_that_is_not_there_is_not_found() -> None:
    """Without a threshold every class got the pixels where it was the least unlikely."""
    query = Query(stuff_classes=("floor", "wall"))
    result = _answer(query, _classes((0.9, 0.05), (0.02, 0.3)), RIGHT_PART, BELOW_PART)
    assert result.segments.labels == ("floor",)
    nothing = _answer(query, _classes((0.2, 0.05), (0.02, 0.3)), RIGHT_PART, BELOW_PART)
    assert nothing.status is Status.NOT_FOUND
    assert "0.30" in nothing.message
    modest = dataclasses.replace(query, score_threshold=0.1)
    assert set(
        _answer(modest, _classes((0.9, 0.05), (0.02, 0.3)), RIGHT_PART, BELOW_PART).segments.labels
    ) == {
        "floor",
        "wall",
    }


def test_categories_are_labeled_by_what_was_asked() -> None:
    query = Query(thing_classes=("Red-Mug",), stuff_classes=("floor-other-merged",))
    result = _answer(query, _classes((0.02, 0.8), (0.9, 0.02)), RIGHT_PART, BELOW_PART)
    assert result.segments.labels == ("Red-Mug", "floor-other-merged")
    assert result.segments.label_indices.tolist() == [0, 1]


def test_a_threshold_makes_a_phrase_not_found() -> None:
    classes = _classes((0.4,), (0.3,))
    assert _answer(Query(text="a mug"), classes, RIGHT_PART, BELOW_PART).found
    refused = _answer(Query(text="a mug", score_threshold=0.41), classes, RIGHT_PART, BELOW_PART)
    assert refused.status is Status.NOT_FOUND
    assert len(refused) == 0
    assert "'a mug'" in refused.message
    assert "0.40" in refused.message


def test_a_point_chooses_among_the_likely_masks() -> None:
    for x_px, part in ((120, 0), (8, 1)):
        query = Query(prompts=(VisualPrompt.box(x_px - 8, 44, x_px + 8, 64),))
        result = _answer(query, _classes((0.6,), (0.58,)), RIGHT_PART, BELOW_PART)
        assert len(result) == 1
        assert bool(result.masks[0, 50, 120]) is (part == 0)
        assert bool(result.masks[0, 50, 8]) is (part == 1)


def test_regions_are_numbered_like_the_positive_prompts() -> None:
    point, away = VisualPrompt.point(5, 5), VisualPrompt.point(9, 9, positive=False)
    query = Query(prompts=(point, away, point))
    result = _answer(query, _classes((0.02, 0.8), (0.9, 0.02)), RIGHT_PART, BELOW_PART)
    assert result.segments.labels == ("region 1", "region 2")


def test_phrases_of_a_caption_are_labels() -> None:
    query = Query(task=Task.GROUNDED_CONVERSATION)
    text = "<p>a  red mug</p> and <p>the floor</p> . The segmentation mask is <SEG>.<|end|>"
    result = _answer(query, _classes((0.02, 0.8), (0.9, 0.02)), RIGHT_PART, BELOW_PART, text=text)
    assert result.phrases == ("a red mug", "the floor")
    assert result.text == "a red mug and the floor."
    assert [(label, bool(mask[50, 120])) for label, _, mask in result] == [
        ("a red mug", False),
        ("the floor", True),
    ]


@pytest.mark.parametrize(
    ("generated", "plain"),
    [
        ("It is a mug. The segmentation mask is <SEG>.<|end|>", "It is a mug."),
        ("Sure, it is <SEG>.<|end|>", ""),
        (
            "you can use <p>the red mug</p> . The segmentation mask is <SEG>.<|end|>",
            "you can use the red mug.",
        ),
        ("I see <p>a dog</p> <SEG>.", "I see a dog."),
        ("I see <p>a dog <SEG>.", "I see"),
        ("<p>a dog</p> <SEG> <SEG>", "a dog"),
        ("A mug.<|end|> rest that nobody asked for", "A mug."),
        ("Is it here ? Yes , it is !", "Is it here? Yes, it is!"),
        ("", ""),
    ],
)
def test_no_tags_in_what_people_read(generated: str, plain: str) -> None:
    """`<SEG>` behind a phrase once stayed in the text, and half a tag before an unclosed one."""
    assert plain_text(generated) == plain
