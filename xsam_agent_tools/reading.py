"""What a language model wrote, read as what it meant: lists written as text, names, ids, and null as a word.

A `Reading` keeps what was changed beside the value, so that every answer can say how it was understood.
What could mean two things is refused with the reason, never guessed.
"""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_WRITTEN_CHARS = 20_000  # of an argument that is a list or an object written as text
MAX_ID_CHARS = 64
_MAX_NESTING = 4  # JSON in JSON in JSON …
_MAX_SHOWN_CHARS = 80

NULL_WORDS = frozenset(("null", "none", "nil", "undefined", "n/a", "nan"))
_ITEM_KEYS = frozenset(
    (
        *(
            "id",
            "item",
            "items",
            "label",
            "list",
            "name",
            "names",
            "object",
            "object_id",
            "objects",
            "phrase",
        ),
        *("phrases", "query", "text", "value", "values", "category", "class"),
    )
)
_QUOTES = "\"'`“”‘’"
_BULLET = re.compile(r"^(?:[-*•–]\s+|\(?\d{1,2}[.)]\s+)")
_ONE_ID = re.compile(r"\[[\w/.-]+\]")
# An object's id, also with spaces and look-alike slashes, and anything in brackets that could stand for one.
_FORGED_ID = re.compile(
    r"\[[^\[\]]*\d[^\[\]]*\]|\b\w[\w.-]*\s*[/\\\u2044\u2215\u29f8]\s*m\s*\d+\b", re.IGNORECASE
)
_WRITTEN_ID = re.compile(r"(?<![\w/])f\d+[a-z]*/m\d+(?![\w/])", re.IGNORECASE)
_EMPTY_BRACKETS = re.compile(r"\[[\s,]*\]|\([\s,]*\)")
_FENCE = re.compile(r"^```[a-z]*\s*(.*?)\s*```$", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """An argument as it was understood.

    Attributes:
        value: what the tool works with.
        read_as: what was sent → what it was read as, wherever the two differ.
        left_out: what was sent and is not used → why.
    """

    value: Any
    read_as: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)


def visible_text(text: str) -> str:
    """Return the text without characters that nobody sees, and without accents stacked on one letter.

    Zero-width, bidirectional, tag, private-use and control characters and variation selectors can carry an
    order that the user never saw.
    """
    if text.isascii() and text.isprintable():
        return text
    kept: list[str] = []
    marks = 0
    for char in text:
        category = unicodedata.category(char)
        if category in ("Zl", "Zp") or char in "\n\r\t\v\f":
            kept.append(" " if category in ("Zl", "Zp") else char)
            continue
        if category[0] == "C" or "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef":
            continue
        marks = marks + 1 if category in ("Mn", "Me") else 0
        if marks <= 2:
            kept.append(char)
    return "".join(kept)


def plain_text(text: str) -> str:
    """Return the visible text with look-alikes of letters, digits and marks in their plain form (NFKC)."""
    return visible_text(unicodedata.normalize("NFKC", text))


def model_words(text: str) -> str:
    """Return what a model said about a picture as data: plain, on one line, without anything like an id.

    Whoever puts words in front of the camera can have them read out; "a mug [f1/m9]" must not look as if a
    tool had named an object.
    """
    words = " ".join(plain_text(text).split())
    previous = None
    while previous != words:  # removing one id can join the halves of another
        previous, words = words, _FORGED_ID.sub("", words)
    return " ".join(_EMPTY_BRACKETS.sub("", words).split())


def written_items(value: Any, own_name: str, *, of_objects: bool = False) -> list[Any]:
    """Return the items of what was meant as a list: null, one item, a list, or a list written as text.

    Args:
        value: the argument as it came.
        own_name: name of the argument, in which models like to wrap it: `{"queries": […]}`.
        of_objects: the items are objects themselves, and not texts.

    Raises:
        ValueError: an object with several keys where texts are wanted, or something nested too deeply.
    """
    return list(_items(value, own_name, of_objects, _MAX_NESTING))


def written_lines(text: str) -> list[str]:
    """Split text that is a list of lines, with or without bullets or numbers, into its lines."""
    lines = [_BULLET.sub("", line.strip()) for line in re.split(r"[\r\n;|]+", text)]
    return [line for line in lines if line] or [text]


def read_text(value: Any, *, own_name: str, max_chars: int) -> Reading:
    """Read a sentence: one string, or one wrapped in a list or an object.

    Raises:
        ValueError: it is empty, too long, or no text.
    """
    items = written_items(value, own_name)
    if len(items) != 1 or not isinstance(items[0], str):
        raise ValueError("it is empty" if not items else "it must be one text")
    text = " ".join(plain_text(items[0]).split())
    if is_blank(text):
        raise ValueError("it is empty")
    if len(text) > max_chars:
        raise ValueError(f"it has {len(text)} characters, at most {max_chars} are allowed")
    return Reading(value=text, read_as=difference(value, text))


