"""How the words of a language model become queries, and what to suggest when nothing fits."""

from __future__ import annotations

from xsam.structures import Query, Task

_DETERMINERS = frozenset(("a", "an", "all", "any", "each", "every", "some", "the"))
_AFTER_THE_NOUN = frozenset(
    (
        *("above", "at", "behind", "below", "beneath", "beside", "between", "by", "closest", "for", "from"),
        *("furthest", "in", "inside", "left", "near", "nearest", "next", "of", "on", "over", "right", "that"),
        *("to", "under", "which", "with", "without"),
    )
)
_SINGULAR_ENDINGS = ("ss", "us", "is")
_COUNTS = frozenset(("both", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"))


def query_for(phrase: str) -> Query:
    """The query that a phrase stands for.

    "…?" is reasoned about; "the …" means one object (referring); anything else is a category of
    which every instance is wanted, without its leading "a", "all the" and the like.
    """
    if phrase.rstrip().endswith("?"):
        return Query(text=phrase, task=Task.REASONING)
    if _words(phrase)[:1] == ["the"]:
        return Query(text=phrase, task=Task.REFERRING)
    return Query(thing_classes=(_without_determiners(phrase) or phrase,))


def means_one(phrase: str) -> bool:
    """Whether the phrase says "the" of a single thing ("the mug on the shelves", not "the two mugs")."""
    words = _words(phrase)
    if phrase.rstrip().endswith("?") or words[:1] != ["the"] or _COUNTS & set(words[1:2]):
        return False
    noun = _noun(phrase)
    return not noun.endswith("s") or noun.endswith(_SINGULAR_ENDINGS)


def simpler_noun(phrase: str) -> str:
    """The bare noun of a longer phrase, "" when the phrase is that already or is a question."""
    if phrase.rstrip().endswith("?"):
        return ""
    noun = _noun(phrase)
    return noun if noun and noun != _without_determiners(phrase).lower() else ""


def _words(phrase: str) -> list[str]:
    return phrase.lower().split()


def _without_determiners(phrase: str) -> str:
    words = phrase.split()
    while words and words[0].lower() in _DETERMINERS:
        words.pop(0)
    return " ".join(words)


def _noun(phrase: str) -> str:
    """The last word before the first preposition: "the red mug on the tray" → "mug"."""
    noun = ""
    for word in _words(_without_determiners(phrase)):
        if noun and word in _AFTER_THE_NOUN:
            break
        noun = word.strip(",.;:!'\"")
    return noun
