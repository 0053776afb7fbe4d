"""Saying how things are: `report_not_found` and `perception_status`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from xsam.errors import XSamError
from xsam_agent_tools.errors import NotLookedError, StaleIdError
from xsam_agent_tools.memory.history import PastLook
from xsam_agent_tools.perception import Age, Perception
from xsam_agent_tools.runtime.health import own_status
from xsam_agent_tools.schemas import ALL_CAMERAS, perception_status_args, report_not_found_args
from xsam_agent_tools.text.artifact import ABSENCE, STATUS
from xsam_agent_tools.text.content import age_payload, call_of, cut, error_payload, to_text
from xsam_agent_tools.tools.definition import Output, Toolbox, ToolSpec, conversation

STATUS_DEADLINE_S = 3.0

_REPORT_NOT_FOUND = """\
Say that something is not there, after looking for it: ends the search. query = what was wanted, tried = the \
queries you used, reason = why you take it to be absent. It checks this against what was really asked: \
never_asked lists claimed queries that were not, found_earlier lists objects that did fit, \
cameras_not_used lists views that nobody looked at. Then tell the user honestly.\
"""

_PERCEPTION_STATUS = """\
How the cameras and the model are doing: the age of each camera's newest frame, whether it is fresh enough \
to act on, which model answers, whether it is busy, and how long it takes. Use it when calls fail.\
"""


def report_not_found(box: Toolbox) -> ToolSpec:
    """Explicit absence."""
    perception = box.perception

    def run(query: str, tried: list[str], reason: str) -> Output:
        looks = perception.history.looks(conversation())
        if not looks:
            hint = f"look first: {call_of('segment_objects', [query])}"
            raise NotLookedError(f"nothing was looked for yet, so {query!r} may well be there", hint=hint)
        asked = {phrase.lower() for look in looks for phrase in look.phrases}
        payload: dict[str, Any] = {"status": "no_match", "reported": True, "query": query}
        payload["tried"] = [phrase for phrase in tried if phrase.lower() in asked]
        payload["images"] = list(dict.fromkeys(look.image_id for look in looks))[-10:]
        payload.update(age_payload(_newest_age(perception, looks)))
        if never := [phrase for phrase in tried if phrase.lower() not in asked]:
            payload["never_asked"] = never
        if found := _found(looks, [query, *tried]):
            payload["found_earlier"] = found[-5:]
        used = {look.camera for look in looks}
        if unused := [camera for camera in perception.cameras if camera not in used]:
            payload["cameras_not_used"] = unused
        payload["next"] = "tell the user"
        artifact = {"schema": ABSENCE, "result": payload, "reason": reason, "masks": [], "frame": {}}
        return to_text(payload), artifact

    args = report_not_found_args()
    return ToolSpec(name="report_not_found", description=_REPORT_NOT_FOUND, args=args, run=run)


def perception_status(box: Toolbox) -> ToolSpec:
    """Cameras, frame age, model and latency."""
    perception = box.perception

    def run(camera: str = ALL_CAMERAS) -> Output:
        if camera != ALL_CAMERAS or camera in perception.cameras:
            perception.check_camera(camera)
            cameras: Sequence[str] = (camera,)
        else:
            cameras = perception.cameras
        ends_s = time.monotonic() + min(STATUS_DEADLINE_S, perception.limits.deadline_s)
        own = own_status(perception.segmenter, deadline_s=max(0.1, (ends_s - time.monotonic()) / 2))
        own_cameras: dict[str, dict[str, Any]] = own.pop("cameras", {})
        unavailable: XSamError | None = own.pop("unavailable", None)
        payload: dict[str, Any] = {"status": "ok"}
        if unavailable is not None:
            payload = error_payload(unavailable)
        payload.update(own)
        payload.setdefault("model", perception.latencies.model_id or "not asked yet")
        if latency := perception.latencies.summary():
            payload["latency"] = latency
        payload["cameras"] = [
            _camera(perception, name, own_cameras.get(name, {}), ends_s) for name in cameras
        ]
        if perception.limits.max_age_s is not None:
            payload["max_age_s"] = perception.limits.max_age_s
        payload["images_kept"] = len(perception.store)
        return to_text(payload), {"schema": STATUS, "result": payload, "masks": [], "frame": {}}

    args = perception_status_args(perception.cameras)
    return ToolSpec(name="perception_status", description=_PERCEPTION_STATUS, args=args, run=run)


def _newest_age(perception: Perception, looks: Sequence[PastLook]) -> Age | None:
    """Age of the newest image that was looked at and is still kept."""
    for look in reversed(looks):
        try:
            return perception.age(perception.store.scene(look.image_id))
        except StaleIdError:  # made room since; an older one is of no use either
            return None
    return None


def _found(looks: Sequence[PastLook], phrases: Sequence[str]) -> list[str]:
    wanted = {phrase.lower() for phrase in phrases}
    ids = [object_id for look in looks for phrase, object_id in look.found if phrase.lower() in wanted]
    return list(dict.fromkeys(ids))


def _camera(perception: Perception, name: str, own: dict[str, Any], ends_s: float) -> dict[str, Any]:
    """One camera: by its newest frame if it can be fetched in time, else by what the segmenter says."""
    said: dict[str, Any] = {"name": name}
    if "problem" in own:
        said["problem"] = cut(own["problem"], 120)
    age_s = own.get("age_s")
    try:
        fetched = perception.newest_frame_age(name, within_s=max(0.05, ends_s - time.monotonic()))
        age_s = fetched if fetched is not None else age_s
    except XSamError as error:
        said["problem"] = f"{error.code}: {cut(error.message, 120)}"
    if age_s is not None:
        said["age_s"] = round(age_s, 2)
        limit_s = perception.limits.max_age_s
        said["fresh"] = limit_s is None or age_s <= limit_s
    if "rate_hz" in own:
        said["rate_hz"] = own["rate_hz"]
    if (seen := perception.store.newest(name)) is not None:
        said["last_image"] = seen.image_id
    return said