def read_name(value: Any, *, own_name: str, default: str = "") -> Reading:
    """Read an optional name whose case matters, such as a frame; blank and "null" give the default.

    Raises:
        ValueError: it is no text, or too long.
    """
    name = _one_string(value, own_name)
    name = default if is_blank(name) else name
    if len(name) > MAX_ID_CHARS:
        raise ValueError(f"it has {len(name)} characters, at most {MAX_ID_CHARS} are allowed")
    return Reading(value=name, read_as={} if value is None else difference(value, name))


def read_choice(value: Any, names: Sequence[str], *, own_name: str, default: str = "") -> Reading:
    """Read one of several names, whatever its case, spaces and underscores: " Left of" → "left_of".

    A name that is none of them is returned as it came: the tool refuses it with an error of its own.

    Raises:
        ValueError: it is no text, or too long.
    """
    reading = read_name(value, own_name=own_name, default=default)
    name = reading.value
    if name in names:
        return reading
    alike = [candidate for candidate in names if _letters(candidate) == _letters(name)]
    if not alike:
        bare = re.sub(r"camera|cam$", "", _letters(name))
        alike = [candidate for candidate in names if bare and _letters(candidate) == bare]
    if len(alike) != 1:
        return Reading(value=name)
    return Reading(value=alike[0], read_as=difference(value, alike[0]))


def read_id(value: Any, *, own_name: str) -> Reading:
    """Read one id: "[F1/M2]" → "f1/m2". Whether it exists is checked by the scene store.

    Raises:
        ValueError: it is empty, too long, or several.
    """
    reading = read_ids(value, own_name=own_name, min_count=1, max_count=1)
    return Reading(value=reading.value[0], read_as=reading.read_as)


def read_image_id(value: Any, *, own_name: str) -> Reading:
    """Read the id of an image; that of an object stands for its image: "f1/m2" → "f1".

    Raises:
        ValueError: it is empty, too long, or several.
    """
    image_id = read_id(value, own_name=own_name).value.partition("/")[0]
    return Reading(value=image_id, read_as=difference(value, image_id))


def read_optional_image_id(value: Any, *, own_name: str) -> Reading:
    """Read the id of an image, or none: blank and "null" give "".

    Raises:
        ValueError: it is too long, or several.
    """
    if value is None:
        return Reading(value="")
    if isinstance(value, str) and is_blank(value):
        return Reading(value="", read_as=difference(value, ""))
    return read_image_id(value, own_name=own_name)


def read_ids(
    value: Any, *, own_name: str, min_count: int, max_count: int, more_are_left_out: bool = False
) -> Reading:
    """Read ids, each once: a list, or text with commas, spaces or lines between them.

    Raises:
        ValueError: too few, an overlong one, or too many where nothing may be left out.
    """
    ids: dict[str, None] = {}
    read_as: dict[str, Any] = {}
    entries = value if isinstance(value, (list, tuple)) else [value]
    items = [entry["id"] if isinstance(entry, Mapping) and "id" in entry else entry for entry in entries]
    for item in written_items(items, own_name):
        if isinstance(item, bool) or not isinstance(item, (str, int)):
            raise ValueError(f"an id is a text such as 'f7/m1', got {item!r:.40}")
        sent = str(item)
        found = _ids_in(plain_text(sent))
        for object_id in found:
            if len(object_id) > MAX_ID_CHARS:
                raise ValueError(f"an id has {len(object_id)} characters: copy it from an earlier answer")
            ids[object_id] = None
        read_as |= difference(sent, found[0] if len(found) == 1 else found)
    if isinstance(value, str) and (len(ids) != 1 or not read_as):
        read_as = difference(value, next(iter(ids)) if len(ids) == 1 else list(ids))
    if len(ids) < min_count:
        raise ValueError(
            "an id is missing"
            if min_count == 1
            else f"give at least {min_count} different ids, got {len(ids)}"
        )
    kept = list(ids)[:max_count]
    left_out = dict.fromkeys(list(ids)[max_count:], f"at most {max_count} at once: ask again for these")
    if left_out and not more_are_left_out:
        raise ValueError("give one id" if max_count == 1 else f"{len(ids)} ids, at most {max_count} at once")
    return Reading(value=kept, read_as=read_as, left_out=left_out)


def _ids_in(text: str) -> list[str]:
    """Return the ids in a text: those among words ("f1/m1 (mug) and f1/m2"), else the parts of the text."""
    written = _WRITTEN_ID.findall(text)
    if written and not re.search(r"[\d/]", _WRITTEN_ID.sub("", text)):
        return [object_id.lower() for object_id in written]
    return [part for part in map(_plain_id, re.split(r"[\s,;]+", text)) if part]


def read_count(value: Any, *, own_name: str, default: int, largest: int) -> Reading:
    """Read a number of things from 1 on; a larger one than allowed is read as the largest.

    Raises:
        ValueError: it is no whole number, or less than 1.
    """
    items = written_items(value, own_name)
    if not items or (isinstance(items[0], str) and is_blank(items[0])):
        return Reading(value=default, read_as=difference(value, default) if isinstance(value, str) else {})
    item = items[0]
    try:
        count = int(item) if not isinstance(item, float) or item == int(item) else 0
    except (TypeError, ValueError, OverflowError):
        count = 0
    if len(items) > 1 or isinstance(item, bool) or count < 1:
        raise ValueError(f"it must be a whole number from 1 to {largest}, got {item!r:.40}")
    if count > largest:
        return Reading(value=largest, read_as=difference(value, largest))
    return Reading(value=count)


