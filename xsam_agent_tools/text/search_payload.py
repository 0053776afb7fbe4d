"""What a search by words found, as the payload for the model, with advice on what to do next."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from xsam_agent_tools.perception import Age
from xsam_agent_tools.schemas import MAX_QUERIES
from xsam_agent_tools.spatial.differences import distinguish
from xsam_agent_tools.spatial.locations import has_place
from xsam_agent_tools.text.answers import Answer
from xsam_agent_tools.text.content import MAX_TRIED, call_of, cut, header, object_payload
from xsam_agent_tools.text.phrases import simpler_nouns


def answer_payload(
    answer: Answer,
    *,
    age: Age | None,
    elsewhere: Sequence[str],
    tried: Sequence[str],
    tools: Collection[str],
) -> dict[str, Any]:
    """What `segment_objects` found.

    Args:
        answer: the new objects and what went wrong.
        age: of the image; None = unknown.
        elsewhere: cameras on which this was not looked for yet, for the advice to look there.
        tried: what was looked for with this camera so far; nothing of it is suggested again.
        tools: names of the tools that the model has; no other is suggested.
    """
    status = "ambiguous" if answer.ambiguous else "ok" if answer.objects else "no_match"
    payload = header(status, answer.scene, age)
    payload["objects"] = [
        object_payload(item, answer.scene.image_hw, same_as=answer.same_as.get(item.object_id))
        for item in answer.objects
    ]
    payload["truncated"] = answer.truncated
    if answer.objects and answer.not_found:
        payload["not_found"] = list(answer.not_found)
    if answer.failed:
        payload["failed"] = [
            {"query": phrase, "code": error.code, "message": cut(error.message)}
            for phrase, error in answer.failed
        ]
    payload.update(_advice(answer, status, elsewhere, tried, tools))
    return payload


def absence_advice(
    absent: Sequence[str],
    *,
    elsewhere: Sequence[str],
    tried: Sequence[str],
    tools: Collection[str],
    own: str = "",
) -> dict[str, Any]:
    """What to try when nothing fits: a simpler noun, then another camera, then to say so.

    `own`: what the segmenter itself advises.
    """
    hint = "not in this image; the same query gives the same answer: use a simpler noun or a synonym"
    if elsewhere:
        hint += f", or another camera ({', '.join(elsewhere[:3])})"
    if own:
        hint += f"; {cut(own, 120)}"
    advice: dict[str, Any] = {"tried": [*absent], "hint": hint}
    done = {phrase.lower() for phrase in tried}
    nouns = dict.fromkeys(noun for phrase in absent for noun in simpler_nouns(phrase))
    simpler = [noun for noun in nouns if noun not in done]
    if simpler:
        advice["next"] = call_of("segment_objects", simpler[:MAX_QUERIES])
    elif elsewhere:
        advice["next"] = call_of("segment_objects", absent[:3], camera=elsewhere[0])
    elif "report_not_found" in tools:
        advice["next"] = f"report_not_found({absent[0]!r},{list(tried[-MAX_TRIED:])!r},'not in view')"
    return advice


def _advice(
    answer: Answer, status: str, elsewhere: Sequence[str], tried: Sequence[str], tools: Collection[str]
) -> dict[str, Any]:
    if status == "no_match":
        own = answer.hints[0] if answer.hints else ""
        return absence_advice(answer.not_found, elsewhere=elsewhere, tried=tried, tools=tools, own=own)
    if status == "ambiguous":
        candidates = [
            item
            for item in answer.objects
            if item.query in answer.ambiguous and item.object_id not in answer.same_as
        ]
        advice: dict[str, Any] = {"ambiguous": list(answer.ambiguous)}
        if differ := distinguish(answer.scene, candidates):
            advice["differ"] = differ
        advice["hint"] = "several objects fit: pick one by id, add its color or position, or ask the user"
        return advice
    ids = [
        item.object_id
        for item in answer.objects
        if item.object_id not in answer.same_as and has_place(answer.scene, item)
    ]
    if ids and "locate_objects_3d" in tools:
        return {"next": call_of("locate_objects_3d", ids[:3])}
    return {}
