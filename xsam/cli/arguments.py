"""What the arguments and options of `xsam segment` mean: sources and queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xsam.errors import InvalidQueryError
from xsam.media.sources import looks_like_source
from xsam.types.requests import Query, Task, VisualPrompt


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split into sources and queries. The first argument is a source, and so are those after it that look so.

    Raises:
        InvalidQueryError: something that looks like a source follows a query.
    """
    count = 1
    while count < len(arguments) and looks_like_source(arguments[count]):
        count += 1
    sources, texts = list(arguments[:count]), list(arguments[count:])
    for text in texts:
        if looks_like_source(text):
            raise InvalidQueryError(
                f"{text!r:.80} looks like a source, but follows the query {texts[0]!r:.80}",
                hint="give all sources first, then the queries",
            )
    return sources, texts


def parse_queries(texts: Sequence[str], **fields: Any) -> list[Query]:
    """Return a query per text, or one without text."""
    given = (bool(texts), bool(fields["thing_classes"] or fields["stuff_classes"]), bool(fields["prompts"]))
    if fields["task"] is Task.AUTO and sum(given) > 1:
        raise InvalidQueryError(
            "text, categories and regions are three different requests",
            hint="give one of them, or choose the kind of request with --task",
        )
    return [Query(text=text, **fields) for text in (texts or [""])]


def parse_names(values: Sequence[str]) -> tuple[str, ...]:
    """Split at commas, and drop repetitions."""
    names = [" ".join(name.split()) for value in values for name in value.split(",")]
    return tuple(dict.fromkeys(names))


def _parse_numbers(option: str, value: str, count: int) -> list[float]:
    try:
        numbers = [float(part) for part in value.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise InvalidQueryError(f"{option} takes {count} numbers separated by commas, got {value!r}")
    return numbers


def parse_boxes(values: list[str]) -> list[VisualPrompt]:
    """Parse boxes, each written x0,y0,x1,y1."""
    return [VisualPrompt.box(*_parse_numbers("--box", value, 4)) for value in values]


def parse_points(values: list[str]) -> list[VisualPrompt]:
    """Parse points, each written x,y."""
    return [VisualPrompt.point(*_parse_numbers("--point", value, 2)) for value in values]
