"""Words of the simulator's language: plurals, articles, and text split into words."""

from __future__ import annotations

import re

_IRREGULAR_PLURALS = {"knife": "knives", "box": "boxes"}
_WORD = re.compile(r"</?p>|[a-z]+|[^\sa-z]")


def split_words(text: str) -> list[str]:
    """Split text into words, punctuation marks, and phrase tags."""
    return _WORD.findall(text)


def plural(category: str) -> str:
    """Return the plural of a category, for example "knives"."""
    return _IRREGULAR_PLURALS.get(category, category + "s")


def with_article(noun: str) -> str:
    """Prepend the indefinite article, for example "an apple"."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun
