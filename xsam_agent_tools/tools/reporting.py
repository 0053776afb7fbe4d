"""Reports: `report_not_found` and `perception_status`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xsam.errors import XSamError
from xsam.types.deadline import Deadline
from xsam_agent_tools.errors import NotLookedError, StaleIdError
from xsam_agent_tools.memory.history import PastSearch
from xsam_agent_tools.perception import Perception
from xsam_agent_tools.planner_hints import for_planner
from xsam_agent_tools.runtime.health import segmenter_status
from xsam_agent_tools.runtime.time_limits import ImageAge
from xsam_agent_tools.schemas import ALL_CAMERAS, perception_status_args, report_not_found_args
from xsam_agent_tools.text.artifact import ABSENCE, STATUS
from xsam_agent_tools.text.content import age_payload, error_payload, shorten, suggested_call, to_text
from xsam_agent_tools.tools.definition import Output, Toolbox, ToolSpec, current_conversation

STATUS_DEADLINE_S = 3.0

_REPORT_NOT_FOUND = """\
Say that something is not there, after looking for it: ends the search. query = what was wanted, tried = the \
queries you used, reason = why you take it to be absent. It checks this against what was really asked: \
never_asked lists claimed queries that were not, found_earlier lists objects that did fit, \
unsure_earlier those in doubt, \
cameras_not_used lists views that nobody looked at. Then tell the user honestly.\
"""

_PERCEPTION_STATUS = """\
How the cameras and the model are doing: the age of each camera's newest frame, whether it is fresh enough \
to act on, which model answers, whether it is busy, and how long it takes. Use it when calls fail.\
"""


def report_not_found(toolbox: Toolbox) -> ToolSpec:
    """Build `report_not_found`: an explicit report of absence, checked against the past searches."""
    perception = toolbox.perception

    def run(query: str, tried: list[str], reason: str) -> Output:
        payload: dict[str, Any]
        conversation = current_conversation()
        searches = perception.history.searches(conversation)
        if not searches and not conversation.name:
            payload = {"status": "no_match", "reported": True, "query": query, "unchecked": list(tried)}
            payload["hint"] = "earlier searches are not known here, so nothing of this was checked"
            payload["next"] = "tell the user"
            artifact = {"schema": ABSENCE, "result": payload, "reason": reason, "masks": [], "frame": {}}
            return to_text(payload), artifact
        if not searches:
            hint = f"look first: {suggested_call('segment_objects', [query])}"
            raise NotLookedError(f"nothing was looked for yet, so {query!r} may well be there", hint=hint)
        searched = {phrase.lower() for search in searches for phrase in search.phrases}
        if not any(phrase.lower() in searched for phrase in (query, *tried)):
            hint = f"look for it first: {suggested_call('segment_objects', [query])}"
            raise NotLookedError(f"nobody has looked for {query!r} or what you say you tried", hint=hint)
        payload = {"status": "no_match", "reported": True, "query": query}
        payload["tried"] = [phrase for phrase in tried if phrase.lower() in searched]
        payload["images"] = list(dict.fromkeys(search.image_id for search in searches))[-10:]
        payload.update(age_payload(_newest_age(perception, searches)))
        if never_searched := [phrase for phrase in tried if phrase.lower() not in searched]:
            payload["never_asked"] = never_searched
        certain, doubtful = _found_earlier(perception, searches, [query, *tried])
        if certain:
            payload["found_earlier"] = certain[-5:]
        if doubtful:
            payload["unsure_earlier"] = doubtful[-5:]
        used = {search.camera for search in searches}
        if unused := [camera for camera in perception.cameras if camera not in used]:
            payload["cameras_not_used"] = unused
        payload["next"] = "tell the user"
        # Where the thing itself was never searched for, what was tried in its place stands for it.
        meant = [query] if query.lower() in searched else tried
        still = next(
            (i for i in (_still_found(perception, searches, p) for p in meant) if i is not None), None
        )
        if still is not None:
            payload["status"], payload["reported"] = "unsure", False
            what = still or "something that was not listed"
            payload["hint"] = (
                f"{what} fits, and nobody has looked in vain since: look again before you report"
            )
            payload["next"] = (
                f"track_object({still!r})"
                if still and "track_object" in toolbox.names
                else suggested_call("segment_objects", [query])
            )
        artifact = {"schema": ABSENCE, "result": payload, "reason": reason, "masks": [], "frame": {}}
        return to_text(payload), artifact

    args = report_not_found_args()
    return ToolSpec(name="report_not_found", description=_REPORT_NOT_FOUND, args=args, run=run)


