"""Arguments of the tools, as schemas that every provider's converter accepts.

No unions, no tuples (`prefixItems`), no references, enumerations as `enum`, at least one property. Every
field is parsed to a `Reading`: common ways of models to write an argument (a list as text, null for a
default) are understood, and what was changed is kept for the answer; anything else is refused with a reason.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainValidator, WithJsonSchema, create_model
from pydantic.json_schema import SkipJsonSchema

from xsam_agent_tools.phrases import read_phrase, read_phrases
from xsam_agent_tools.prompt_arguments import mark_list_type, prompt_list_type
from xsam_agent_tools.reading import (
    MAX_ID_CHARS,
    Reading,
    difference,
    read_choice,
    read_count,
    read_id,
    read_ids,
    read_image_id,
    read_name,
    read_optional_image_id,
    read_switch,
    read_text,
)
from xsam_agent_tools.spatial.relations import RELATION_SYNONYMS, RELATIONS

MAX_QUERIES = 8
MAX_QUERY_CHARS = 200
MAX_QUESTION_CHARS = 500
MAX_OBJECTS = 50
DEFAULT_OBJECTS = 10
MAX_IDS = 10
MAX_FILTERED = 50
MAX_CLASSES = 40
MAX_CAMERAS = 32
MAX_TRIED = 20
MAX_NAME_CHARS = MAX_ID_CHARS
ALL_CAMERAS, SAME_CAMERA = "all", "same"

# Building a model takes pydantic milliseconds: toolkits with the same cameras share theirs.
_KEPT_CAMERA_LISTS = 32

Fields = dict[str, Any]


@functools.lru_cache(maxsize=_KEPT_CAMERA_LISTS)
def segment_objects_args(cameras: tuple[str, ...], *, with_image_id: bool) -> type[BaseModel]:
    """Build the arguments of `segment_objects` for these cameras; the first one is the default."""
    fields: Fields = {
        "queries": _phrases(
            "queries", "1-8 short phrases to find, e.g. ['mug', 'the plate left of the pan']", MAX_QUERIES
        ),
        **_image(cameras, with_image_id=with_image_id, with_all=True),
        "max_objects": _count("max_objects", "list at most this many objects", DEFAULT_OBJECTS, MAX_OBJECTS),
    }
    return _model("segment_objects", fields)


@functools.lru_cache(maxsize=_KEPT_CAMERA_LISTS)
def ask_scene_args(cameras: tuple[str, ...], *, with_image_id: bool) -> type[BaseModel]:
    """Build the arguments of `ask_scene`."""
    question = _text("question", "e.g. 'What can I drink from?' or 'Describe the scene.'", MAX_QUESTION_CHARS)
    return _model(
        "ask_scene", {"question": question, **_image(cameras, with_image_id=with_image_id, with_all=True)}
    )


@functools.lru_cache(maxsize=_KEPT_CAMERA_LISTS)
def segment_everything_args(cameras: tuple[str, ...]) -> type[BaseModel]:
    """Build the arguments of `segment_everything`."""
    classes = _phrases(
        "classes",
        "only these categories, e.g. ['mug','plate']; empty = the usual household things",
        MAX_CLASSES,
        optional=True,
        nouns_only=True,
    )
    return _model("segment_everything", {"camera": _cameras(cameras), "classes": classes})


@functools.lru_cache(maxsize=_KEPT_CAMERA_LISTS)
def show_camera_args(cameras: tuple[str, ...]) -> type[BaseModel]:
    """Build the arguments of `show_camera`."""
    fields: Fields = {
        **_image(cameras, with_image_id=True, with_all=True),
        "grid": _switch("grid", "draw a grid that is labeled in pixels"),
    }
    return _model("show_camera", fields)


@functools.lru_cache(maxsize=_KEPT_CAMERA_LISTS)
def segment_with_prompt_args(cameras: tuple[str, ...], *, with_image_id: bool) -> type[BaseModel]:
    """Build the arguments of `segment_with_prompt`."""
    scopes = ("one", "all_similar")
    fields: Fields = {
        "prompts": (prompt_list_type(), ...),
        "scope": _choice(
            "scope", scopes, "one = the object that is marked; all_similar = everything that looks like it"
        ),
        **_image(cameras, with_image_id=with_image_id),
    }
    return _model("segment_with_prompt", fields)


@functools.cache
def refine_object_args() -> type[BaseModel]:
    """Build the arguments of `refine_object`."""
    fields: Fields = {
        "object_id": _object_id(),
        "add": (
            mark_list_type("add", "marks on what belongs to the object and is missing from its outline"),
            [],
        ),
        "remove": (mark_list_type("remove", "marks on what does not belong to the object"), []),
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
    camera = _choice("camera", names, "where to look; same = the camera that saw it")
    return _model("track_object", {"object_id": _object_id(), "camera": camera})


@functools.cache
def locate_objects_3d_args(*, with_frame: bool) -> type[BaseModel]:
    """Build the arguments of `locate_objects_3d`; without transforms `frame` is not offered.

    It is accepted all the same, and refused with the reason unless the positions are in that frame already.
    """
    frame = _optional(
        "frame", "frame to give positions in, e.g. 'base_link'; empty = the camera's own frame", read_name
    )
    if not with_frame:
        frame = (Annotated[frame[0], SkipJsonSchema()], frame[1])  # type: ignore[type-arg]
    ids = _ids("object_ids", "ids of the objects", 1, MAX_IDS, more_are_left_out=True)
    return _model("locate_objects_3d", {"object_ids": ids, "frame": frame})


@functools.cache
def compare_objects_args() -> type[BaseModel]:
    """Build the arguments of `compare_objects`."""
    ids = _ids(
        "object_ids", "ids on one image; for left_of … on: the first is compared with the others", 2, MAX_IDS
    )
    relation = _choice(
        "relation", RELATIONS, "what to find out", required=True, other_names=RELATION_SYNONYMS
    )
    return _model("compare_objects", {"object_ids": ids, "relation": relation})


@functools.cache
def filter_objects_args() -> type[BaseModel]:
    """Build the arguments of `filter_objects`."""
    fields: Fields = {
        "image_id": _required_id("image_id", "the image, e.g. 'f7'", read_image_id),
        "keep": _ids("keep", "ids or marks to keep, all others are dropped", 0, MAX_FILTERED),
        "drop": _ids("drop", "or: ids or marks to drop, all others are kept", 0, MAX_FILTERED),
    }
    return _model("filter_objects", fields)


@functools.cache
def report_not_found_args() -> type[BaseModel]:
    """Build the arguments of `report_not_found`."""
    fields: Fields = {
        "query": _phrase("query", "what was wanted", MAX_QUERY_CHARS),
        "tried": _phrases("tried", "the queries that were tried", MAX_TRIED),
        "reason": _text("reason", "why it is taken to be absent", MAX_QUESTION_CHARS),
    }
    return _model("report_not_found", fields)


@functools.lru_cache(maxsize=_KEPT_CAMERA_LISTS)
def perception_status_args(cameras: tuple[str, ...]) -> type[BaseModel]:
    """Build the arguments of `perception_status`: none is needed, but Google refuses tools without any."""
    names = (ALL_CAMERAS, *(name for name in cameras if name != ALL_CAMERAS))
    return _model("perception_status", {"camera": _choice("camera", names, "which camera; default all")})


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


def _image(cameras: Sequence[str], *, with_image_id: bool, with_all: bool = False) -> Fields:
    """Return the fields for an image: the newest of a camera or, where pixels are kept, an earlier one."""
    fields: Fields = {"camera": _cameras(cameras) if with_all else _camera(cameras)}
    if with_image_id:
        fields["image_id"] = _optional(
            "image_id",
            "ask about this earlier image, e.g. 'f7', not a fresh one; camera is ignored",
            read_optional_image_id,
        )
    return fields


def _camera(cameras: Sequence[str]) -> tuple[Any, str]:
    """Return a field for one camera; where there is only one, it is all of them, too."""
    others = {ALL_CAMERAS: cameras[0]} if len(cameras) == 1 else {}
    return _choice("camera", cameras, f"which camera; default {cameras[0]}", other_names=others)


def _cameras(cameras: Sequence[str]) -> tuple[Any, str]:
    """Return a field for one camera or, where there are several, all of them."""
    if len(cameras) == 1 or ALL_CAMERAS in cameras:
        return _camera(cameras)
    description = (
        f"which camera; default {cameras[0]}; all = every camera at once: each object says its camera,"
        " cameras lists what became of each"
    )
    words = ("*", "every", "each", "all cameras", "every camera", *(("both",) if len(cameras) == 2 else ()))
    others = {word: ALL_CAMERAS for word in words if word not in cameras}
    annotation, default = _choice("camera", (*cameras, ALL_CAMERAS), description, other_names=others)
    return (Annotated[annotation, BeforeValidator(functools.partial(_listed_cameras, cameras))], default)


def _listed_cameras(cameras: Sequence[str], value: Any) -> Any:
    """Read a list of all cameras as "all"; leave anything else to the field.

    Raises:
        ValueError: it lists several cameras, but not all.
    """
    written = re.split(r"\s*[,;&+]\s*|\s+and\s+", value) if isinstance(value, str) else value
    if not isinstance(written, (list, tuple)) or len(written) < 2:
        return value
    named = {name.strip(" []'\"") for name in written if isinstance(name, str)}
    if not named <= set(cameras) or len(named) < 2:
        return value
    if named != set(cameras):
        raise ValueError(f"give one camera, or {ALL_CAMERAS!r}, which are {', '.join(cameras)}")
    return ALL_CAMERAS


def _choice(
    name: str,
    names: Sequence[str],
    description: str,
    *,
    required: bool = False,
    other_names: Mapping[str, str] | None = None,
) -> tuple[Any, Any]:
    """Return a field for one of several names, the first by default; `other_names` stand for one of them.

    The enumeration is for the model; the tool checks the name itself, to return a typed error.
    """
    default = "" if required else names[0]
    others = dict(other_names or {})

    def read(value: Any) -> Reading:
        reading = read_choice(value, (*names, *others), own_name=name, default=default)
        if reading.value in names or reading.value not in others:
            return reading
        meant = others[reading.value]
        return Reading(value=meant, read_as=difference(value, meant))

    schema = {"type": "string", "enum": list(names), "description": description}
    return _field(read, schema, ... if required else default)


def _phrases(
    name: str, description: str, max_count: int, *, optional: bool = False, nouns_only: bool = False
) -> tuple[Any, Any]:
    read = functools.partial(
        read_phrases,
        own_name=name,
        max_count=max_count,
        max_chars=MAX_QUERY_CHARS,
        min_count=0 if optional else 1,
        nouns_only=nouns_only,
    )
    return _field(read, _list_schema(description, 0 if optional else 1, max_count), [] if optional else ...)


def _phrase(name: str, description: str, max_chars: int) -> tuple[Any, Any]:
    """Return a field for one phrase, read like a query, so that the two can be compared."""

    def read(value: Any) -> Reading:
        sent = read_text(value, own_name=name, max_chars=max_chars).value
        phrase = read_phrase(sent, max_chars=max_chars)
        return Reading(value=phrase, read_as=difference(value, phrase))

    return _field(read, {"type": "string", "description": description}, ...)


def _text(name: str, description: str, max_chars: int) -> tuple[Any, Any]:
    read = functools.partial(read_text, own_name=name, max_chars=max_chars)
    return _field(read, {"type": "string", "description": description}, ...)


def _ids(
    name: str, description: str, min_count: int, max_count: int, *, more_are_left_out: bool = False
) -> tuple[Any, Any]:
    read = functools.partial(
        read_ids,
        own_name=name,
        min_count=min_count,
        max_count=max_count,
        more_are_left_out=more_are_left_out,
    )
    return _field(read, _list_schema(description, min_count, max_count), ... if min_count else [])


def _object_id() -> tuple[Any, Any]:
    return _required_id("object_id", "id from an earlier answer, e.g. 'f7/m1'")


def _required_id(name: str, description: str, read: Callable[..., Reading] = read_id) -> tuple[Any, Any]:
    schema = {"type": "string", "maxLength": MAX_ID_CHARS, "description": description}
    return _field(functools.partial(read, own_name=name), schema, ...)


def _optional(name: str, description: str, read: Callable[..., Reading]) -> tuple[Any, Any]:
    schema = {"type": "string", "maxLength": MAX_NAME_CHARS, "description": description}
    return _field(functools.partial(read, own_name=name), schema, "")


def _count(name: str, description: str, default: int, largest: int) -> tuple[Any, Any]:
    read = functools.partial(read_count, own_name=name, default=default, largest=largest)
    schema = {"type": "integer", "minimum": 1, "maximum": largest, "description": description}
    return _field(read, schema, default)


def _switch(name: str, description: str) -> tuple[Any, Any]:
    read = functools.partial(read_switch, own_name=name)
    return _field(read, {"type": "boolean", "description": description}, False)


def _list_schema(description: str, min_count: int, max_count: int) -> dict[str, Any]:
    return {
        "type": "array",
        "items": {"type": "string"},
        **({"minItems": min_count} if min_count else {}),
        "maxItems": max_count,
        "description": description,
    }


def _field(read: Callable[[Any], Reading], schema: dict[str, Any], default: Any) -> tuple[Any, Any]:
    """Return a field whose value is read by `read`; models see `schema`."""
    return (Annotated[Any, PlainValidator(read), WithJsonSchema(schema)], default)
