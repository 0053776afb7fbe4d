"""Results composed from logits, task by task."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from support.golden import GOLDEN
from tests.unit.inference.logits import class_logits
from xsam import Frame, Query, SegmentationResult, Status, Task, VisualPrompt
from xsam.config import XSamConfig
from xsam.config.calibration import Calibration
from xsam.inference.prompt_masks import prompt_mask
from xsam.inference.results import Prediction, compose, plain_text

GOLDEN_CONFIG = XSamConfig.read(GOLDEN / "a" / "config.json")

CONFIG = dataclasses.replace(
    GOLDEN_CONFIG, instance_threshold=0.5, reject_below=0.0, one_mask_per_object=False
)
FRAME = Frame(rgb=np.zeros((64, 128, 3), np.uint8))  # the upper half of a square of 128
RIGHT_PART, BELOW_PART = (slice(0, 16), slice(20, 32)), (slice(10, 16), slice(0, 12))


def _answer(
    query: Query,
    classes: Tensor,
    *parts: tuple[slice, slice],
    text: str = "",
    config: XSamConfig = CONFIG,
) -> SegmentationResult:
    """Compose the result of queries that mark parts of a 32×32 map, of which 16×32 are image."""
    masks = torch.full((len(parts), 32, 32), -8.0)
    for mask, part in zip(masks, parts, strict=True):
        mask[part] = 8.0
    raw = Prediction(class_logits=classes, mask_logits=masks, text=text)
    region = prompt_mask(query.prompts, FRAME.image_hw) if query.prompts else None
    task = query.resolved_task()
    return compose(raw, query, FRAME, config, task=task, prompt_region=region, model_id="m")[0]


def test_one_stuff_class_does_not_fill_the_picture() -> None:
    """Each pixel once went to the likeliest class, so a single requested class got every pixel."""
    query = Query(stuff_classes=("floor",))
    result = _answer(query, class_logits((0.9,), (0.02,)), RIGHT_PART, BELOW_PART)
    assert result.status is Status.FOUND
    assert result.masks.shape == (1, 64, 128)
    assert result.masks[0, :, 82:].all()
    assert not result.masks[0, :, :78].any()


def test_stuff_that_is_not_there_is_not_found() -> None:
    """Without a threshold, every class got the pixels where it was the least unlikely."""
    query = Query(stuff_classes=("floor", "wall"))
    result = _answer(query, class_logits((0.9, 0.05), (0.02, 0.3)), RIGHT_PART, BELOW_PART)
    assert result.segments.labels == ("floor",)
    nothing = _answer(query, class_logits((0.2, 0.05), (0.02, 0.3)), RIGHT_PART, BELOW_PART)
    assert nothing.status is Status.NOT_FOUND
    assert "0.30" in nothing.message
    modest = dataclasses.replace(query, score_threshold=0.1)
    assert set(
        _answer(modest, class_logits((0.9, 0.05), (0.02, 0.3)), RIGHT_PART, BELOW_PART).segments.labels
    ) == {
        "floor",
        "wall",
    }


def test_categories_are_labeled_by_what_was_asked() -> None:
    query = Query(thing_classes=("Red-Mug",), stuff_classes=("floor-other-merged",))
    result = _answer(query, class_logits((0.02, 0.8), (0.9, 0.02)), RIGHT_PART, BELOW_PART)
    assert result.segments.labels == ("Red-Mug", "floor-other-merged")
    assert result.segments.label_indices.tolist() == [0, 1]


def test_a_list_shows_what_is_there_and_has_no_clear_category() -> None:
    calibration = Calibration(known_categories=(), sure_from=0.8, weights={}, thresholds={"categories": 0.6})
    config = dataclasses.replace(CONFIG, calibration=calibration)
    query = Query(thing_classes=("mug", "box"))
    split = class_logits((0.5, 0.45))
    assert _answer(query, split, RIGHT_PART, config=config).segments.labels == ("mug",)
    own = dataclasses.replace(query, score_threshold=0.6)
    assert len(_answer(own, split, RIGHT_PART, config=config)) == 0
    assert (
        len(_answer(query, split, RIGHT_PART, config=dataclasses.replace(CONFIG, instance_threshold=0.6)))
        == 0
    )


def test_kinds_of_queries_have_thresholds_of_their_own() -> None:
    calibration = Calibration(
        known_categories=(), sure_from=0.8, weights={}, thresholds={"category": 0.7, "look_alike": 0.3}
    )
    config = dataclasses.replace(CONFIG, calibration=calibration)
    point = (VisualPrompt.point(100, 10),)
    for query, least in (
        (Query(thing_classes=("mug",)), 0.7),
        (Query(task=Task.VISUAL_GROUNDED, prompts=point), 0.3),
        (Query(thing_classes=("mug",), score_threshold=0.1), 0.1),
        (Query(stuff_classes=("floor",), thing_classes=("mug",)), 0.5),
    ):
        names = len(query.thing_classes + query.stuff_classes) or 1
        for score in (least + 0.05, least - 0.05):
            scores = (score, *(0.0,) * (names - 1))
            result = _answer(query, class_logits(scores), RIGHT_PART, config=config)
            assert (result.status is Status.FOUND) == (score > least), (query, score)


def test_a_threshold_makes_a_phrase_not_found() -> None:
    classes = class_logits((0.4,), (0.3,))
    assert _answer(Query(text="a mug"), classes, RIGHT_PART, BELOW_PART).found
    refused = _answer(Query(text="a mug", score_threshold=0.41), classes, RIGHT_PART, BELOW_PART)
    assert refused.status is Status.NOT_FOUND
    assert len(refused) == 0
    assert "'a mug'" in refused.message
    assert "0.40" in refused.message


def test_a_point_chooses_among_the_likely_masks() -> None:
    for x_px, part in ((120, 0), (8, 1)):
        query = Query(prompts=(VisualPrompt.box(x_px - 8, 44, x_px + 8, 64),))
        result = _answer(query, class_logits((0.6,), (0.58,)), RIGHT_PART, BELOW_PART)
        assert len(result) == 1
        assert bool(result.masks[0, 50, 120]) is (part == 0)
        assert bool(result.masks[0, 50, 8]) is (part == 1)


def test_an_unlikely_mask_does_not_win_by_its_overlap_with_the_prompt() -> None:
    """The reference compares masks with a score of at least 0.5 with the region, or the best one."""
    region = np.zeros((64, 128), np.bool_)
    region[0:64, 88:128] = True  # RIGHT_PART covers it best, BELOW_PART not at all
    query = Query(task=Task.INTERACTIVE, prompts=(VisualPrompt.from_mask(region),))
    result = _answer(query, class_logits((0.1,), (0.9,)), RIGHT_PART, BELOW_PART)
    assert (bool(result.masks[0, 50, 8]), bool(result.masks[0, 50, 120])) == (True, False)
    none_likely = _answer(query, class_logits((0.1,), (0.3,)), RIGHT_PART, BELOW_PART)
    assert bool(none_likely.masks[0, 50, 8])
    anything = dataclasses.replace(query, score_threshold=0.0)
    assert bool(_answer(anything, class_logits((0.1,), (0.9,)), RIGHT_PART, BELOW_PART).masks[0, 50, 120])


def test_a_semantic_query_with_threshold_0_labels_every_pixel() -> None:
    query = Query(stuff_classes=("floor", "wall"), score_threshold=0.0)
    result = _answer(query, class_logits((0.9, 0.05), (0.02, 0.3)), RIGHT_PART, BELOW_PART)
    assert result.masks.any(axis=0).all()


def test_regions_are_numbered_like_the_positive_prompts() -> None:
    point, away = VisualPrompt.point(5, 5), VisualPrompt.point(9, 9, positive=False)
    query = Query(prompts=(point, away, point))
    result = _answer(query, class_logits((0.02, 0.8), (0.9, 0.02)), RIGHT_PART, BELOW_PART)
    assert result.segments.labels == ("region 1", "region 2")


def test_phrases_of_a_caption_are_labels() -> None:
    query = Query(task=Task.GROUNDED_CONVERSATION)
    text = "<p>a  red mug</p> and <p>the floor</p> . The segmentation mask is <SEG>.<|end|>"
    result = _answer(query, class_logits((0.02, 0.8), (0.9, 0.02)), RIGHT_PART, BELOW_PART, text=text)
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
    """`<SEG>` after a phrase once stayed in the text, and so did half a tag before an unclosed one."""
    assert plain_text(generated) == plain


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the mug", 2),
        ("the leftmost mug", 1),
        ("the second mug from the left", 1),
        ("the mug left of the bottle", 1),
        ("the mugs left of the bottle", 2),
    ],
)
def test_a_phrase_that_compares_means_one(text: str, expected: int) -> None:
    """With one mask per object, a second mug beside "the leftmost mug" is wrong by the words alone."""
    query = Query(text=text)
    masks = torch.full((2, 32, 32), -8.0)
    masks[0][RIGHT_PART] = masks[1][BELOW_PART] = 8.0
    raw = Prediction(class_logits=class_logits((0.8,), (0.7,)), mask_logits=masks)
    config = dataclasses.replace(CONFIG, one_mask_per_object=True)
    result, _ = compose(raw, query, FRAME, config, task=Task.REFERRING)
    assert len(result) == expected
    assert result.segments.scores[0] == pytest.approx(0.8, abs=1e-3)
