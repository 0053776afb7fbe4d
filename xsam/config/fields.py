"""Fields of a settings table: the type and the range of one value that comes from outside.

A table maps names to fields. `check_section` compares a JSON object (or a set of options) with it and
collects every problem, each with the name of the setting, its value and what is allowed.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol

_MAX_SHOWN_CHARS = 60


class Field(Protocol):
    """One setting: checks a value and returns it, converted to the type that the program uses."""

    def check(self, value: Any) -> Any:
        """Return the value to use.

        Raises:
            ValueError: the value is not allowed; the message completes "NAME must be …".
        """
        ...


@dataclass(frozen=True, slots=True)
class Whole:
    """An integer in a range, both ends included."""

    low: int
    high: int
    optional: bool = False

    def check(self, value: Any) -> Any:
        if value is None and self.optional:
            return None
        whole = isinstance(value, Integral) and not isinstance(value, bool)  # NumPy's integers, too
        if not whole or not self.low <= value <= self.high:
            null = " or null" if self.optional else ""
            raise ValueError(f"an integer from {self.low} to {self.high}{null}")
        return int(value)


@dataclass(frozen=True, slots=True)
class Number:
    """A finite number in a range, both ends included; integers become floats."""

    low: float
    high: float
    optional: bool = False

    def check(self, value: Any) -> Any:
        if value is None and self.optional:
            return None
        numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not numeric or not self.low <= value <= self.high:  # false for NaN
            null = " or null" if self.optional else ""
            raise ValueError(f"a number from {self.low:g} to {self.high:g}{null}")
        return float(value)


@dataclass(frozen=True, slots=True)
class Name:
    """A text with at least one visible character, on one line."""

    max_chars: int

    def check(self, value: Any) -> Any:
        if (
            not isinstance(value, str)
            or not value.isprintable()
            or not 0 < len(value.strip()) <= self.max_chars
        ):
            raise ValueError(f"a text of 1 to {self.max_chars} characters on one line")
        return value.strip()


@dataclass(frozen=True, slots=True)
class Flag:
    """true or false."""

    def check(self, value: Any) -> Any:
        if not isinstance(value, bool):
            raise ValueError("true or false")
        return value


@dataclass(frozen=True, slots=True, init=False)
class Choice:
    """One of several values of the same type."""

    allowed: tuple[Any, ...]

    def __init__(self, *allowed: Any) -> None:
        object.__setattr__(self, "allowed", allowed)

    def check(self, value: Any) -> Any:
        for allowed in self.allowed:
            if same_value(value, allowed):
                return allowed
        listed = ", ".join(map(shown, self.allowed))
        raise ValueError(listed if len(self.allowed) == 1 else f"one of {listed}")


@dataclass(frozen=True, slots=True)
class Items:
    """A list of a number of values that all have one field; becomes a tuple."""

    item: Field
    low: int
    high: int

    def check(self, value: Any) -> Any:
        if not isinstance(value, (list, tuple)) or not self.low <= len(value) <= self.high:
            raise ValueError(f"a list of {self.low} to {self.high} values")
        try:
            return tuple(self.item.check(entry) for entry in value)
        except ValueError as error:
            raise ValueError(f"a list with each value {error}") from None


@dataclass(frozen=True, slots=True)
class Ignored:
    """A setting that is known and has no effect here, whatever its value."""

    def check(self, value: Any) -> Any:
        return value


def same_value(value: Any, allowed: Any) -> bool:
    """Compare without Python's equality of true with 1 and of lists with nothing else."""
    if isinstance(allowed, (list, tuple)):
        return isinstance(value, (list, tuple)) and list(value) == list(allowed)
    if isinstance(allowed, bool) or isinstance(value, bool):
        return value is allowed
    if isinstance(allowed, (int, float)):
        return isinstance(value, (int, float)) and value == allowed
    return type(value) is type(allowed) and bool(value == allowed)


def shown(value: Any) -> str:
    """Return a value as it looks in JSON, cut to a length that fits into a message."""
    if value is None or isinstance(value, bool):
        text = {None: "null", True: "true", False: "false"}[value]
    elif isinstance(value, str):
        text = repr(value[: _MAX_SHOWN_CHARS + 1])
    elif isinstance(value, (int, float)):
        text = repr(value) if not isinstance(value, int) or abs(value) < 10**18 else "a very large integer"
    elif isinstance(value, (list, tuple)):
        text = f"[{', '.join(map(shown, value[:8]))}{', …' if len(value) > 8 else ''}]"
    else:
        text = "an object" if isinstance(value, Mapping) else f"a {type(value).__name__}"
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}…"


def nearest(name: str, known: Collection[str]) -> str:
    """Return a question about the most similar known name; empty if there is none."""
    close = difflib.get_close_matches(str(name)[:_MAX_SHOWN_CHARS], list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def check_section(
    name: str, section: Any, table: Mapping[str, Field], problems: list[str], *, required: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the checked values of a section, without the ignored ones; add what is wrong to `problems`.

    Args:
        name: of the section, for messages; empty for a table without sections.
        section: what was given.
        table: name → field of all settings.
        problems: list to append to.
        required: settings that may not be left out.
    """
    if not isinstance(section, Mapping):
        problems.append(f"{name} must be an object, got {shown(section)}")
        return {}
    prefix = f"{name}." if name else ""
    values: dict[str, Any] = {}
    for key, value in section.items():
        field = table.get(key)
        if field is None:
            problems.append(f"{prefix}{str(key)[:_MAX_SHOWN_CHARS]} is unknown{nearest(key, table)}")
            continue
        try:
            checked = field.check(value)
        except ValueError as error:
            problems.append(f"{prefix}{key} must be {error}, got {shown(value)}")
            continue
        if not isinstance(field, Ignored):
            values[key] = checked
    problems += [f"{prefix}{key} is missing" for key in required if key not in section]
    return values


def is_finite(value: Any) -> bool:
    """Tell whether a value is a number, and neither NaN nor infinite."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
