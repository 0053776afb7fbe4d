"""Phrases of a language model: reading them, converting them to queries, and simpler ones to suggest."""

from __future__ import annotations

import re
from typing import Any

from xsam.types.nouns import NUMBER_WORDS
from xsam.types.requests import Query, Task
from xsam_agent_tools.nouns import singular
from xsam_agent_tools.reading import (
    Reading,
    bare_phrase,
    difference,
    is_blank,
    visible_text,
    written_items,
    written_lines,
)

_DETERMINERS = frozenset(("a", "an", "all", "any", "each", "every", "some", "the"))
_AFTER_NOUN = frozenset(
    (
        *("above", "at", "behind", "below", "beneath", "beside", "between", "by", "closest", "for", "from"),
        *("furthest", "in", "inside", "left", "near", "nearest", "next", "of", "on", "over", "right", "that"),
        *("to", "under", "which", "with", "without"),
    )
)
_QUANTITY = re.compile(
    r"(?:(?:all|both|each|every|any|some|several|many|most|few|multiple|various|a few|a couple|a pair|pairs"
    rf"|a number|lots|a lot|plenty|\d{{1,3}}x?|{'|'.join(NUMBER_WORDS)})"
    r"(?: of)?(?: the| these| those| my| your)? |(?:these|those) )+",
    re.IGNORECASE,
)
_ONE = re.compile(r"(?:this|that|my|your|our|his|her|their|its) ", re.IGNORECASE)
_ORDER = re.compile(
    r"(?:please )?(?:(?:find|locate|detect|segment|look for|search for)(?: me)?|show me) (?!of\b)(?=\S)",
    re.IGNORECASE,
)
# A question about one kind of thing: "where is the mug", "how many mugs are there?"
_QUESTION = re.compile(
    r"(?P<place>where(?:'s| is| are))?(?(place)|(?:(?:is|are) there|(?:do|can) you see|how many"
    r"|(?:the )?number of|(?P<count>count(?: the)?))) (?P<thing>\S.*?)"
    r"(?: (?:is|are) (?:there|visible|in view)| (?:do|can) (?:you|we|i) see)?\??",
    re.IGNORECASE,
)
_VAGUE = frozenset(
    (
        *("thing", "object", "item", "stuff", "everything", "anything", "something", "nothing", "all", "any"),
        *("one", "ones", "it", "them", "this", "that", "these", "those", "a", "an", "the", "some"),
    )
)
_AN_ID = re.compile(r"f\d+[a-z]*/m\d+", re.IGNORECASE)
_ABSENCE = re.compile(
    r"(?:no(?!.*\bsigns?\b)|not|without|except|everything but|anything but) ", re.IGNORECASE
)
_ALTERNATIVES = re.compile(r"[a-z-]{3,}(?:/[a-z-]{3,})+", re.IGNORECASE)
# Words that describe a thing and name none: "big, red mug" and "black and white mug" are one phrase each.
_MODIFIERS = frozenset(
    (
        *("red", "green", "blue", "yellow", "purple", "pink", "brown", "black", "white", "gray", "grey"),
        *("golden", "beige", "dark", "big", "small", "large", "little", "tall", "short", "long", "thin"),
        *("thick", "old", "new", "wooden", "plastic", "shiny", "striped", "empty", "broken", "dirty"),
    )
)


