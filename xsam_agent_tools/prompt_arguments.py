"""Points, boxes and scribbles as a language model writes them, placed on an image in its pixels.

One unit: pixels of the `size` that answers state. Fractions from 0 to 1 can be nothing else, so they are
converted, and the answer says so. Whatever lies outside the image is refused, and with it most coordinates
from 0 to 1000.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from xsam.types.requests import VisualPrompt
from xsam_agent_tools.errors import ArgumentsError
from xsam_agent_tools.reading import written_items

MAX_PROMPTS = 16
MAX_PATH = 50
FRACTIONS = "fractions of width and height"
_THOUSANDTHS = 1000  # many vision-language models are trained to point like this
_MAX_ECHOED_POINTS = 6

_X, _Y = "pixels from the left edge", "pixels from the upper edge"
_SYNONYMS = {
    **{"x1": "x", "y1": "y", "x_min": "x", "y_min": "y", "x_max": "x2", "y_max": "y2", "kind": "type"},
    **{
        "coordinates": "point",
        "box_xyxy": "box",
        "xyxy": "box",
        "center_xy": "point",
        "point_xy": "point",
        "xy": "point",
    },
}
_LABELS = {
    **{"1": "positive", "true": "positive", "+": "positive", "foreground": "positive", "include": "positive"},
    **{
        "0": "negative",
        "false": "negative",
        "-": "negative",
        "background": "negative",
        "exclude": "negative",
    },
}
_EXAMPLE = '{"type":"point","x":150,"y":170}'
_UNCLEAR = {"bbox": "x, y, width, height or two corners", "box_2d": "rows or columns first"}


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("it must be a number of pixels")
    return value


# An integer to the model, any finite number to us: a fraction is read, or refused with a reason.
Pixels = Annotated[
    float,
    Field(allow_inf_nan=False),
    BeforeValidator(_refuse_bool),
    WithJsonSchema({"type": "integer", "minimum": 0}),
]


class PathPoint(BaseModel):
    """A further point of a scribble."""

    model_config = ConfigDict(extra="forbid")

    x: Pixels
    y: Pixels

    @model_validator(mode="before")
    @classmethod
    def _name_pair(cls, value: Any) -> Any:
        return dict(zip("xy", value, strict=True)) if _is_list(value, 2) else value


class MarkArguments(BaseModel):
    """A point, a box or a scribble on an image, as it was sent."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["point", "box", "scribble"] = Field(description="what is drawn")
    x: Pixels = Field(description=f"{_X}; of a box its left side")
    y: Pixels = Field(description=f"{_Y}; of a box its upper side")
    x2: Pixels = Field(default=0, description="only of a box: its right side")
    y2: Pixels = Field(default=0, description="only of a box: its lower side")
    path: list[PathPoint] = Field(
        default=[], max_length=MAX_PATH, description="only of a scribble: the points after x, y"
    )

    @model_validator(mode="before")
    @classmethod
    def _read_spellings(cls, value: Any) -> Any:
        """Accept other names for the fields, pairs and boxes as lists, and a type that follows from them."""
        if isinstance(value, MarkArguments):
            return value
        if not isinstance(value, dict):
            raise ValueError(f"a mark is an object such as {_EXAMPLE}, got {value!r:.40}")
        given = {name: item for name, item in value.items() if item is not None}
        for name, meanings in _UNCLEAR.items():
            if name in given:
                raise ValueError(f"{name} may mean {meanings}: send x, y, x2, y2 in pixels")
        renamed = {_SYNONYMS.get(name, name): item for name, item in given.items()}
        if len(renamed) != len(given):
            return value  # a name and its synonym: refused as they are
        points = renamed.get("points")
        if isinstance(points, (list, tuple)) and len(points) > 1 and not {"x", "y", "path"} & set(renamed):
            first, *path = renamed.pop("points")
            corner = dict(first) if isinstance(first, dict) else {"point": first}
            renamed = {**corner, **renamed, "path": path}
        for name, names in (("point", ("x", "y")), ("box", ("x", "y", "x2", "y2"))):
            if _is_list(renamed.get(name), len(names)) and not set(names) & set(renamed):
                renamed |= zip(names, renamed.pop(name), strict=True)
                renamed.setdefault("type", "scribble" if renamed.get("path") else name)
        if "label" in renamed:
            label = str(renamed["label"]).strip().lower()
            renamed["label"] = _LABELS.get(label, label)
        is_box, is_scribble = {"x2", "y2"} <= set(renamed), bool(renamed.get("path"))
        renamed.setdefault("type", "scribble" if is_scribble else "box" if is_box else "point")
        if isinstance(renamed["type"], str):
            renamed["type"] = renamed["type"].strip().lower()
        return renamed

    @model_validator(mode="after")
    def _check_shape(self) -> MarkArguments:
        if self.type == "box" and not (self.x2 > self.x and self.y2 > self.y):
            raise ValueError("a box needs x2 > x and y2 > y")
        if self.type != "box" and (self.x2 or self.y2):
            raise ValueError(f"x2 and y2 belong to a box, not to a {self.type}")
        if self.type == "scribble" and not self.path:
            raise ValueError("a scribble needs further points in path")
        if self.type != "scribble" and self.path:
            raise ValueError(f"path belongs to a scribble, not to a {self.type}")
        return self

    @property
    def coordinates(self) -> list[tuple[float, float]]:
        """The points of the mark, (x, y) as they were sent; of a box its two corners."""
        if self.type == "box":
            return [(self.x, self.y), (self.x2, self.y2)]
        return [(self.x, self.y), *((point.x, point.y) for point in self.path)]


