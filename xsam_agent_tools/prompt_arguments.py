"""Points, boxes and scribbles as a language model writes them: named numbers from 0 to 1000.

0 is the left or upper edge of the image and 1000 the right or lower one, whatever its size in pixels; many
vision-language models are trained to point like this.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from xsam.types.masks import BoolMask
from xsam.types.requests import VisualPrompt

MAX_PROMPTS = 16
MAX_PATH = 50
FULL_SCALE = 1000

_X, _Y = "from the left edge, 0-1000", "from the upper edge, 0-1000"
_SYNONYMS = {"x1": "x", "y1": "y", "x_min": "x", "y_min": "y", "x_max": "x2", "y_max": "y2", "kind": "type"}


class PathPoint(BaseModel):
    """A further point of a scribble."""

    model_config = ConfigDict(extra="forbid")

    x: float = Field(ge=0, le=FULL_SCALE)
    y: float = Field(ge=0, le=FULL_SCALE)


class MarkArguments(BaseModel):
    """A point, a box or a scribble on an image."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["point", "box", "scribble"] = Field(description="what is drawn")
    x: float = Field(ge=0, le=FULL_SCALE, description=f"{_X}; of a box its left side")
    y: float = Field(ge=0, le=FULL_SCALE, description=f"{_Y}; of a box its upper side")
    x2: float = Field(default=0, ge=0, le=FULL_SCALE, description="only of a box: its right side")
    y2: float = Field(default=0, ge=0, le=FULL_SCALE, description="only of a box: its lower side")
    path: list[PathPoint] = Field(
        default=[], max_length=MAX_PATH, description="only of a scribble: the points after x, y"
    )

    @model_validator(mode="before")
    @classmethod
    def _replace_synonyms(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        given = {name: item for name, item in value.items() if item is not None}
        renamed = {_SYNONYMS.get(name, name): item for name, item in given.items()}
        return renamed if len(renamed) == len(given) else value  # a name and its synonym: refused as they are

    @model_validator(mode="after")
    def _check_shape(self) -> MarkArguments:
        if self.type == "box" and not (self.x2 > self.x and self.y2 > self.y):
            raise ValueError("a box needs x2 > x and y2 > y")
        if self.type == "scribble" and not self.path:
            raise ValueError("a scribble needs further points in path")
        return self

    def to_prompt(self, image_hw: tuple[int, int], *, positive: bool) -> VisualPrompt:
        """Convert to a prompt in pixels of an image of (H, W)."""
        height, width = image_hw

        def pixel(x: float, y: float) -> tuple[float, float]:
            return min(width - 1.0, x * width / FULL_SCALE), min(height - 1.0, y * height / FULL_SCALE)

        if self.type == "box":
            corners = (self.x * width, self.y * height, self.x2 * width, self.y2 * height)
            x_min, y_min, x_max, y_max = (corner / FULL_SCALE for corner in corners)
            return VisualPrompt.box(x_min, y_min, x_max, y_max, positive=positive)
        if self.type == "scribble":
            points = [pixel(self.x, self.y), *(pixel(point.x, point.y) for point in self.path)]
            return VisualPrompt.scribble(points, positive=positive)
        return VisualPrompt.point(*pixel(self.x, self.y), positive=positive)


class PromptArguments(MarkArguments):
    """A mark with a label: on the object that is meant, or on something else."""

    label: Literal["positive", "negative"] = Field(
        default="positive", description="positive = on what is meant; negative = on what is not"
    )


def prompt_list_type() -> Any:
    """Return the annotated type of a list of labeled marks, at least one of them positive."""
    return _list_type(PromptArguments, f"1-{MAX_PROMPTS} marks, at least one positive", min_length=1)


def mark_list_type(description: str) -> Any:
    """Return the annotated type of a list of marks without labels."""
    return _list_type(MarkArguments, description, min_length=0)


def satisfies_prompt(mask: BoolMask, prompt: VisualPrompt) -> bool:
    """Return whether a mask (H, W) covers the positive prompt, or excludes the negative one."""
    height, width = mask.shape
    if prompt.points_xy is not None:
        columns, rows = np.clip(np.rint(prompt.points_xy), 0, (width - 1, height - 1)).astype(int).T
        covered = mask[rows, columns]
    elif prompt.box_xyxy is not None:
        x_min, y_min, x_max, y_max = prompt.box_xyxy
        left, top = max(0, int(x_min)), max(0, int(y_min))
        covered = mask[top : max(top + 1, round(y_max)), left : max(left + 1, round(x_max))]
    else:
        covered = mask[prompt.mask] if prompt.mask is not None else mask
    share = float(covered.mean()) if covered.size else 0.0
    # A positive box around an object contains background, too; any other mark is on the object alone.
    if prompt.positive:
        return share >= (0.1 if prompt.box_xyxy is not None else 0.5)
    return share < 0.5


def to_prompts(
    marks: Sequence[MarkArguments], image_hw: tuple[int, int], *, positive: bool | None = None
) -> list[VisualPrompt]:
    """Convert marks to prompts in pixels; without `positive` their own labels decide."""
    return [
        mark.to_prompt(
            image_hw,
            positive=getattr(mark, "label", "positive") == "positive" if positive is None else positive,
        )
        for mark in marks
    ]


def as_list(value: Any, *, item: type[str] | type[dict[str, Any]] = str) -> Any:
    """Convert what models write in place of a list: null, a single item, or the list as JSON text.

    Args:
        value: the argument as it came; anything else is returned unchanged, to be refused by pydantic.
        item: type of the items; where they are strings, only one that begins with "[" is taken for JSON.
    """
    if value is None:
        return []
    if isinstance(value, str) and (item is not str or value.lstrip().startswith("[")):
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    return [value] if isinstance(value, item) else value


def _list_type(item: type[MarkArguments], description: str, *, min_length: int) -> Any:
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
        BeforeValidator(functools.partial(as_list, item=dict)),
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
