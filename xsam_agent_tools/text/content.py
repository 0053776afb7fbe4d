"""The text that the language model reads: one compact JSON string per tool call.

An object takes about 60 tokens. Numbers are rounded, nothing is repeated, a missing score is left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from xsam.errors import XSamError
from xsam.types.location import Location3D
from xsam_agent_tools.errors import STALE_CODES, RepeatedQueryError
from xsam_agent_tools.memory.scene_store import Scene, SceneObject
from xsam_agent_tools.planner_hints import planner_hint
from xsam_agent_tools.reading import visible_text
from xsam_agent_tools.runtime.time_limits import ImageAge
from xsam_agent_tools.spatial.gripping import GripWidth, roll_pitch_yaw_deg

MAX_MESSAGE_CHARS = 400
MAX_TRIED = 12
MAX_NOTES = 4
GOOD_DEPTH_RATIO = 0.7  # below, the share of pixels with depth is told instead of how the box is turned
MAX_NOTE_CHARS = 160
MAX_DOUBT_CHARS = 60

_COLUMNS = ("left", "center", "right")
_ROWS = ("top", "middle", "bottom")


def to_text(payload: dict[str, Any]) -> str:
    """Serialize to compact JSON without invisible characters, whoever wrote the texts.

    NaN and infinity, which JSON lacks, are a bug and raise `ValueError`.
    """
    return json.dumps(_visible(payload), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _visible(value: Any) -> Any:
    if isinstance(value, str):
        return visible_text(value)
    if isinstance(value, dict):
        return {_visible(key): _visible(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_visible(item) for item in value]
    return value


def header(status: str, scene: Scene, age: ImageAge | None, *, size: bool = True) -> dict[str, Any]:
    """Build the first fields of every payload about one image."""
    payload: dict[str, Any] = {"status": status, "image_id": scene.image_id, "camera": scene.camera}
    payload.update(age_payload(age))
    if size:
        height, width = scene.image_hw
        payload["size"] = [int(width), int(height)]
    return {**payload, **notes_payload(scene.notes)}


def notes_payload(notes: Sequence[str]) -> dict[str, Any]:
    """Return what limits the accuracy of colors and positions, {} for nothing."""
    return {"notes": [shorten(note, MAX_NOTE_CHARS) for note in notes[:MAX_NOTES]]} if notes else {}


def age_payload(age: ImageAge | None) -> dict[str, Any]:
    """Return `age_s`, and `age_from` when the image has no usable stamp; {} for an unknown age."""
    if age is None:
        return {}
    payload: dict[str, Any] = {"age_s": round(age.seconds, 2)}
    return {**payload, "age_from": "arrival"} if age.from_arrival else payload


def object_payload(
    item: SceneObject, image_hw: tuple[int, int], *, same_as: str | None = None
) -> dict[str, Any]:
    """Describe one object: ids, label, score, and its position in the image in pixels.

    With more than one piece, box and center are those of the largest. To keep it short, the area is left out
    where there is more important news: the pieces, what speaks against the object, or that it was listed
    before under another id (`same_as`), which has the region, too.
    """
    height, width = image_hw
    payload: dict[str, Any] = {"id": item.object_id, "mark": item.mark, "label": item.label}
    if item.score is not None:
        payload["score"] = round(item.score, 2)
    payload["box_xyxy"] = list(item.box_xyxy)
    if item.pieces > 1 and same_as is None:
        payload["pieces"] = item.pieces
    payload["center_xy"] = list(item.center_xy)
    if same_as is None and item.pieces == 1 and not item.doubt:
        payload["area_pct"] = percent(item.mask.area / (height * width))
    if same_as is None:
        payload["where"] = image_region(item.center_xy, image_hw)
    else:
        payload["same_as"] = same_as
    return {**payload, **doubt_payload(item)}


def doubt_payload(item: SceneObject) -> dict[str, Any]:
    """Return what speaks against an object, {} for nothing."""
    return {"unsure": shorten(item.doubt, MAX_DOUBT_CHARS)} if item.doubt else {}


def location_payload(
    item: SceneObject, location: Location3D, frame: str = "", *, grip: GripWidth | None = None
) -> dict[str, Any]:
    """Describe the location of one object, in meters to the millimeter, or why it is not known.

    Args:
        item: the object.
        location: its location.
        frame: name of the frame; given only when the objects of a payload are in different frames.
        grip: width to grip; None = not known.
    """
    label = (item.label.split() or [""])[-1]  # the noun, to keep it short; all of it was given with the id
    payload: dict[str, Any] = {"id": item.object_id, "label": label}
    if not location.valid:
        return {**payload, "located": False, "reason": shorten(location.reason, 120)}
    x, y, z = (round(value, 3) for value in location.position_m)
    payload["position_m"] = {"x": x, "y": y, "z": z}
    if frame:
        payload["frame"] = frame
    payload["distance_m"] = round(location.distance_m, 2)
    payload["size_cm"] = size_cm(location)
    if location.depth_valid_ratio < GOOD_DEPTH_RATIO:
        payload["depth_valid_pct"] = round(100 * location.depth_valid_ratio)
        return {**payload, **doubt_payload(item)}
    payload["rpy_deg"] = list(roll_pitch_yaw_deg(location.orientation_xyzw))
    if grip is not None:
        width_cm = round(100 * grip.width_m)
        payload["grip_cm"] = f">={width_cm}" if grip.at_least else width_cm  # no number to compute with
    return {**payload, **doubt_payload(item)}


def size_cm(location: Location3D) -> list[int]:
    """Return length, width and thickness of the visible part, in whole centimeters to save tokens."""
    return sorted((round(100 * value) for value in location.size_m), reverse=True)


def image_region(point_xy: tuple[int, int], image_hw: tuple[int, int]) -> str:
    """Name the region of the image, out of nine, that a pixel (x, y) lies in: "left, middle"."""
    height, width = image_hw
    column = min(2, max(0, 3 * point_xy[0] // width))
    row = min(2, max(0, 3 * point_xy[1] // height))
    return f"{_COLUMNS[column]}, {_ROWS[row]}"


def error_payload(error: XSamError) -> dict[str, Any]:
    """Describe a refusal or failure. "stale" is a status of its own: old knowledge, not a broken tool."""
    payload: dict[str, Any] = {
        "status": "stale" if error.code in STALE_CODES else "error",
        "code": error.code,
        "message": shorten(error.message),
        "hint": shorten(planner_hint(error)),
        "retryable": bool(error.retryable),
    }
    if isinstance(error, RepeatedQueryError):
        payload["tried"] = list(error.tried[-MAX_TRIED:])
    return payload


def invalid_arguments_payload(error: ValidationError) -> dict[str, Any]:
    """Describe why the arguments were refused, so that the model can correct them."""
    reasons = []
    for item in error.errors()[:5]:
        name = ".".join(str(part) for part in item["loc"]) or "arguments"
        reasons.append(f"{name}: {str(item['msg']).removeprefix('Value error, ')}")
    return {
        "status": "error",
        "code": "INVALID_ARGUMENTS",
        "message": shorten("; ".join(reasons)),
        "hint": "correct the arguments and call again",
        "retryable": False,
    }


def suggested_call(tool: str, values: Sequence[str], **options: str) -> str:
    """Format a call for the model in Python's syntax: `segment_objects(['mug'],camera='wrist')`."""
    keywords = "".join(f",{name}={value!r}" for name, value in options.items())
    return f"{tool}([{','.join(map(repr, values))}]{keywords})"


def percent(share: float) -> float:
    """Convert a share to percent with one decimal, or one significant digit below 0.1 %."""
    value = 100 * share
    return round(value, 1) if value >= 0.1 else float(f"{value:.1g}")


def shorten(text: str, limit: int = MAX_MESSAGE_CHARS) -> str:
    """Put the text on one line and cut it to a number of characters."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
