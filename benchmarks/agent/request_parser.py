"""Parsing of requests for the scripted policies; a chat model needs none of this."""

from __future__ import annotations

import re
from dataclasses import dataclass

from xsam.sim import CATEGORIES, COLORS
from xsam.types.nouns import plural

_ORDINALS = {"second": 2, "third": 3, "fourth": 4, "fifth": 5}
_FORMS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("inventory", re.compile(r"what is on the table\? list every kind with its number\.")),
    ("nearest", re.compile(r"which object is nearest to the camera\?")),
    ("containment", re.compile(r"is the (?P<noun>.+) (?P<word>in|on) the (?P<other>.+)\?")),
    ("middle", re.compile(r"give me the middle one of the three (?P<noun>.+), from left to right\.")),
    ("farthest by use", re.compile(r"give me the farthest thing that i can (?P<other>.+)\.")),
    ("track", re.compile(r"find the (?P<noun>.+) and keep an eye on it\.")),
    ("restart", re.compile(r"find the (?P<noun>.+) for me\.")),
    ("exists", re.compile(r"is there (?:a|an) (?P<noun>.+) on the table\?")),
    ("count", re.compile(r"how many (?P<noun>.+) are on the table\?")),
    ("nearer", re.compile(r"which is nearer to the camera, the (?P<noun>.+) or the (?P<other>.+)\?")),
    ("place", re.compile(r"where is the (?P<noun>.+?)\?.*")),
    ("purpose", re.compile(r"bring me (?P<noun>something to (?P<other>.+))\.")),
    ("ordinal", re.compile(r"give me the (?P<word>\w+) (?P<noun>.+) from the (?P<other>left|right)\.")),
    ("relation", re.compile(r"give me the (?P<noun>.+) (?P<word>left|right) of the (?P<other>.+)\.")),
    (
        "extreme",
        re.compile(
            r"give me the (?P<word>largest|smallest|leftmost|rightmost|nearest|farthest) (?P<noun>.+)\."
        ),
    ),
    ("fetch", re.compile(r"(?:bring|hand|give) me the (?P<noun>.+)\.")),
)


@dataclass(frozen=True, kw_only=True)
class ParsedRequest:
    """A parsed request.

    Attributes:
        kind: name of the form.
        noun: the requested object, without article.
        other: the second object, the side or the purpose.
        word: ordinal, side or superlative.
    """

    kind: str
    noun: str = ""
    other: str = ""
    word: str = ""

    @property
    def rank(self) -> int:
        return _ORDINALS[self.word]

    @property
    def color(self) -> str:
        first = self.noun.split()[0]
        return first if first in COLORS else ""

    @property
    def bare(self) -> str:
        """Noun without its color."""
        return self.noun.removeprefix(self.color).strip()


def parse_request(text: str) -> ParsedRequest:
    """Parse a request.

    Raises:
        ValueError: none of the known forms fits.
    """
    normalized = " ".join(text.lower().split())
    for kind, form in _FORMS:
        if match := form.fullmatch(normalized):
            return ParsedRequest(kind=kind, **{k: v for k, v in match.groupdict().items() if v})
    raise ValueError(f"no known form fits the request {text!r}")


def singular(noun: str) -> str:
    """Return the singular of a noun; irregular plurals are known for the simulator's categories only."""
    return next((category for category in CATEGORIES if plural(category) == noun), noun.removesuffix("s"))