def perception_status(toolbox: Toolbox) -> ToolSpec:
    """Build `perception_status`: cameras, frame ages, model and latency."""
    perception = toolbox.perception

    def run(camera: str = ALL_CAMERAS) -> Output:
        if camera != ALL_CAMERAS or camera in perception.cameras:
            perception.check_camera(camera)
            cameras: Sequence[str] = (camera,)
        else:
            cameras = perception.cameras
        deadline = Deadline(min(STATUS_DEADLINE_S, perception.limits.deadline_s))
        status = segmenter_status(perception.segmenter, deadline_s=max(0.1, deadline.remaining_s / 2))
        reported: dict[str, dict[str, Any]] = status.pop("cameras", {})
        unavailable: XSamError | None = status.pop("unavailable", None)
        payload: dict[str, Any] = {"status": "ok"}
        if unavailable is not None:
            payload = error_payload(for_planner(unavailable))
        payload.update(status)
        payload.setdefault("model", perception.latencies.model_id or "not asked yet")
        if latency := perception.latencies.summary():
            payload["latency"] = latency
        ages = perception.newest_frame_ages(cameras, deadline_s=max(0.05, deadline.remaining_s))
        payload["cameras"] = [
            _camera_payload(perception, name, reported.get(name, {}), ages[name]) for name in cameras
        ]
        if perception.limits.max_age_s is not None:
            payload["max_age_s"] = perception.limits.max_age_s
        payload["images_kept"] = len(perception.store)
        return to_text(payload), {"schema": STATUS, "result": payload, "masks": [], "frame": {}}

    args = perception_status_args(perception.cameras)
    return ToolSpec(name="perception_status", description=_PERCEPTION_STATUS, args=args, run=run)


def _newest_age(perception: Perception, searches: Sequence[PastSearch]) -> ImageAge | None:
    """Return the age of the last searched image; None when it was dropped."""
    try:
        return perception.age(perception.store.scene(searches[-1].image_id))
    except StaleIdError:
        return None


def _found_earlier(
    perception: Perception, searches: Sequence[PastSearch], phrases: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return the ids that past searches found for these phrases: without and with a doubt."""
    wanted = {phrase.lower() for phrase in phrases}
    pairs = (pair for search in searches for pair in search.found)
    ids = [object_id for phrase, object_id in pairs if object_id and phrase.lower() in wanted]
    certain = [object_id for object_id in dict.fromkeys(ids) if not _is_doubtful(perception, object_id)]
    return certain, [object_id for object_id in dict.fromkeys(ids) if object_id not in certain]


def _still_found(perception: Perception, searches: Sequence[PastSearch], phrase: str) -> str | None:
    """Return the id of an object that the last search for a phrase found for certain; None if there is none.

    The id is "" if no such object was listed.

    The last search with each camera counts: what was there and is gone may be reported.
    """
    wanted = phrase.lower()
    last = {
        search.camera: search
        for search in searches
        if wanted in {searched.lower() for searched in search.phrases}
    }
    found = [
        object_id
        for search in last.values()
        for searched, object_id in search.found
        if searched.lower() == wanted and not (object_id and _is_doubtful(perception, object_id))
    ]
    return next(filter(None, found), "") if found else None


def _is_doubtful(perception: Perception, object_id: str) -> bool:
    """Return whether something speaks against an object; nothing is known of one that was dropped."""
    try:
        return bool(perception.store.object(object_id)[1].doubt)
    except XSamError:
        return False


def _camera_payload(
    perception: Perception, name: str, reported: dict[str, Any], newest_age_s: float | XSamError | None
) -> dict[str, Any]:
    """Describe a camera by its newest frame if that arrives in time, else as the segmenter reports it."""
    payload: dict[str, Any] = {"name": name}
    if "problem" in reported:
        payload["problem"] = shorten(reported["problem"], 120)
    age_s = reported.get("age_s")
    if isinstance(newest_age_s, XSamError):
        payload["problem"] = f"{newest_age_s.code}: {shorten(newest_age_s.message, 120)}"
    elif newest_age_s is not None:
        age_s = newest_age_s
    if age_s is not None:
        payload["age_s"] = round(age_s, 2)
        limit_s = perception.limits.max_age_s
        payload["fresh"] = limit_s is None or age_s <= limit_s
    if "rate_hz" in reported:
        payload["rate_hz"] = reported["rate_hz"]
    if (newest := perception.store.newest(name)) is not None:
        payload["last_image"] = newest.image_id
    return payload
