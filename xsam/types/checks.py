"""Checks of the fields that callers pass, with errors that name the field."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from enum import Enum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from xsam.errors import InvalidQueryError

_E = TypeVar("_E", bound=Enum)


MAX_FRAME_ID_CHARS = 256


def frame_id_problem(frame_id: str) -> str:
    """Return why a text cannot name a coordinate frame, as a predicate; "" = it can, or it is empty.

    TF takes almost any text, but a name with a slash in front, as in ROS 1, is found nowhere, and one with
    white space is a slip of the pen.
    """
    shown = repr(frame_id[:60] + ("…" if len(frame_id) > 60 else ""))
    if len(frame_id) > MAX_FRAME_ID_CHARS:
        return f"{shown} has {len(frame_id)} characters, at most {MAX_FRAME_ID_CHARS} are allowed"
    if frame_id.startswith("/"):
        return f"{shown} begins with a slash; names of frames in TF have none, as in {frame_id.strip('/')!r}"
    if not frame_id.isprintable() or any(map(str.isspace, frame_id)):
        return f"{shown} has white space or characters that cannot be printed"
    return ""


def enum_member(kinds: type[_E], name: str, value: Any) -> _E:
    """Return a member of an enumeration by its value."""
    try:
        return kinds(value)
    except ValueError:
        allowed = ", ".join(member.value for member in kinds)
        raise InvalidQueryError(f"{name} must be one of {allowed}, got {value!r:.80}") from None


def typed_entries(name: str, values: Any, kind: type[Any]) -> tuple[Any, ...]:
    """Return several values of one type as a tuple."""
    if isinstance(values, str):  # tuple("mug") would ask for "m", "u" and "g"
        raise InvalidQueryError(f"{name} takes several entries, got the text {values!r:.80}")
    if not isinstance(values, Iterable):
        raise InvalidQueryError(f"{name} takes several entries, got {values!r:.80}")
    entries = tuple(values)
    wrong = [entry for entry in entries if not isinstance(entry, kind)]
    if wrong:
        raise InvalidQueryError(f"{name} takes entries of type {kind.__name__}, got {wrong[0]!r:.80}")
    return tuple(map(str, entries)) if kind is str else entries  # without subclasses such as np.str_


def flag(name: str, value: Any) -> bool:
    """Return a truth value; text ("no"), numbers and None are refused."""
    if not isinstance(value, (bool, np.bool_)):
        raise InvalidQueryError(f"{name} must be true or false, got {value!r:.80}")
    return bool(value)


def real_number(name: str, value: Any) -> float:
    """Return a number as a float; text and booleans are refused."""
    if isinstance(value, (bool, np.bool_, str)):
        raise InvalidQueryError(f"{name} must be a number, got {value!r:.80}")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise InvalidQueryError(f"{name} must be a number, got {value!r:.80}") from None


def whole_number(name: str, value: Any) -> int:
    """Return an integer as a Python int."""
    if isinstance(value, (bool, np.bool_)):
        raise InvalidQueryError(f"{name} must be an integer, got {value!r:.80}")
    try:
        return operator.index(value)
    except TypeError:
        raise InvalidQueryError(f"{name} must be an integer, got {value!r:.80}") from None


def float_array(name: str, values: Any) -> NDArray[np.float32]:
    """Return numbers as a new float32 array; a number too large for float32 becomes infinite."""
    try:
        with np.errstate(over="ignore"):
            return np.array(values, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        raise InvalidQueryError(f"{name} must be numbers, got {values!r:.80}") from None