class PromptArguments(MarkArguments):
    """A mark with a label: on the object that is meant, or on something else."""

    label: Literal["positive", "negative"] = Field(
        default="positive", description="positive = on what is meant; negative = on what is not"
    )

    @property
    def positive(self) -> bool:
        return self.label == "positive"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedMarks:
    """Marks on an image in its pixels.

    Attributes:
        prompts: one for each mark, in the order of the marks.
        unit: how the numbers were read if they were no pixels; empty for pixels.
    """

    prompts: tuple[VisualPrompt, ...]
    unit: str = ""

    def payload(self, targets: Sequence[dict[str, str]] = ()) -> dict[str, Any]:
        """Return the marks in integer pixels for an answer, and how their numbers were read.

        Args:
            targets: for each mark what it is on, to be told with it.
        """
        marks = [_echo(prompt) for prompt in self.prompts]
        for mark, target in zip(marks, targets, strict=False):
            mark.update(target)
        payload: dict[str, Any] = {"marks_px": marks}
        if self.unit:
            payload["read_as"] = {self.unit: "pixels, see marks_px"}
        return payload


def place_marks(marks: Sequence[tuple[MarkArguments, bool]], image_hw: tuple[int, int]) -> PlacedMarks:
    """Place marks on an image of (H, W); all numbers of a call have one unit.

    Args:
        marks: each with whether it is positive.
        image_hw: size of the image in pixels.

    Raises:
        ArgumentsError: a mark lies outside the image, or its numbers may have another unit.
    """
    height, width = image_hw
    numbers = [number for mark, _ in marks for point in mark.coordinates for number in point]
    parts = [number for number in numbers if 0 < number < 1]
    if parts and not all(0 <= number <= 1 for number in numbers):
        raise ArgumentsError(
            f"{parts[0]:g} is a fraction and {max(numbers):g} is not: the marks have two units",
            hint=f"give all of them in whole pixels of size [{width},{height}]",
        )
    if not parts and any(mark.type == "box" for mark, _ in marks) and max(numbers) <= 1:
        raise ArgumentsError(
            "a box from 0 to 1 may be one pixel or the whole image",
            hint=f"give whole pixels of size [{width},{height}]",
        )
    scale = (width, height) if parts else (1, 1)
    prompts = []
    for mark, positive in marks:
        points = [(x * scale[0], y * scale[1]) for x, y in mark.coordinates]
        largest = (width, height) if mark.type == "box" or parts else (width - 1, height - 1)
        for (x_sent, y_sent), (x_px, y_px) in zip(mark.coordinates, points, strict=True):
            if not (0 <= round(x_px) <= largest[0] and 0 <= round(y_px) <= largest[1]):
                raise ArgumentsError(
                    f"({x_sent:g}, {y_sent:g}) is outside the image of {width}×{height} pixels",
                    hint=_pixel_hint(numbers, (x_sent, y_sent), width, height),
                )
        prompts.append(_prompt(mark.type, points, (width, height), positive=positive))
    return PlacedMarks(prompts=tuple(prompts), unit=FRACTIONS if parts else "")


