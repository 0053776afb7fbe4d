"""Phrases of a language model: converting them to queries, and simpler ones to suggest when nothing fits."""

from __future__ import annotations

from xsam.types.requests import Query, Task

_DETERMINERS = frozenset(("a", "an", "all", "any", "each", "every", "some", "the"))
_AFTER_NOUN = frozenset(
    (
        *("above", "at", "behind", "below", "beneath", "beside", "between", "by", "closest", "for", "from"),
        *("furthest", "in", "inside", "left", "near", "nearest", "next", "of", "on", "over", "right", "that"),
        *("to", "under", "which", "with", "without"),
    )
)
_SINGULAR_ENDINGS = ("ss", "us", "is")
_COUNTS = frozenset(("both", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"))


def query_from_phrase(phrase: str) -> Query:
    """Convert a phrase to a query.

    "…?" is a question for reasoning; "the …" refers to one object; anything else is a category of
    which every instance is wanted, without its leading "a", "all the" and the like.
    """
    if phrase.rstrip().endswith("?"):
        return Query(text=phrase, task=Task.REASONING)
    if _words(phrase)[:1] == ["the"]:
        return Query(text=phrase, task=Task.REFERRING)
    return Query(thing_classes=(_without_determiners(phrase) or phrase,))


def expects_one_object(phrase: str) -> bool:
    """Return whether the phrase is "the" with a singular noun ("the mug on the shelves", not "the mugs")."""
    words = _words(phrase)
    if phrase.rstrip().endswith("?") or words[:1] != ["the"] or _COUNTS & set(words[1:2]):
        return False
    noun = _noun(phrase)
    return not noun.endswith("s") or noun.endswith(_SINGULAR_ENDINGS)


def simpler_nouns(phrase: str) -> list[str]:
    """Return shorter phrases to search for instead: the last two words of the noun phrase, and its last one.

    Both, because only a dictionary could tell "teddy bear" from "red mug". Empty when the phrase is a bare
    noun already, or a question.
    """
    if phrase.rstrip().endswith("?"):
        return []
    words = _noun_words(phrase)
    whole = _without_determiners(phrase).lower()
    shorter = [" ".join(words[-2:]), *words[-1:]]
    return [noun for noun in dict.fromkeys(shorter) if noun and noun != whole]


def _words(phrase: str) -> list[str]:
    return phrase.lower().split()


def _without_determiners(phrase: str) -> str:
    words = phrase.split()
    while words and words[0].lower() in _DETERMINERS:
        words.pop(0)
    return " ".join(words)


def _noun(phrase: str) -> str:
    """Return the last word before the first preposition: "the red mug on the tray" → "mug"."""
    return next(iter(_noun_words(phrase)[::-1]), "")


def _noun_words(phrase: str) -> list[str]:
    """Return the words up to the first preposition, without determiners and punctuation: red, mug."""
    words: list[str] = []
    for word in _words(_without_determiners(phrase)):
        if words and word in _AFTER_NOUN:
            break
        if cleaned := word.strip(",.;:!'\""):
            words.append(cleaned)
    return words