def read_phrases(
    value: Any,
    *,
    own_name: str,
    max_count: int,
    max_chars: int,
    min_count: int = 1,
    nouns_only: bool = False,
) -> Reading:
    """Read phrases to search for, each once; the value is a tuple of them.

    Lists written as text are split, plurals and quantities become the singular of which every instance is
    found, and what cannot be searched for is left out with the reason.

    Args:
        value: the argument as it came.
        own_name: name of the argument.
        max_count: further phrases are left out.
        max_chars: longer phrases are left out.
        min_count: fewer usable phrases are refused.
        nouns_only: the phrases are categories: "the mug" is read as "mug", a question is left out.

    Raises:
        ValueError: nothing usable is left, or the argument is no list of phrases.
    """
    read_as: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    phrases: dict[str, str] = {}  # by their form without case
    for sent in written_items(value, own_name):
        if not isinstance(sent, str):
            raise ValueError(f"a phrase is a text such as 'mug', got {sent!r:.40}")
        used: list[str] = []
        for part in split_phrases(sent):
            try:
                phrase = read_phrase(part, max_chars=max_chars, noun_only=nouns_only)
            except ValueError as error:
                left_out[_shown(part)] = str(error)
                continue
            if phrase.casefold() not in phrases and len(phrases) == max_count:
                left_out[_shown(phrase)] = f"at most {max_count} at once: ask for it in another call"
            else:
                used.append(phrases.setdefault(phrase.casefold(), phrase))
        if used:
            read_as |= difference(sent, used[0] if len(used) == 1 else used)
    if isinstance(value, (str, dict)) and phrases:
        found = list(phrases.values())
        read_as = difference(value, found[0] if len(found) == 1 else found)
    if len(phrases) < min_count:
        reasons = "; ".join(f"{phrase!r}: {reason}" for phrase, reason in list(left_out.items())[:5])
        raise ValueError(reasons or "it is empty: name what to find")
    return Reading(value=tuple(phrases.values()), read_as=read_as, left_out=left_out)


def read_phrase(text: str, *, max_chars: int, noun_only: bool = False) -> str:
    """Read one phrase: "all the Mugs." → "Mug", "coffee_mug" → "coffee mug", "find the mug" → "the mug".

    Raises:
        ValueError: it is empty, too long, names no thing, or says what is not wanted.
    """
    phrase = bare_phrase(text)
    if (order := _ORDER.match(phrase)) is not None:
        phrase = phrase[order.end() :]
    phrase = re.sub(r"\((e?s)\)", r"\1", _asked_for(phrase))  # "mug(s)"
    if _AN_ID.fullmatch(phrase):
        raise ValueError("it is an id: name what to find in words")
    if is_blank(phrase):
        raise ValueError("it is empty: name what to find")
    if len(phrase) > max_chars:
        raise ValueError(f"it has {len(phrase)} characters, at most {max_chars} are allowed")
    if phrase.endswith("?"):
        if noun_only:
            raise ValueError("a category is a noun, not a question")
        return phrase
    if _ABSENCE.match(phrase):
        raise ValueError("name what to find, not what is absent")
    if (one := _ONE.match(phrase)) is not None:
        phrase = "the " + phrase[one.end() :]
    definite = _words(phrase)[:1] == ["the"]
    rest = phrase.split(None, 1)[1] if definite and " " in phrase else phrase
    category = _without_quantity(rest)
    several = _without_plural(category)
    if set(_words(several or category)) <= _VAGUE:
        raise ValueError("it names nothing in particular: name a kind of thing")
    if definite and not noun_only:
        # "the mugs" are all of them; "the mugs on the tray" is a description
        return phrase if several is None or _has_relation(several) else several
    noun = _without_determiners(several or category) or phrase
    if _is_modifier(noun):
        raise ValueError(f"it names no thing: say what is {noun.lower()}")
    return noun


def _asked_for(phrase: str) -> str:
    """Return what a question asks to be found, where that is one kind of thing; else the phrase as it is."""
    asked = _QUESTION.fullmatch(phrase)
    if asked is None:
        return phrase
    thing = asked["thing"]
    plain = not _has_relation(thing) and not _VAGUE & set(_words(_without_determiners(thing)))
    if asked["count"] and _without_plural(thing) is None:
        return phrase  # "count dracula"
    return thing if plain or (asked["place"] and not thing.endswith("?")) else phrase


def split_phrases(text: str) -> list[str]:
    """Split text that lists several phrases: lines, commas, slashes, and "and" between whole phrases.

    Modifiers are no phrases: "big, red mug" and "black and white mug" stay in one piece.
    """
    parts: list[str] = []
    for line in written_lines(visible_text(text)):
        parts += _split_line(line)
    return parts


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
    if phrase.rstrip().endswith("?") or words[:1] != ["the"] or {"both", *NUMBER_WORDS[1:]} & set(words[1:2]):
        return False
    nouns = _noun_words(phrase)
    return not nouns or singular(nouns[-1], *nouns[-2:-1]) is None


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