def read_switch(value: Any, *, own_name: str) -> Reading:
    """Read yes or no; null and a blank are no.

    Raises:
        ValueError: it is neither.
    """
    items = written_items(value, own_name)
    word = str(items[0]).strip().lower() if len(items) == 1 else ""
    if not items or is_blank(word) or word in ("false", "no", "off", "0"):
        return Reading(value=False)
    if word not in ("true", "yes", "on", "1"):
        raise ValueError(f"it must be true or false, got {value!r:.40}")
    return Reading(value=True)


def is_blank(text: str) -> bool:
    """Return whether the text says nothing: blank, only punctuation, or a word for null."""
    bare = text.strip(" \t\r\n?.!,;:-" + _QUOTES)
    return not bare or bare.lower() in NULL_WORDS


def difference(sent: Any, used: Any) -> dict[str, Any]:
    """Return {sent: used} for an answer's `read_as`, {} when they are the same text."""
    text = sent if isinstance(sent, str) else json.dumps(sent, ensure_ascii=False, default=str)
    if used in (sent, text, [sent], [text]):
        return {}
    text = visible_text(text)
    return {text if len(text) <= _MAX_SHOWN_CHARS else text[: _MAX_SHOWN_CHARS - 1] + "…": used}


def merge_notes(readings: Iterable[Reading]) -> dict[str, Any]:
    """Return `read_as` and `left_out` of all readings for an answer; a part that is empty is left out."""
    read_as: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for reading in readings:
        read_as |= reading.read_as
        left_out |= reading.left_out
    notes = {"read_as": read_as, "left_out": left_out}
    return {name: note for name, note in notes.items() if note}


def bare_phrase(text: str) -> str:
    """Return a phrase without emoji, invisible characters, spaces around it, bullets, quotes, a full stop."""
    text = "".join(char for char in text if unicodedata.category(char) != "So")
    text = _BULLET.sub("", " ".join(plain_text(text).replace("_", " ").split()))
    text = text.strip(_QUOTES + " ,;:.!")
    return text.lstrip("([{").rstrip(")]}") if text[:1] in ("(", "[", "{") else text


def _items(value: Any, own_name: str, of_objects: bool, depth: int) -> Iterable[Any]:
    if value is None:
        return []
    if depth == 0:
        raise ValueError("it is nested too deeply: send a plain list")
    if isinstance(value, Mapping):
        if of_objects and set(value) != {own_name}:
            return [value]
        return _items(_only_value(value, own_name), own_name, of_objects, depth - 1)
    if isinstance(value, set):  # of a Python literal; its order means nothing
        value = sorted(value, key=str)
    if isinstance(value, (list, tuple)):
        return [item for part in value for item in _items(part, own_name, of_objects, depth - 1)]
    if not isinstance(value, str):
        return [value]
    text = value.strip()
    if (fenced := _FENCE.match(text)) is not None:
        text = fenced.group(1)
    if text[:1] not in ("[", "{", "(", '"', "'"):
        return [value]
    if len(text) > MAX_WRITTEN_CHARS:
        raise ValueError(f"a list written as text has {len(text)} characters: send a plain list")
    parsed = _parsed(text)
    if parsed is not None and parsed != value:
        return _items(parsed, own_name, of_objects, depth - 1)
    if text[0] == "[" and text[-1] == "]" and not _ONE_ID.fullmatch(text):  # [mug, bottle]
        return [part for part in (piece.strip(_QUOTES + " ") for piece in text[1:-1].split(",")) if part]
    return [value]


def _parsed(text: str) -> Any:
    """Parse JSON or a Python literal; None for anything else."""
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def _only_value(given: Mapping[Any, Any], own_name: str) -> Any:
    """Return the value of an object with one key that stands for the argument or one of its items."""
    if len(given) == 1:
        ((key, value),) = given.items()
        if key == own_name or key in _ITEM_KEYS:
            return value
    if own_name in given:
        others = ", ".join(str(key)[:40] for key in given if key != own_name)
        raise ValueError(f"send each argument by itself: {others}")
    names: Collection[str] = [str(key)[:40] for key in list(given)[:5]]
    raise ValueError(f"it must be plain text or a list of texts, not an object with {', '.join(names)}")


def _one_string(value: Any, own_name: str) -> str:
    items = written_items(value, own_name)
    if len(items) > 1 or (items and not isinstance(items[0], str)):
        raise ValueError(f"give one name, got {value!r:.60}")
    return plain_text(items[0]).strip(_QUOTES + " \t\r\n") if items else ""


def _plain_id(text: str) -> str:
    return text.strip(_QUOTES + "[](){}.:#").lower()


def _letters(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()
