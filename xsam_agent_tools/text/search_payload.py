"""The payload of a search by phrases, with advice on what to do next."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from xsam_agent_tools.findings import Findings
from xsam_agent_tools.perception import ImageAge
from xsam_agent_tools.phrases import simpler_nouns
from xsam_agent_tools.schemas import MAX_QUERIES
from xsam_agent_tools.spatial.differences import distinguish
from xsam_agent_tools.spatial.locations import is_locatable
from xsam_agent_tools.text.content import MAX_TRIED, header, object_payload, shorten, suggested_call


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
    status = "ambiguous" if findings.ambiguous else "ok" if findings.objects else "no_match"
    payload = header(status, findings.scene, age)
    payload["objects"] = [
        object_payload(item, findings.scene.image_hw, same_as=findings.same_as.get(item.object_id))
        for item in findings.objects
    ]
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
    elif status == "ambiguous":
        payload.update(_ambiguity_advice(findings))
    else:
        payload.update(_location_advice(findings, tools))
    return payload


def _absence_advice(
    findings: Findings, elsewhere: Sequence[str], tried: Sequence[str], tools: Collection[str]
) -> dict[str, Any]:
    """Suggest a simpler noun, then another camera, then to report that it is not there."""
    absent = findings.not_found
    hint = "not in this image; the same query gives the same answer: use a simpler noun or a synonym"
    if elsewhere:
        hint += f", or another camera ({', '.join(elsewhere[:3])})"
    if findings.hints:
        hint += f"; {shorten(findings.hints[0], 120)}"
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
