"""The payload of a search by phrases, with advice on what to do next."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from xsam.spatial.phrases import parse_spatial_phrase
from xsam_agent_tools.findings import Findings
from xsam_agent_tools.memory.scene_store import SceneObject
from xsam_agent_tools.phrases import simpler_nouns
from xsam_agent_tools.runtime.time_limits import ImageAge
from xsam_agent_tools.schemas import ALL_CAMERAS, MAX_QUERIES
from xsam_agent_tools.spatial.differences import distinguish
from xsam_agent_tools.spatial.locations import is_locatable
from xsam_agent_tools.text.content import MAX_TRIED, header, object_payload, shorten, suggested_call

MAX_HINT_CHARS = 160


def search_payload(
    findings: Findings,
    *,
    age: ImageAge | None,
    elsewhere: Sequence[str],
    tried: Sequence[str],
    tools: Collection[str],
) -> dict[str, Any]:
    """Build the payload of `segment_objects`.

    Args:
        findings: the new objects and the failures.
        age: age of the image; None = unknown.
        elsewhere: cameras that were not searched yet, for the advice to look there.
        tried: phrases searched for with this camera so far; none of them is suggested again.
        tools: names of the tools that the model has; no other is suggested.
    """
    status = search_status(findings)
    payload = header(status, findings.scene, age)
    payload.update(objects_payload(findings))
    payload["truncated"] = findings.truncated
    if findings.objects and findings.not_found:
        payload["not_found"] = list(findings.not_found)
    if findings.failed:
        payload["failed"] = [
            {"query": phrase, "code": error.code, "message": shorten(error.message)}
            for phrase, error in findings.failed
        ]
    if status == "no_match":
        payload.update(_absence_advice(findings, elsewhere, tried, tools))
    elif status == "unsure":
        payload.update(doubt_advice(findings, elsewhere=elsewhere, tried=tried, tools=tools))
    elif status == "ambiguous":
        payload.update(_ambiguity_advice(findings))
    else:
        payload.update(_location_advice(findings, tools))
    add_hints(payload, findings.hints)
    return payload


def search_status(findings: Findings) -> str:
    """Return the status of a search; "ok" is that of answers that can be acted on."""
    if findings.unsure:
        return "unsure"
    if findings.ambiguous:
        return "ambiguous"
    return "ok" if findings.objects else "no_match"


def objects_payload(findings: Findings) -> dict[str, Any]:
    """List the objects, and apart from them the doubtful ones of phrases that match others for certain."""

    def entry(item: SceneObject) -> dict[str, Any]:
        return object_payload(item, findings.scene.image_hw, same_as=findings.same_as.get(item.object_id))

    payload: dict[str, Any] = {"objects": [entry(item) for item in findings.certain]}
    if findings.possible:
        payload["also_possible"] = [entry(item) for item in findings.possible]
    if findings.more_possible:
        payload["more_possible"] = findings.more_possible
    return payload


def doubt_advice(
    findings: Findings, *, elsewhere: Sequence[str], tried: Sequence[str], tools: Collection[str]
) -> dict[str, Any]:
    """Say which phrases are in doubt, and propose a check: never an action."""
    doubtful = [item for item in findings.objects if item.query in findings.unsure and item.query]
    advice: dict[str, Any] = {}
    if phrases := list(dict.fromkeys(item.query for item in doubtful)):
        advice["unsure"] = phrases
    hint = "what is marked unsure may be something else: check it before you act or answer, or ask the user"
    if elsewhere:
        hint += f"; another camera may tell ({', '.join(elsewhere[:3])})"
    advice["hint"] = hint
    done = {phrase.lower() for phrase in tried}
    for item in doubtful:
        phrase = parse_spatial_phrase(item.query)
        if phrase is not None and phrase.noun not in done and "compare_objects" in tools:
            advice["next"] = suggested_call("segment_objects", [phrase.noun, *phrase.anchors])
            advice["hint"] = f"{hint}; for places, find all of them and use compare_objects"
            return advice
    if findings.certain and "inspect_object" in tools:
        worst = (doubtful or findings.certain)[0]
        advice["next"] = f"inspect_object({worst.object_id!r})"
    return advice


def add_hints(payload: dict[str, Any], hints: Sequence[str]) -> None:
    """Add the segmenter's own hints, which are never left out, to the payload's hint."""
    own = [shorten(part, MAX_HINT_CHARS) for hint in hints for part in hint.split("; ")]
    if own:
        payload["hint"] = "; ".join([*([payload["hint"]] if "hint" in payload else []), *own])


def _absence_advice(
    findings: Findings, elsewhere: Sequence[str], tried: Sequence[str], tools: Collection[str]
) -> dict[str, Any]:
    """Suggest a simpler noun, then another camera, then to report that it is not there."""
    absent = findings.not_found
    hint = "not in this image; the same query gives the same answer: use a simpler noun or a synonym"
    if elsewhere:
        hint += f", or another camera ({', '.join(elsewhere[:3])})"
    advice: dict[str, Any] = {"tried": [*absent], "hint": hint}
    done = {phrase.lower() for phrase in tried}
    nouns = dict.fromkeys(noun for phrase in absent for noun in simpler_nouns(phrase))
    simpler = [noun for noun in nouns if noun not in done]
    if simpler:
        advice["next"] = suggested_call("segment_objects", simpler[:MAX_QUERIES])
    elif elsewhere:
        advice["next"] = suggested_call("segment_objects", absent[:3], camera=elsewhere[0])
    elif "report_not_found" in tools:
        advice["next"] = f"report_not_found({absent[0]!r},{list(tried[-MAX_TRIED:])!r},'not in view')"
    return advice


def absent_everywhere_advice(
    phrases: Sequence[str], tried: Sequence[str], tools: Collection[str]
) -> dict[str, Any]:
    """Suggest a simpler noun for what no camera shows, then to report that it is not there.

    Args:
        phrases: what was searched for.
        tried: phrases searched for so far, with any camera; none of them is suggested again.
        tools: names of the tools that the model has.
    """
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


def _ambiguity_advice(findings: Findings) -> dict[str, Any]:
    candidates = [
        item
        for item in findings.objects
        if item.query in findings.ambiguous and item.object_id not in findings.same_as
    ]
    advice: dict[str, Any] = {"ambiguous": list(findings.ambiguous)}
    if differ := distinguish(findings.scene, candidates):
        advice["differ"] = differ
    advice["hint"] = "several objects fit: pick one by id, add its color or position, or ask the user"
    return advice


def _location_advice(findings: Findings, tools: Collection[str]) -> dict[str, Any]:
    ids = [
        item.object_id
        for item in findings.objects
        if item.object_id not in findings.same_as and is_locatable(findings.scene, item)
    ]
    if ids and "locate_objects_3d" in tools:
        return {"next": suggested_call("locate_objects_3d", ids[:3])}
    return {}
