"""The payload of a search with all cameras: one list of objects, and what became of each camera."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from xsam.errors import XSamError, error_for_code
from xsam_agent_tools.errors import RepeatedQueryError
from xsam_agent_tools.findings import Findings
from xsam_agent_tools.phrases import simpler_nouns
from xsam_agent_tools.runtime.time_limits import ImageAge
from xsam_agent_tools.schemas import ALL_CAMERAS, MAX_QUERIES
from xsam_agent_tools.text.content import MAX_TRIED, shorten, suggested_call
from xsam_agent_tools.text.search_payload import search_payload

_OF_A_CAMERA = ("status", "camera", "image_id", "age_s", "age_from", "size", "notes", "not_found", "failed")
_ADVICE = ("unsure", "ambiguous", "differ", "hint", "next")


def cameras_payload(
    outcomes: Mapping[str, Findings | XSamError],
    ages: Mapping[str, ImageAge | None],
    *,
    phrases: Sequence[str],
    tried: Sequence[str],
    tools: Collection[str],
) -> dict[str, Any]:
    """Build the payload of `segment_objects` with all cameras.

    Args:
        outcomes: camera → its findings, or why it was not searched.
        ages: camera → age of its image.
        phrases: what was searched for.
        tried: phrases searched for so far.
        tools: names of the tools that the model has.

    Raises:
        XSamError: nothing was found, and some camera could not be searched: that is not absence.
    """
    found = {name: result for name, result in outcomes.items() if not isinstance(result, XSamError)}
    lost = {name: error for name, error in outcomes.items() if isinstance(error, XSamError)}
    if not any(findings.objects for findings in found.values()):
        _raise_if_not_searched(found, lost)
    parts = {
        name: search_payload(findings, age=ages.get(name), elsewhere=(), tried=tried, tools=tools)
        for name, findings in found.items()
    }
    statuses = [part["status"] for part in parts.values()]
    status = next(s for s in ("unsure", "ambiguous", "ok", "no_match") if s in statuses)
    payload: dict[str, Any] = {"status": status, "cameras": [], "objects": []}
    for name in outcomes:
        if name in lost:
            error = lost[name]
            payload["cameras"].append(
                {
                    "camera": name,
                    "status": "error",
                    "code": error.code,
                    "message": shorten(error.message, 160),
                }
            )
            continue
        part = parts[name]
        payload["cameras"].append({key: part[key] for key in _OF_A_CAMERA if key in part})
        payload["objects"] += [_with_camera(entry, name) for entry in part["objects"]]
        if "also_possible" in part:
            payload.setdefault("also_possible", []).extend(
                _with_camera(entry, name) for entry in part["also_possible"]
            )
    payload["truncated"] = sum(findings.truncated for findings in found.values())
    absent = [p for p in phrases if all(p in findings.not_found for findings in found.values())]
    if status == "no_match":
        payload.update(_absence_advice(phrases, tried, tools))
        return payload
    if absent:
        payload["not_found"] = absent
    deciding = next(part for part in parts.values() if part["status"] == status)
    payload.update({key: deciding[key] for key in _ADVICE if key in deciding})
    unsearched = [name for name, error in lost.items() if not isinstance(error, RepeatedQueryError)]
    if unsearched:
        hint = f"not searched: {', '.join(unsearched)}; more may be in view there"
        payload["hint"] = f"{payload['hint']}; {hint}" if "hint" in payload else hint
    return payload


def _with_camera(entry: dict[str, Any], camera: str) -> dict[str, Any]:
    """Add the camera to an object's payload, in place of its area to keep it short."""
    return {**{key: value for key, value in entry.items() if key != "area_pct"}, "camera": camera}


def _raise_if_not_searched(found: Mapping[str, Findings], lost: Mapping[str, XSamError]) -> None:
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


def _absence_advice(phrases: Sequence[str], tried: Sequence[str], tools: Collection[str]) -> dict[str, Any]:
    advice: dict[str, Any] = {
        "tried": list(phrases),
        "hint": "in view of no camera; the same query gives the same answer: use a simpler noun or a synonym",
    }
    done = {phrase.lower() for phrase in (*tried, *phrases)}
    nouns = dict.fromkeys(noun for phrase in phrases for noun in simpler_nouns(phrase))
    if simpler := [noun for noun in nouns if noun not in done]:
        advice["next"] = suggested_call("segment_objects", simpler[:MAX_QUERIES], camera=ALL_CAMERAS)
    elif "report_not_found" in tools:
        advice["next"] = f"report_not_found({phrases[0]!r},{list(tried[-MAX_TRIED:])!r},'not in view')"
    return advice
