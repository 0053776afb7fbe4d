"""CDR, the encoding of ROS 2 messages → values, by a definition that a bag carries.

Definitions come from strangers, so they are interpreted: nothing is generated from them and run. Sizes are
checked against the bytes that are there before anything is built from them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from xsam.errors import InvalidImageError
from xsam.media.bags.storage import RawMessage

_DTYPES = {
    **dict.fromkeys(("bool", "byte", "octet", "char", "uint8"), "u1"),
    **{f"{kind}{8 * size}": f"{kind[0]}{size}" for kind in ("int", "uint", "float") for size in (1, 2, 4, 8)},
}
_DTYPES["uint8"] = _DTYPES["char"] = "u1"
_MAX_DEPTH = 20

Fields = list[tuple[str, Any]]


def decode(message: RawMessage) -> Any:
    """Decode a message to an object with the names of its fields; arrays of numbers are views of the data.

    Raises:
        InvalidImageError: the definition is not understood, or the bytes do not fit it.
    """
    topic = message.topic
    types = _definitions(topic.type, topic.definition, topic.is_idl)
    try:
        return _Reader(message.data, types).structure(types[_bare(topic.type)], 0)
    except (struct.error, KeyError, ValueError, TypeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidImageError(
            f"a message on {topic.name} of {len(message.data)} bytes is no {topic.type}: {error}"
        ) from error


def header_of(message: RawMessage) -> tuple[int, str]:
    """Return (stamp in ns, frame_id) of a message that begins with a header, without decoding the rest.

    Raises:
        InvalidImageError: the bytes do not fit.
    """
    try:
        reader = _Reader(message.data, {})
        sec, nanosec = reader.number("i4"), reader.number("u4")
        return int(sec) * 1_000_000_000 + int(nanosec), reader.text()
    except (struct.error, ValueError, UnicodeDecodeError) as error:
        raise InvalidImageError(f"a message on {message.topic.name} has no header: {error}") from error


def _bare(name: str) -> str:
    """Return "sensor_msgs/msg/Image" for the other ways to write it."""
    parts = name.replace("::", "/").split("/")
    return "/".join((parts[0], "msg", parts[-1]))


@lru_cache(maxsize=64)
def _definitions(name: str, definition: str, is_idl: bool) -> Mapping[str, Fields]:
    """Return the fields of a type and of those in it; without a definition, those of ROS 2 itself."""
    from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

    standard = {key: value[1] for key, value in get_typestore(Stores.ROS2_HUMBLE).fielddefs.items()}
    if not definition.strip():
        if _bare(name) not in standard:
            raise InvalidImageError(f"the bag has no definition of {name}")
        return standard
    try:
        parsed = get_types_from_idl(definition) if is_idl else get_types_from_msg(definition, _bare(name))
    except Exception as error:  # the parser raises several, and its own messages are long
        raise InvalidImageError(f"the bag's definition of {name} is not understood") from error
    return {**standard, **{_bare(key): value[1] for key, value in parsed.items()}}


class _Reader:
    """Reads values one after the other, each aligned to its size, counted after the first four bytes."""

    def __init__(self, data: bytes, types: Mapping[str, Fields]) -> None:
        if len(data) < 4:
            raise ValueError("it is too short")
        self._data, self._types, self._position = data, types, 4
        self._order = "<" if data[1] & 1 else ">"

    def structure(self, fields: Fields, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise ValueError("it is nested too deeply")
        return SimpleNamespace(**{name: self._value(kind, depth) for name, kind in fields})

    def _value(self, kind: Any, depth: int) -> Any:
        tag, inner = int(kind[0]), kind[1]
        if tag == 1:
            return self._base(inner)
        if tag == 2:
            return self.structure(self._types[inner], depth + 1)
        element, count = inner
        if tag == 4:
            count = int(self.number("u4"))
        if int(element[0]) == 1 and element[1][0] in _DTYPES:
            return self._numbers(_DTYPES[element[1][0]], count)
        if count > len(self._data) - self._position and count:
            raise ValueError(f"{count} elements do not fit")
        return [self._value(element, depth) for _ in range(count)]

    def _base(self, kind: Any) -> Any:
        name = kind[0]
        if name == "string":
            return self.text()
        value = self.number(_DTYPES[name])
        return bool(value) if name == "bool" else value.item()

    def number(self, dtype: str) -> Any:
        return self._numbers(dtype, 1)[0]

    def text(self) -> str:
        length = int(self.number("u4"))
        raw = bytes(self._take(length))
        return raw.rstrip(b"\0").decode("utf-8")

    def _numbers(self, dtype: str, count: int) -> Any:
        size = int(dtype[1])
        if count:
            self._position += (4 - self._position) % size
        return np.frombuffer(self._take(count * size), np.dtype(self._order + dtype))

    def _take(self, size: int) -> memoryview:
        end = self._position + size
        if size < 0 or end > len(self._data):
            raise ValueError(f"it ends after {len(self._data)} of at least {end} bytes")
        part = memoryview(self._data)[self._position : end]
        self._position = end
        return part
