"""Arguments of the tools, as schemas that every provider's converter accepts.

No unions, no tuples (`prefixItems`), no references, enumerations as `enum`, at least one property. Common
mistakes of models (a bare string for a list, null for a default) are accepted; anything else is refused with
a reason.
"""

from __future__ import annotations

import functools
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

from xsam_agent_tools.prompt_arguments import as_list, mark_list_type, prompt_list_type
from xsam_agent_tools.spatial.relations import RELATIONS

MAX_QUERIES = 8
MAX_QUERY_CHARS = 200
MAX_QUESTION_CHARS = 500
MAX_OBJECTS = 50
DEFAULT_OBJECTS = 10
MAX_IDS = 10
MAX_FILTERED = 50
MAX_CLASSES = 40
MAX_CAMERAS = 32
MAX_NAME_CHARS = 64
ALL_CAMERAS, SAME_CAMERA = "all", "same"

# Building a model takes pydantic milliseconds: toolkits with the same cameras share theirs.
_KEPT_CAMERA_LISTS = 32

Fields = dict[str, Any]


@functools.lru_cache(maxsize=_KEPT_CAMERA_LISTS)
def segment_objects_args(cameras: tuple[str, ...], *, with_image_id: bool) -> type[BaseModel]:
    """Build the arguments of `segment_objects` for these cameras; the first one is the default."""
    fields: Fields = {
        "queries": _phrases(
            "1-8 short phrases to find, e.g. ['mug', 'the plate left of the pan']", MAX_QUERIES
        ),
        **_image(cameras, with_image_id=with_image_id),
        "max_objects": (
            Annotated[
                int,
                Field(ge=1, le=MAX_OBJECTS, description="list at most this many objects"),
                BeforeValidator(_none_as(DEFAULT_OBJECTS)),
            ],
            DEFAULT_OBJECTS,
        ),
    }
    return _model("segment_objects", fields)


@functools.lru_cache(maxsize=_KEPT_CAMERA_LISTS)
def ask_scene_args(cameras: tuple[str, ...], *, with_image_id: bool) -> type[BaseModel]:
    """Build the arguments of `ask_scene`."""
    question = _text("e.g. 'What can I drink from?' or 'Describe the scene.'", MAX_QUESTION_CHARS)
    return _model("ask_scene", {"question": question, **_image(cameras, with_image_id=with_image_id)})


@functools.lru_cache(maxsize=_KEPT_CAMERA_LISTS)
def segment_everything_args(cameras: tuple[str, ...]) -> type[BaseModel]:
    """Build the arguments of `segment_everything`."""
    classes = _phrases(
        "only these categories, e.g. ['mug','plate']; empty = the usual household things",
        MAX_CLASSES,
        optional=True,
    )
    return _model("segment_everything", {"camera": _camera(cameras), "classes": classes})


@functools.lru_cache(maxsize=_KEPT_CAMERA_LISTS)
def segment_with_prompt_args(cameras: tuple[str, ...], *, with_image_id: bool) -> type[BaseModel]:
    """Build the arguments of `segment_with_prompt`."""
    scopes = ("one", "all_similar")
    fields: Fields = {
        "prompts": (prompt_list_type(), ...),
        "scope": _choice(
            scopes, "one = the object that is marked; all_similar = everything that looks like it"
        ),
        **_image(cameras, with_image_id=with_image_id),
    }
    return _model("segment_with_prompt", fields)


@functools.cache
def refine_object_args() -> type[BaseModel]:
    """Build the arguments of `refine_object`."""
    fields: Fields = {
        "object_id": _object_id(),
        "add": (mark_list_type("marks on what belongs to the object and is missing from its outline"), []),
        "remove": (mark_list_type("marks on what does not belong to the object"), []),
    }
    return _model("refine_object", fields)


@functools.cache
def inspect_object_args() -> type[BaseModel]:
    """Build the arguments of `inspect_object`."""
    return _model("inspect_object", {"object_id": _object_id()})


@functools.lru_cache(maxsize=_KEPT_CAMERA_LISTS)
def track_object_args(cameras: tuple[str, ...]) -> type[BaseModel]:
    """Build the arguments of `track_object`; without a camera the object's own is used."""
    names = (SAME_CAMERA, *(name for name in cameras if name != SAME_CAMERA))
    camera = _choice(names, "where to look; same = the camera that saw it")
    return _model("track_object", {"object_id": _object_id(), "camera": camera})


@functools.cache
def locate_objects_3d_args() -> type[BaseModel]:
    """Build the arguments of `locate_objects_3d`."""
    frame = _optional_name("frame to give positions in, e.g. 'base_link'; empty = the camera's own frame")
    return _model("locate_objects_3d", {"object_ids": _ids("ids of the objects", 1, MAX_IDS), "frame": frame})


@functools.cache
def compare_objects_args() -> type[BaseModel]:
    """Build the arguments of `compare_objects`."""
    ids = _ids("ids on one image; for left_of … on: the first is compared with the others", 2, MAX_IDS)
    relation = _choice(RELATIONS, "what to find out", required=True)
    return _model("compare_objects", {"object_ids": ids, "relation": relation})


