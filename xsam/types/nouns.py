"""English nouns in text that is read by people: articles, plurals, and small numbers."""

from __future__ import annotations

NUMBER_WORDS = (
    *("one", "two", "three", "four", "five", "six"),
    *("seven", "eight", "nine", "ten", "eleven", "twelve"),
)

_VES = ("knife", "shelf", "scarf", "loaf", "leaf", "half", "wolf", "calf")
_SINGULAR_IN_S = ("ss", "us", "is")
_SIBILANTS = ("s", "x", "z", "ch", "sh")
_VOWELS = "aeiou"


def with_article(noun: str) -> str:
    """Prepend the indefinite article, for example "an apple"."""
    return ("an " if noun[:1].lower() in tuple(_VOWELS) else "a ") + noun


def plural(noun: str) -> str:
    """Return the regular plural of a noun, of its last word: "kitchen knives", "boxes"; "scissors" stay."""
    if noun.endswith("s") and not noun.endswith(_SINGULAR_IN_S):
        return noun
    if noun.endswith(_VES):
        return noun.removesuffix("e").removesuffix("f") + "ves"
    if noun.endswith(_SIBILANTS):
        return noun + "es"
    if noun.endswith("y") and noun[-2:-1] not in tuple(_VOWELS):
        return noun[:-1] + "ies"
    return noun + "s"


def counted(noun: str, number: int) -> str:
    """Return "a mug", "two mugs", or "12 mugs"."""
    if number == 1:
        return with_article(noun)
    return f"{NUMBER_WORDS[number - 1] if number <= len(NUMBER_WORDS) else number} {plural(noun)}"
