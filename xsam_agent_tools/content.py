"""The text that the language model reads: one compact JSON string an answer.

An object takes about 60 tokens. Numbers are rounded, nothing is repeated, a score that does not
exist is left out; `next` names a call that makes sense and that this toolkit offers.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from pydantic import ValidationError

from xsam.errors import XSamError
from xsam_agent_tools.answers import Answer
from xsam_agent_tools.errors import STALE_CODES
from xsam_agent_tools.phrases import simpler_noun
from xsam_agent_tools.scene_store import SceneObject

MAX_MESSAGE_CHARS = 400

_COLUMNS = ("left", "center", "right")
_ROWS = ("top", "middle", "bottom")


def to_text(payload: dict[str, Any]) -> str:
    """Compact JSON. NaN and infinity, which JSON lacks, are a bug and raise `ValueError`."""
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def answer_payload(
    answer: Answer, *, age_s: float | None, cameras: Sequence[str], tools: Collection[str]
) -> dict[str, Any]:
    """What `segment_objects` found.

    Args:
        answer: the new objects and what went wrong.
        age_s: of the image; None = unknown.
        cameras: all names, for the advice to look elsewhere.
        tools: names of the tools that the model has; no other is suggested.
    """
    height, width = answer.scene.image_hw
    status = "ambiguous" if answer.ambiguous else "ok" if answer.objects else "no_match"
    payload: dict[str, Any] = {
        "status": status,
        "image_id": answer.scene.image_id,
        "camera": answer.scene.camera,
    }
    if age_s is not None:
        payload["age_s"] = round(age_s, 2)
    payload["size"] = [width, height]
    payload["objects"] = [
        object_payload(item, answer.scene.image_hw, same_as=answer.same_as.get(item.object_id))
        for item in answer.objects
    ]
    payload["truncated"] = answer.truncated
    if answer.objects and answer.not_found:
        payload["not_found"] = list(answer.not_found)
    if answer.failed:
        payload["failed"] = [
            {"query": phrase, "code": error.code, "message": _cut(error.message)}
            for phrase, error in answer.failed
        ]
    payload.update(_advice(answer, status, cameras, tools))
    return payload


def object_payload(
    item: SceneObject, image_hw: tuple[int, int], *, same_as: str | None = None
) -> dict[str, Any]:
    """One object: ids, label, score and where it is in the image, in pixels.

    An object that was listed before, under another id, goes without its area to stay short.
    """
    height, width = image_hw
    payload: dict[str, Any] = {"id": item.object_id, "mark": item.mark, "label": item.label}
    if item.score is not None:
        payload["score"] = round(item.score, 2)
    payload["box_xyxy"] = list(item.box_xyxy)
    payload["center_xy"] = list(item.center_xy)
    if same_as is None:
        payload["area_pct"] = _percent(item.mask.area / (height * width))
    payload["where"] = where(item.center_xy, image_hw)
    if same_as is not None:
        payload["same_as"] = same_as
    return payload


def where(point_xy: tuple[int, int], image_hw: tuple[int, int]) -> str:
    """The third of the image that a pixel (x, y) lies in, as words: "left, middle"."""
    height, width = image_hw
    column = min(2, max(0, 3 * point_xy[0] // width))
    row = min(2, max(0, 3 * point_xy[1] // height))
    return f"{_COLUMNS[column]}, {_ROWS[row]}"


def error_payload(error: XSamError) -> dict[str, Any]:
    """A typed refusal or failure. "stale" is a status of its own: old knowledge, not a broken tool."""
    return {
        "status": "stale" if error.code in STALE_CODES else "error",
        "code": error.code,
        "message": _cut(error.message),
        "hint": _cut(error.hint),
        "retryable": bool(error.retryable),
    }


def invalid_arguments_payload(error: ValidationError) -> dict[str, Any]:
    """Why the arguments were refused, so that the model can correct them."""
    reasons = []
    for item in error.errors()[:5]:
        name = ".".join(str(part) for part in item["loc"]) or "arguments"
        reasons.append(f"{name}: {str(item['msg']).removeprefix('Value error, ')}")
    return {
        "status": "error",
        "code": "INVALID_ARGUMENTS",
        "message": _cut("; ".join(reasons)),
        "hint": "correct the arguments and call again",
        "retryable": False,
    }


def _advice(answer: Answer, status: str, cameras: Sequence[str], tools: Collection[str]) -> dict[str, Any]:
    if status == "no_match":
        advice: dict[str, Any] = {"tried": [*answer.not_found], "hint": _absence_hint(answer, cameras)}
        simpler = list(dict.fromkeys(filter(None, map(simpler_noun, answer.not_found))))
        if simpler:
            advice["next"] = _call("segment_objects", simpler)
        return advice
    if status == "ambiguous":
        return {
            "ambiguous": list(answer.ambiguous),
            "hint": "several objects fit: pick one by id, add its colour or position, or ask the user",
        }
    ids = [item.object_id for item in answer.objects if item.object_id not in answer.same_as]
    if ids and "locate_objects_3d" in tools:
        return {"next": _call("locate_objects_3d", ids[:3])}
    return {}


def _absence_hint(answer: Answer, cameras: Sequence[str]) -> str:
    others = [name for name in cameras if name != answer.scene.camera][:3]
    hint = "not in this image; the same query gives the same answer: use a simpler noun or a synonym"
    return f"{hint}, or another camera ({', '.join(others)})" if others else hint


def _call(tool: str, values: Sequence[str]) -> str:
    return f"{tool}([{','.join(map(repr, values))}])"


def _percent(share: float) -> float:
    """Percent with one decimal, small ones with one significant digit."""
    percent = 100 * share
    return round(percent, 1) if percent >= 0.1 else float(f"{percent:.1g}")


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MAX_MESSAGE_CHARS else text[: MAX_MESSAGE_CHARS - 1] + "…"