def prompt_list_type() -> Any:
    """Return the annotated type of a list of labeled marks, at least one of them positive."""
    return _list_type(
        PromptArguments, "prompts", f"1-{MAX_PROMPTS} marks, at least one positive", min_length=1
    )


def mark_list_type(own_name: str, description: str) -> Any:
    """Return the annotated type of a list of marks without labels."""
    return _list_type(MarkArguments, own_name, description, min_length=0)


def _prompt(
    kind: str, points: Sequence[tuple[float, float]], size: tuple[int, int], *, positive: bool
) -> VisualPrompt:
    """Build the prompt in whole pixels; a box has at least one."""
    width, height = size
    if kind == "box":
        (x_min, y_min), (x_max, y_max) = points
        left, top = min(math.floor(x_min), width - 1), min(math.floor(y_min), height - 1)
        right, bottom = max(left + 1, round(x_max)), max(top + 1, round(y_max))
        return VisualPrompt.box(left, top, right, bottom, positive=positive)
    pixels = [(float(min(round(x), width - 1)), float(min(round(y), height - 1))) for x, y in points]
    if kind == "scribble":
        return VisualPrompt.scribble(pixels, positive=positive)
    return VisualPrompt.point(*pixels[0], positive=positive)


def _pixel_hint(numbers: Sequence[float], sent: tuple[float, float], width: int, height: int) -> str:
    hint = f"give whole pixels of size [{width},{height}], as in box_xyxy and center_xy"
    if min(numbers) >= 0 and max(numbers) <= _THOUSANDTHS:
        x_px, y_px = round(sent[0] * width / _THOUSANDTHS), round(sent[1] * height / _THOUSANDTHS)
        hint += f"; if you meant thousandths of width and height, that is ({x_px}, {y_px})"
    return hint


def _echo(prompt: VisualPrompt) -> dict[str, Any]:
    echo: dict[str, Any] = {}
    if prompt.box_xyxy is not None:
        echo["box"] = [round(number) for number in prompt.box_xyxy]
    elif prompt.points_xy is not None:
        pixels = [[int(x), int(y)] for x, y in prompt.points_xy.tolist()]
        if prompt.kind.value == "point":
            echo["point"] = pixels[0]
        else:
            echo["scribble"] = pixels[:_MAX_ECHOED_POINTS]
            if len(pixels) > _MAX_ECHOED_POINTS:
                echo["points"] = len(pixels)
    if not prompt.positive:
        echo["label"] = "negative"
    return echo


def _is_list(value: Any, length: int) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == length


def _list_type(item: type[MarkArguments], own_name: str, description: str, *, min_length: int) -> Any:
    schema = {
        "type": "array",
        "items": _inline_schema(item),
        **({"minItems": min_length} if min_length else {}),
        "maxItems": MAX_PROMPTS,
        "description": description,
    }
    return Annotated[
        list[item],  # type: ignore[valid-type]
        Field(min_length=min_length, max_length=MAX_PROMPTS),
        BeforeValidator(functools.partial(written_items, own_name=own_name, of_objects=True)),
        WithJsonSchema(schema),
    ]


def _inline_schema(item: type[BaseModel]) -> dict[str, Any]:
    """Return the item's JSON schema without references, titles and `additionalProperties`."""
    schema = item.model_json_schema()
    definitions = schema.pop("$defs", {})
    resolved: dict[str, Any] = _without_references(schema, definitions)
    return resolved


def _without_references(part: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(part, list):
        return [_without_references(value, definitions) for value in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        return _without_references(definitions[part["$ref"].rpartition("/")[2]], definitions)
    if "properties" in part:
        properties = {
            name: _without_references(value, definitions) for name, value in part["properties"].items()
        }
        return {"type": "object", "properties": properties, "required": part.get("required", [])}
    dropped = ("title", "additionalProperties")
    return {
        name: _without_references(value, definitions) for name, value in part.items() if name not in dropped
    }
