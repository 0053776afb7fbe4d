"""The model's own words in an answer: each thing that they name is an object with an id, or called missing.

A generated sentence reads as if it were true. Where the words come from a language model and the masks from a
decoder, the two may disagree, and only the masks have been looked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xsam_agent_tools.memory.scene_store import SceneObject
from xsam_agent_tools.nouns import singular

COLORS = frozenset(
    (
        *("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "white", "black", "gray"),
        "grey",
    )
)

_PRONOUNS = frozenset(("i", "you", "we", "they", "he", "she", "it", "one", "that", "which", "who", "what"))
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundedAnswer:
    """The words of an answer with object ids behind each thing they name.

    Attributes:
        text: the words; empty if everything they name is missing.
        missing: the things that they name and no object is.
    """

    text: str
    missing: tuple[str, ...] = ()


def ground_phrases(text: str, phrase_ids: Sequence[tuple[str, Sequence[str]]]) -> GroundedAnswer:
    """Insert ids behind the phrases that the model itself has marked.

    Args:
        text: the words.
        phrase_ids: each phrase in order of the text, and the ids of its objects.
    """
    done, rest = "", text
    for phrase, ids in phrase_ids:
        start = rest.lower().find(phrase.lower()) if phrase else -1
        if start < 0 or not ids:
            continue
        end = start + len(phrase)
        done, rest = f"{done}{rest[:end]} [{', '.join(ids)}]", rest[end:]
    missing = tuple(dict.fromkeys(phrase for phrase, ids in phrase_ids if not ids))
    return _answer(done + rest, grounded=bool(done), missing=missing)


def ground_names(
    text: str,
    objects: Sequence[SceneObject],
    names: Sequence[str],
    color_of: Callable[[SceneObject], str],
) -> GroundedAnswer:
    """Insert ids behind the known names in a text, such as "the red mug" → "the red mug [f1/m1]".

    Args:
        text: the words.
        objects: what was found; a name is grounded by the objects with this label.
        names: the names that are looked for in the text.
        color_of: returns the name of an object's color, "" if it is not known.
    """
    known = {tuple(_words(name)): name for name in sorted(names, key=lambda name: len(name.split()))}
    longest = max(map(len, known), default=0)
    tokens = list(_WORD.finditer(text))
    pieces, missing, grounded, position, index = [], [], False, 0, 0
    while index < len(tokens):
        name, length = _name_at(tokens, index, known, longest)
        before = tokens[index - 1].group().lower() if index else ""
        # "you can use": no noun stands behind a pronoun; "the orange mug": here orange is the color.
        is_color = name in COLORS and _name_at(tokens, index + 1, known, longest)[0]
        if not name or before in _PRONOUNS or is_color:
            index += 1
            continue
        color = before if before in COLORS else ""
        ids = [item.object_id for item in objects if item.label == name and _fits(color, color_of(item))]
        end = tokens[index + length - 1].end()
        if ids:
            pieces.append(f"{text[position:end]} [{', '.join(ids)}]")
            position, grounded = end, True
        else:
            missing.append(f"{color} {name}".strip())
        index += length
    return _answer(
        "".join(pieces) + text[position:], grounded=grounded, missing=tuple(dict.fromkeys(missing))
    )


def _answer(text: str, *, grounded: bool, missing: tuple[str, ...]) -> GroundedAnswer:
    return GroundedAnswer(text=text if grounded or not missing else "", missing=missing)


def _name_at(
    tokens: Sequence[re.Match[str]], index: int, known: dict[tuple[str, ...], str], longest: int
) -> tuple[str, int]:
    """Return the longest known name that begins at a token, and its number of words; ("", 0) for none."""
    for length in range(min(longest, len(tokens) - index), 0, -1):
        words = [token.group().lower() for token in tokens[index : index + length]]
        for last in (words[-1], singular(words[-1])):
            if last is not None and (form := (*words[:-1], last)) in known:
                return known[form], length
    return "", 0


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(name)]


def _fits(said: str, seen: str) -> bool:
    """Return whether a color that was said may be the one that is seen."""
    return not said or not seen or said.replace("grey", "gray") == seen
