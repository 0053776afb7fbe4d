"""Arguments of the tools, in shapes that every provider's converter takes.

No unions, no tuples (`prefixItems`), enumerations as `enum`. What models commonly send by mistake
(a bare string for a list, null for a default) is understood; anything else is refused with a reason.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    create_model,
)

MAX_QUERIES = 8
MAX_QUERY_CHARS = 200
MAX_OBJECTS = 50
DEFAULT_OBJECTS = 10
MAX_CAMERAS = 32
MAX_NAME_CHARS = 64


def segment_objects_args(cameras: Sequence[str], *, with_image_id: bool) -> type[BaseModel]:
    """Arguments of `segment_objects` for these cameras; the first one is the default."""
    fields: dict[str, Any] = {
        "queries": (
            Annotated[
                list[str],
                Field(
                    min_length=1,
                    max_length=MAX_QUERIES,
                    description="1-8 short phrases to find, e.g. ['mug', 'the plate left of the pan']",
                ),
                BeforeValidator(_as_list),
                AfterValidator(_clean_queries),
            ],
            ...,
        ),
        "camera": _camera(cameras),
    }
    if with_image_id:
        fields["image_id"] = (
            Annotated[
                str,
                Field(
                    max_length=MAX_NAME_CHARS,
                    description="ask about this earlier image, e.g. 'f7', not a fresh one; camera is ignored",
                ),
                BeforeValidator(_none_as("")),
            ],
            "",
        )
    fields["max_objects"] = (
        Annotated[
            int,
            Field(ge=1, le=MAX_OBJECTS, description="list at most this many objects"),
            BeforeValidator(_none_as(DEFAULT_OBJECTS)),
        ],
        DEFAULT_OBJECTS,
    )
    model: type[BaseModel] = create_model("segment_objects", __config__=ConfigDict(extra="forbid"), **fields)
    return model


def check_camera_names(cameras: Sequence[str]) -> tuple[str, ...]:
    """The names as a tuple.

    Raises:
        ValueError: none, too many, a repeated, empty or overlong name.
    """
    if isinstance(cameras, str):
        raise ValueError("cameras must be a list of names, not one string")
    names = tuple(cameras)
    if not 1 <= len(names) <= MAX_CAMERAS:
        raise ValueError(f"give 1 to {MAX_CAMERAS} camera names, got {len(names)}")
    if len(set(names)) != len(names):
        raise ValueError(f"camera names repeat: {names}")
    for name in names:
        if not name.strip() or len(name) > MAX_NAME_CHARS:
            raise ValueError(f"a camera name must be 1 to {MAX_NAME_CHARS} characters, got {name!r}")
    return names


def _camera(cameras: Sequence[str]) -> tuple[Any, str]:
    # The enumeration is for the model; the tool checks the name itself, to answer with a typed error.
    schema = {"type": "string", "enum": list(cameras), "description": f"which camera; default {cameras[0]}"}
    return (Annotated[str, BeforeValidator(_none_as(cameras[0])), WithJsonSchema(schema)], cameras[0])


def _none_as(default: Any) -> Any:
    return lambda value: default if value is None else value


def _as_list(value: Any) -> Any:
    """A bare string as a list of one, a list that was written as JSON text as the list."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            pass
    return [value]


def _clean_queries(queries: list[str]) -> list[str]:
    """Single spaces, no repetitions; empty and overlong phrases are refused."""
    cleaned: dict[str, str] = {}
    for query in queries:
        phrase = " ".join(query.split())
        if not phrase.strip("?.!,;: "):
            raise ValueError("a query is empty: name what to find")
        if len(phrase) > MAX_QUERY_CHARS:
            raise ValueError(f"a query has {len(phrase)} characters, at most {MAX_QUERY_CHARS} are allowed")
        cleaned.setdefault(phrase.lower(), phrase)
    return list(cleaned.values())