def _split_line(line: str) -> list[str]:
    parts = [part.strip() for part in re.split(r",(?!\d)", line) if part.strip()]
    if is_blank(line) or (line.rstrip().endswith("?") and not all(part.endswith("?") for part in parts)):
        return [line]
    if any(_words(part)[0] in _AFTER_NOUN for part in parts[1:]):  # "the plate, left of the pan"
        return [line]
    pieces: list[str] = []
    waiting = ""  # modifiers that belong to the next piece
    for part in parts:
        if _is_modifier(part):
            waiting = f"{waiting} {part}".strip()
        else:
            pieces.append(f"{waiting} {part}".strip())
            waiting = ""
    if waiting:  # "mug, red"
        pieces = [f"{waiting} {pieces[0]}"] if len(pieces) == 1 else [*pieces, waiting]
    return [*pieces[:-1], *_split_at_and(pieces[-1], listed=len(pieces) > 1)]


def _split_at_and(piece: str, *, listed: bool) -> list[str]:
    """Split "the mug and the plate", "mug and plate", "mug/plate" where it can only be several phrases."""
    piece = re.sub(r"^(?:and|or) ", "", piece, flags=re.IGNORECASE)
    if _ALTERNATIVES.fullmatch(piece):
        return piece.split("/")
    halves = re.split(r" (?:and|or|&) ", piece, flags=re.IGNORECASE)
    if len(halves) == 1 or any(_is_modifier(half) or _has_relation(half) for half in halves[:-1]):
        return [piece]
    begins_anew = any(re.match(r"(?:the|a|an|all|some|every|each) ", h, re.IGNORECASE) for h in halves[1:])
    counts = [len(half.split()) for half in halves]
    alike = max(counts) == 1 or min(counts) >= 2 or _words(halves[-1])[0] in _MODIFIERS
    return halves if listed or begins_anew or alike else [piece]


def _is_modifier(text: str) -> bool:
    words = _words(text)
    return bool(words) and set(words) <= _MODIFIERS


def _without_quantity(phrase: str) -> str:
    """Return the phrase without words of quantity: "two mugs", "every mug", but not "7 up"."""
    counted = _QUANTITY.match(phrase)
    if counted is None or not (rest := phrase[counted.end() :]).strip():
        return phrase
    words = _words(counted.group())
    number = words[0][0].isdigit() or words[0] in NUMBER_WORDS[1:]
    return phrase if number and _without_plural(rest) is None else rest


def _without_plural(phrase: str) -> str | None:
    """Return the phrase with its noun in the singular; None when the noun is not a plural."""
    words = phrase.split()
    nouns = len(_noun_words(phrase))
    skipped = len(words) - len(_without_determiners(phrase).split())
    index = skipped + nouns - 1
    if not 0 <= index < len(words):
        return None
    noun = singular(words[index], words[index - 1] if index else "")
    return None if noun is None else " ".join([*words[:index], noun, *words[index + 1 :]])


def _has_relation(phrase: str) -> bool:
    return bool(_AFTER_NOUN & set(_words(phrase)[1:]))


def _shown(phrase: str) -> str:
    text = " ".join(visible_text(phrase).split())
    return text if len(text) <= 60 else text[:59] + "…"


def _words(phrase: str) -> list[str]:
    return phrase.lower().split()


def _without_determiners(phrase: str) -> str:
    words = phrase.split()
    while words and words[0].lower() in _DETERMINERS:
        words.pop(0)
    return " ".join(words)


def _noun_words(phrase: str) -> list[str]:
    """Return the words up to the first preposition, without determiners and punctuation: red, mug."""
    words: list[str] = []
    for word in _words(_without_determiners(phrase)):
        if words and word in _AFTER_NOUN:
            break
        if cleaned := word.strip(",.;:!'\""):
            words.append(cleaned)
    return words