@functools.cache
def filter_objects_args() -> type[BaseModel]:
    """Build the arguments of `filter_objects`."""
    image_id = (
        Annotated[str, Field(max_length=MAX_NAME_CHARS, description="the image, e.g. 'f7'"), _clean_id()],
        ...,
    )
    fields: Fields = {
        "image_id": image_id,
        "keep": _ids("ids or marks to keep, all others are dropped", 0, MAX_FILTERED),
        "drop": _ids("or: ids or marks to drop, all others are kept", 0, MAX_FILTERED),
    }
    return _model("filter_objects", fields)


@functools.cache
def report_not_found_args() -> type[BaseModel]:
    """Build the arguments of `report_not_found`."""
    fields: Fields = {
        "query": _text("what was wanted", MAX_QUERY_CHARS),
        "tried": _phrases("the queries that were tried", 20),
        "reason": _text("why it is taken to be absent", MAX_QUESTION_CHARS),
    }
    return _model("report_not_found", fields)


@functools.lru_cache(maxsize=_KEPT_CAMERA_LISTS)
def perception_status_args(cameras: tuple[str, ...]) -> type[BaseModel]:
    """Build the arguments of `perception_status`: none is needed, but Google refuses tools without any."""
    names = (ALL_CAMERAS, *(name for name in cameras if name != ALL_CAMERAS))
    return _model("perception_status", {"camera": _choice(names, "which camera; default all")})


def check_camera_names(cameras: Sequence[str]) -> tuple[str, ...]:
    """Check the camera names and return them as a tuple.

    Raises:
        ValueError: no names, too many, or a repeated, empty or overlong one.
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


# ------------------------------------------------------------------------------------- fields


def _model(name: str, fields: Fields) -> type[BaseModel]:
    model: type[BaseModel] = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
    return model


def _image(cameras: Sequence[str], *, with_image_id: bool) -> Fields:
    """Return the fields for an image: the newest of a camera or, where pixels are kept, an earlier one."""
    fields: Fields = {"camera": _camera(cameras)}
    if with_image_id:
        fields["image_id"] = _optional_name(
            "ask about this earlier image, e.g. 'f7', not a fresh one; camera is ignored"
        )
    return fields


def _camera(cameras: Sequence[str]) -> tuple[Any, str]:
    return _choice(cameras, f"which camera; default {cameras[0]}")


def _choice(names: Sequence[str], description: str, *, required: bool = False) -> tuple[Any, Any]:
    """Return a field for one of several names, the first by default.

    The enumeration is for the model; the tool checks the name itself, to return a typed error.
    """
    schema = {"type": "string", "enum": list(names), "description": description}
    if required:
        return (Annotated[str, Field(max_length=MAX_NAME_CHARS), WithJsonSchema(schema)], ...)
    return (Annotated[str, BeforeValidator(_none_as(names[0])), WithJsonSchema(schema)], names[0])


def _phrases(description: str, max_length: int, *, optional: bool = False) -> tuple[Any, Any]:
    field = Field(min_length=None if optional else 1, max_length=max_length, description=description)
    annotation = Annotated[list[str], field, BeforeValidator(as_list), AfterValidator(_clean_queries)]
    return (annotation, [] if optional else ...)


def _text(description: str, max_chars: int) -> tuple[Any, Any]:
    return (Annotated[str, Field(description=description), AfterValidator(_text_cleaner(max_chars))], ...)


def _ids(description: str, min_length: int, max_length: int) -> tuple[Any, Any]:
    field = Field(min_length=min_length or None, max_length=max_length, description=description)
    annotation = Annotated[list[str], field, BeforeValidator(as_list), AfterValidator(_clean_ids)]
    return (annotation, ... if min_length else [])


def _object_id() -> tuple[Any, Any]:
    field = Field(max_length=MAX_NAME_CHARS, description="id from an earlier answer, e.g. 'f7/m1'")
    return (Annotated[str, field, _clean_id()], ...)


def _optional_name(description: str) -> tuple[Any, Any]:
    field = Field(max_length=MAX_NAME_CHARS, description=description)
    return (Annotated[str, field, BeforeValidator(_none_as(""))], "")


def _clean_id() -> AfterValidator:
    return AfterValidator(str.strip)


def _none_as(default: Any) -> Any:
    return lambda value: default if value is None else value


def _text_cleaner(max_chars: int) -> Any:
    def clean(text: str) -> str:
        phrase = " ".join(text.split())
        if not phrase.strip("?.!,;: "):
            raise ValueError("it is empty")
        if len(phrase) > max_chars:
            raise ValueError(f"it has {len(phrase)} characters, at most {max_chars} are allowed")
        return phrase

    return clean


def _clean_ids(ids: list[str]) -> list[str]:
    """Strip the ids and remove repetitions."""
    for object_id in ids:
        if len(object_id) > MAX_NAME_CHARS:
            raise ValueError(f"an id has {len(object_id)} characters: copy it from an earlier answer")
    return list(dict.fromkeys(object_id.strip() for object_id in ids))


def _clean_queries(queries: list[str]) -> list[str]:
    """Collapse spaces and remove repetitions; refuse empty and overlong phrases."""
    cleaned: dict[str, str] = {}
    for query in queries:
        phrase = " ".join(query.split())
        if not phrase.strip("?.!,;: "):
            raise ValueError("a query is empty: name what to find")
        if len(phrase) > MAX_QUERY_CHARS:
            raise ValueError(f"a query has {len(phrase)} characters, at most {MAX_QUERY_CHARS} are allowed")
        cleaned.setdefault(phrase.lower(), phrase)
    return list(cleaned.values())
