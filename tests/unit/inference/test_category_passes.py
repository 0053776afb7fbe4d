"""More categories than the language model has room for: several passes give what one pass gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from xsam import InvalidQueryError, MaskRle, Query, Segments, Status, XSam
from xsam.inference.category_passes import join_passes, split_categories
from xsam.inference.postprocess import probabilities
from xsam.inference.results import Prediction
from xsam.sim import render, sample_scene

NOTHING = float("-inf")


@pytest.fixture(scope="module")
def engine() -> XSam:
    return XSam.load("tiny", threads=1)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_every_category_is_in_one_part(count: int) -> None:
    query = Query(thing_classes=tuple("abcd"), stuff_classes=tuple("xyz"))
    parts = list(split_categories(query, count))
    assert len(parts) == count
    assert "".join(name for part in parts for name in part.thing_classes) == "abcd"
    assert "".join(name for part in parts for name in part.stuff_classes) == "xyz"
    sizes = [len(part.thing_classes) + len(part.stuff_classes) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def _prediction(logits: list[list[float]], *columns: slice) -> Prediction:
    masks = torch.full((len(columns), 4, 8), -5.0)
    for mask, part in zip(masks, columns, strict=True):
        mask[:, part] = 5.0
    return Prediction(class_logits=torch.tensor(logits), mask_logits=masks)


def _rows(prediction: Prediction) -> tuple[Tensor, Tensor]:
    assert prediction.class_logits is not None
    assert prediction.mask_logits is not None
    return prediction.class_logits, prediction.mask_logits


def test_labels_of_different_passes_compete_for_the_same_pixels() -> None:
    """Alone, each pass was sure of its label for the left object."""
    first = _prediction([[3.0, 0.0], [-4.0, 0.0]], slice(0, 4), slice(6, 8))
    second = _prediction([[-4.0, 2.0, 0.0], [4.0, 2.0, 1.0]], slice(4, 6), slice(0, 4))
    logits, masks = _rows(join_passes([first, second]))
    assert logits.tolist() == [[3, 4, 2, 0], [-4, NOTHING, NOTHING, 0], [NOTHING, -4, 2, 0]]
    assert [(mask > 0).any(dim=0).nonzero().flatten().tolist() for mask in masks] == [
        [0, 1, 2, 3],
        [6, 7],
        [4, 5],
    ]
    assert probabilities(logits)[0].argmax() == 1
    assert float(probabilities(logits)[0, 0]) < 0.5


@pytest.mark.slow
def test_several_passes_find_what_one_finds(engine: XSam) -> None:
    """The same categories with room for all of them, and with room for a part."""
    config = engine.config.llm
    room = config.max_position_embeddings
    names = ("mug", "bowl", "plate", "bottle", "ball", "banana", "apple", "book", "lemon", "teapot")
    for seed in range(4):
        rgb = render(sample_scene(seed), image_hw=(240, 320)).rgb
        for stuff, part in (((), 55), (("table", "wall"), 60)):
            query = Query(thing_classes=names, stuff_classes=stuff, score_threshold=0.3)
            whole = engine.segment(rgb, query).segments
            config.max_position_embeddings = engine.config.num_image_tokens + part
            try:
                with pytest.raises(InvalidQueryError, match="the model has room for"):
                    engine.segment(rgb, Query(text=" ".join(names * 6)))
                parts = engine.segment(rgb, query).segments
            finally:
                config.max_position_embeddings = room
            sure = {
                label: (score, mask)
                for label, score, mask in reversed(_triples(whole))
                if score > 0.8 and label in names
            }
            assert sure, "the scene shows none of them"
            assert parts.scores.tolist() == sorted(parts.scores.tolist(), reverse=True)
            for label, (score, mask) in sure.items():
                same = [s for name, s, m in _triples(parts) if name == label and m.iou(mask) > 0.7]
                assert same, f"{label} is gone"
                assert abs(same[0] - score) < 0.25


def _triples(segments: Segments) -> list[tuple[str, float, MaskRle]]:
    return list(zip(segments.labels, segments.scores.tolist(), segments.masks, strict=True))


@pytest.mark.slow
def test_as_many_categories_as_a_query_may_have(engine: XSam) -> None:
    """The tiny model refused 256, which the query itself allows."""
    names = (*(f"gadget {index}" for index in range(253)), "mug", "bowl", "banana")
    result = engine.segment(render(sample_scene(0), image_hw=(240, 320)).rgb, Query(thing_classes=names))
    assert result.status is not Status.REFUSED
    assert np.isfinite(result.segments.scores).all()


def test_a_category_that_does_not_fit_alone_is_refused(engine: XSam) -> None:
    query = Query(thing_classes=("long " * 190, "mug"))
    config = engine.config.llm
    room, config.max_position_embeddings = config.max_position_embeddings, engine.config.num_image_tokens + 90
    try:
        with pytest.raises(InvalidQueryError, match="the model has room for"):
            engine.segment(np.zeros((40, 40, 3), np.uint8), query)
    finally:
        config.max_position_embeddings = room
