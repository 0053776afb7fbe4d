"""Plurals, articles and small numbers."""

from __future__ import annotations

import pytest

from xsam.types.nouns import counted, plural, with_article


@pytest.mark.parametrize(
    ("noun", "several"),
    [
        ("mug", "mugs"),
        ("kitchen knife", "kitchen knives"),
        ("shelf", "shelves"),
        ("box", "boxes"),
        ("glass", "glasses"),
        ("bus", "buses"),
        ("brush", "brushes"),
        ("battery", "batteries"),
        ("toy", "toys"),
        ("scissors", "scissors"),
    ],
)
def test_plurals(noun: str, several: str) -> None:
    assert plural(noun) == several


def test_articles_and_numbers() -> None:
    assert [with_article(noun) for noun in ("apple", "mug", "")] == ["an apple", "a mug", "a "]
    assert [counted("orange box", number) for number in (1, 2, 12, 13)] == [
        "an orange box",
        "two orange boxes",
        "twelve orange boxes",
        "13 orange boxes",
    ]
