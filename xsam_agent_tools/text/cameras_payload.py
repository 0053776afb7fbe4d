"""The payload of a question to all cameras: one list of objects, and what became of each camera."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from xsam.errors import XSamError, error_for_code
from xsam_agent_tools.errors import RepeatedQueryError
from xsam_agent_tools.text.content import shorten

_STATUSES = ("unsure", "ambiguous", "ok", "no_match")  # of the whole: the first that some camera has
_LISTS = ("objects", "also_possible")
_NUMBERS = ("truncated", "more_possible")
_ADVICE = ("unsure", "ambiguous", "differ", "hint", "next")

Part = dict[str, Any]


def cameras_payload(
    parts: Mapping[str, Part | XSamError], *, absence: Callable[[], Mapping[str, Any]]
) -> Part:
    """Merge the payloads of one tool's answers about all cameras.

    What several images share is said once for all; whatever else is said about one image, such as its id and
    age or an answer in words, is in `cameras`.

    Args:
        parts: camera → its payload, or why there is none.
        absence: returns what to add if no camera shows anything.

    Raises:
        XSamError: nothing was found, and some camera could not be looked through: that is not absence.
    """
    found = {name: part for name, part in parts.items() if not isinstance(part, XSamError)}
    lost = {name: part for name, part in parts.items() if isinstance(part, XSamError)}
    status = next((s for s in _STATUSES if any(part["status"] == s for part in found.values())), "no_match")
    if status == "no_match":
        _raise_if_not_searched(found, lost)
    payload: Part = {"status": status, "cameras": [_camera_entry(name, part) for name, part in parts.items()]}
    for key in _LISTS:
        entries = [_with_camera(entry, name) for name, part in found.items() for entry in part.get(key, ())]
        if entries or any(key in part for part in found.values()):
            payload[key] = entries
    for key in _NUMBERS:
        if any(key in part for part in found.values()):
            payload[key] = sum(part.get(key, 0) for part in found.values())
    if status == "no_match":
        return {**payload, **absence()}
    if absent := _absent_everywhere(list(found.values())):
        payload["not_found"] = absent
    deciding = next(part for part in found.values() if part["status"] == status)
    payload.update({key: deciding[key] for key in _ADVICE if key in deciding})
    unsearched = [name for name, error in lost.items() if not isinstance(error, RepeatedQueryError)]
    if unsearched:
        hint = f"not searched: {', '.join(unsearched)}; more may be in view there"
        payload["hint"] = f"{payload['hint']}; {hint}" if "hint" in payload else hint
    return payload


def _camera_entry(name: str, part: Part | XSamError) -> Part:
    if isinstance(part, XSamError):
        return {
            "camera": name,
            "status": "error",
            "code": part.code,
            "message": shorten(part.message, 160),
        }
    shared = {*_LISTS, *_NUMBERS, *_ADVICE, "tried"}
    return {key: value for key, value in part.items() if key not in shared}


def _with_camera(entry: Part, camera: str) -> Part:
    """Add the camera to an object's payload, in place of its area to keep it short."""
    return {**{key: value for key, value in entry.items() if key != "area_pct"}, "camera": camera}


def _absent_everywhere(found: list[Part]) -> list[str]:
    """Return the phrases that no camera has found: one that has found nothing at all lists what it tried."""
    absent = [part.get("tried" if part["status"] == "no_match" else "not_found", []) for part in found]
    return [phrase for phrase in absent[0] if all(phrase in others for others in absent)] if absent else []


def _raise_if_not_searched(found: Mapping[str, Part], lost: Mapping[str, XSamError]) -> None:
    unsearched = {name: e for name, e in lost.items() if not isinstance(e, RepeatedQueryError)}
    if not unsearched and found:
        return
    if not unsearched:
        raise next(iter(lost.values()))
    error = next(iter(unsearched.values()))
    reasons = "; ".join(f"{name}: {shorten(e.message, 100)}" for name, e in unsearched.items())
    seen = [name for name in (*found, *lost) if name not in unsearched]
    elsewhere = f"; nothing was found with {', '.join(seen)}" if seen else ""
    raise error_for_code(
        error.code,
        f"not searched: {reasons}{elsewhere}",
        hint="it may be in view of a camera that was not searched: call again in a moment, or tell the user",
    )
