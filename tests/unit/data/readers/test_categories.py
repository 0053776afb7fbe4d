"""Prompts that list categories: which ones, how many, in what order, and the masks they refer to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.unit.data.readers.disk import meant, phrases
from xsam.data.readers.categories import CategoryPrompts, read_categories
from xsam.errors import InvalidOptionError, RecordError

NAMES = ("person", "hot-dog", "wall-other-merged", "sky", "tree", "wall")
TEXTS = {"person", "hot dog", "wall", "sky", "tree"}
DRAWS = 200


def test_every_mask_is_meant_by_its_category() -> None:
    draw = CategoryPrompts(NAMES)
    rng = np.random.default_rng(0)
    classes = np.array([3, 0, 1, 0])
    for _ in range(DRAWS):
        prompt = draw.draw(classes, rng, "here")
        listed = phrases(prompt.conversation)
        assert meant(prompt.labels, listed) == ["sky", "person", "hot dog", "person"]
        assert len(set(listed)) == len(listed)
        assert set(listed) <= TEXTS
        assert prompt.kind == "generic"
        assert prompt.labels.dtype == np.int64


def test_the_words_are_those_of_the_project() -> None:
    prompt = CategoryPrompts(["Potted-Plant"]).draw(np.array([0]), np.random.default_rng(0), "here")
    assert prompt.conversation.question == (
        "<|user|>\n<image>\nCan you segment the image based on the following categories: "
        "<p>potted plant</p>? Please output the segmentation masks.<|end|>\n<|assistant|>\n"
    )
    assert prompt.conversation.answer == "Sure, the segmentation result is <SEG>.<|end|>"


def test_categories_that_read_the_same_are_one() -> None:
    draw = CategoryPrompts(NAMES, all_absent_share=1.0)
    prompt = draw.draw(np.array([2, 5]), np.random.default_rng(0), "here")
    listed = phrases(prompt.conversation)
    assert set(listed) == TEXTS
    assert meant(prompt.labels, listed) == ["wall", "wall"]


def test_order_and_number_of_the_absent_ones_vary() -> None:
    draw = CategoryPrompts(NAMES, all_absent_share=0.0)
    rng = np.random.default_rng(0)
    lists = [phrases(draw.draw(np.array([0]), rng, "here").conversation) for _ in range(DRAWS)]
    assert {len(listed) for listed in lists} == {1, 2, 3, 4, 5}
    assert {listed.index("person") for listed in lists} == {0, 1, 2, 3, 4}
    assert {name for listed in lists for name in listed} == TEXTS


@pytest.mark.parametrize(("absent", "lengths"), [(0, {2}), (2, {2, 3, 4})])
def test_the_absent_ones_can_be_limited(absent: int, lengths: set[int]) -> None:
    draw = CategoryPrompts(NAMES, absent_categories=absent)
    rng = np.random.default_rng(0)
    classes = np.array([0, 3])
    lists = [phrases(draw.draw(classes, rng, "here").conversation) for _ in range(DRAWS)]
    assert {len(listed) for listed in lists} == lengths
    assert all({"person", "sky"} <= set(listed) for listed in lists)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_how_often_all_are_asked_for(share: float) -> None:
    draw = CategoryPrompts([f"category {i}" for i in range(80)], all_absent_share=share)
    rng = np.random.default_rng(0)
    full = sum(len(phrases(draw.draw(np.array([0]), rng, "here").conversation)) == 80 for _ in range(DRAWS))
    assert abs(full / DRAWS - share) < 0.12


def test_a_long_list_is_cut_and_the_rest_goes_unasked() -> None:
    draw = CategoryPrompts(NAMES, max_categories=2)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(DRAWS):
        prompt = draw.draw(np.array([0, 1, 3]), rng, "here")
        listed = phrases(prompt.conversation)
        assert len(listed) == 2
        expected = [name if name in listed else None for name in ("person", "hot dog", "sky")]
        assert meant(prompt.labels, listed) == expected
        seen |= set(listed)
    assert seen == {"person", "hot dog", "sky"}


def test_a_picture_without_masks_is_asked_for_something() -> None:
    draw = CategoryPrompts(NAMES, absent_categories=0)
    prompt = draw.draw(np.zeros(0, np.int64), np.random.default_rng(0), "here")
    assert len(phrases(prompt.conversation)) == 1
    assert prompt.labels.shape == (0,)


@pytest.mark.parametrize(
    "options", [{"absent_categories": -1}, {"max_categories": 0}, {"all_absent_share": 1.5}]
)
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptionError):
        CategoryPrompts(NAMES, **options)


def test_ids_become_places_in_the_file() -> None:
    data = {"categories": [{"id": 9, "name": "cup"}, {"id": 2, "name": "book"}]}
    assert read_categories(data, "here") == (("cup", "book"), {9: 0, 2: 1})


@pytest.mark.parametrize(
    "categories",
    [[], [{"id": 1}], [{"id": 1, "name": "-other"}], [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]],
)
def test_malformed_categories_are_refused(categories: list[Any]) -> None:
    with pytest.raises(RecordError, match="here"):
        read_categories({"categories": categories}, "here")
