"""Tools for objects that were found before: `inspect_object` and `filter_objects`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from xsam.errors import InvalidImageError, XSamError
from xsam.types.requests import Query, Task
from xsam_agent_tools.errors import ArgumentsError, UnknownIdError
from xsam_agent_tools.findings import nonempty_segments, raise_if_all_failed
from xsam_agent_tools.memory.scene_store import Scene, SceneObject
from xsam_agent_tools.schemas import filter_objects_args, inspect_object_args
from xsam_agent_tools.spatial.locations import is_locatable, locate
from xsam_agent_tools.text.artifact import segmentation_artifact
from xsam_agent_tools.text.content import (
    doubt_payload,
    header,
    object_payload,
    shorten,
    size_cm,
    suggested_call,
    to_text,
)
from xsam_agent_tools.text.pictures import crop_pictures
from xsam_agent_tools.tools.definition import Output, Toolbox, ToolSpec, current_conversation
from xsam_agent_tools.tools.searching import unsearched_cameras

_INSPECT_OBJECT = """\
Look closely at one object that was found before: its main color, how wide and high its largest piece is \
in pixels, in how many pieces it is seen (more than 1 = partly hidden, or a bad outline), which borders of \
the image cut it off, which other found objects it overlaps, and its distance if the camera has depth; \
looks_like names what an object in doubt may be, best first. The picture, where pictures are on, shows the \
object and its surroundings, without and with its outline; picture.shows_xyxy is the part of the image in it.\
"""

_FILTER_OBJECTS = """\
Correct a wrong set: keep only some of the objects of an image, or drop some. Give either keep or drop, \
ids ('f7/m2') or marks ('2'). Dropped objects vanish from overlays; their ids stay valid and keep brings \
them back.\
"""

MAX_NAMES = 3
MIN_SCORE = 0.1  # of a name for an object in doubt
SAME_PIXELS_IOU = 0.5


def inspect_object(toolbox: Toolbox) -> ToolSpec:
    """Build `inspect_object`: details and crop of one object."""
    perception = toolbox.perception

    def run(object_id: str) -> Output:
        scene, item = perception.store.object(object_id)
        perception.check_scene_age(scene)
        payload = header("unsure" if item.doubt else "ok", scene, perception.age(scene))
        payload["objects"] = [object_payload(item, scene.image_hw)]
        payload.update(_details(scene, item))
        if item.doubt:
            payload.update(_names_of(toolbox, scene, item))
            payload.update(_look_elsewhere(toolbox, scene, item, payload.get("looks_like")))
        images = None
        if toolbox.images != "none":
            images = crop_pictures(scene.frame, item, toolbox.pictures) if scene.frame is not None else []
        return to_text(payload), segmentation_artifact(scene, [item], payload, images=images)

    return ToolSpec(name="inspect_object", description=_INSPECT_OBJECT, args=inspect_object_args(), run=run)


def filter_objects(toolbox: Toolbox) -> ToolSpec:
    """Build `filter_objects`: choose which objects of an image are shown."""
    perception = toolbox.perception

    def run(image_id: str, keep: Sequence[str] = (), drop: Sequence[str] = ()) -> Output:
        if bool(keep) == bool(drop):
            raise ArgumentsError("give either keep or drop, and not both")
        scene = perception.store.scene(image_id)
        perception.check_scene_age(scene)
        named = _resolve_ids(scene, [*keep, *drop])
        shown = named if keep else {item.object_id for item in scene.shown} - named
        scene = perception.store.keep(image_id, shown)
        payload = header("ok", scene, perception.age(scene), size=False)
        payload["kept"] = [
            {"id": item.object_id, "label": item.label, **doubt_payload(item)} for item in scene.shown
        ]
        payload["dropped"] = [item.object_id for item in scene.objects if item.dropped]
        if not scene.shown:
            payload["hint"] = "nothing is left on this image; keep brings objects back"
        images = toolbox.overlays(scene, scene.shown, "kept")
        return to_text(payload), segmentation_artifact(scene, scene.shown, payload, images=images)

    return ToolSpec(name="filter_objects", description=_FILTER_OBJECTS, args=filter_objects_args(), run=run)


def _names_of(toolbox: Toolbox, scene: Scene, item: SceneObject) -> dict[str, Any]:
    """Ask what an object in doubt looks like, among the usual categories; {} where pixels were not kept."""
    if scene.frame is None:
        return {}
    query = Query(task=Task.OPEN_VOCABULARY, thing_classes=toolbox.thing_classes, score_threshold=MIN_SCORE)
    try:
        capture = toolbox.perception.capture([query], camera=scene.camera, image_id=scene.image_id)
        raise_if_all_failed(capture.results)
    except XSamError as error:
        return {"looks_like": f"not known: {error.code}"}
    segments = capture.results[0].segments
    scores: dict[str, float] = {}
    for index in nonempty_segments(capture.results[0]):
        label, score = segments.labels[index], float(segments.scores[index])
        if item.mask.iou(segments.masks[index]) >= SAME_PIXELS_IOU and np.isfinite(score):
            scores[label] = max(score, scores.get(label, 0.0))
    best = sorted(scores.items(), key=lambda pair: -pair[1])[:MAX_NAMES]
    hint = "decide from looks_like and the picture, another camera, or ask the user"
    return {"looks_like": {label: round(score, 2) for label, score in best}, "hint": hint}


def _look_elsewhere(toolbox: Toolbox, scene: Scene, item: SceneObject, names: Any) -> dict[str, Any]:
    """Suggest a camera that was not searched, unless the object looks like what was asked for."""
    best = next(iter(names), "") if isinstance(names, dict) else ""
    if not item.query or (best and re.search(rf"\b{re.escape(best)}(?:e?s)?\b", item.query, re.IGNORECASE)):
        return {}
    others = unsearched_cameras(toolbox, current_conversation(), [item.query], scene.camera)
    return {"next": suggested_call("segment_objects", [item.query], camera=others[0])} if others else {}


def _details(scene: Scene, item: SceneObject) -> dict[str, Any]:
    mask = item.mask.decode()
    x_min, y_min, x_max, y_max = item.box_xyxy
    details: dict[str, Any] = {"size_px": [x_max - x_min, y_max - y_min], "pieces": item.pieces}
    borders = [
        side
        for side, edge in (
            ("left", mask[:, 0]),
            ("top", mask[0]),
            ("right", mask[:, -1]),
            ("bottom", mask[-1]),
        )
        if edge.any()
    ]
    if borders:
        details["cut_off_at"] = borders
    if scene.frame is not None:
        from xsam_agent_tools.spatial.appearance import color_name

        if color := color_name(scene.frame.rgb, mask):
            details["colour"] = color  # the key is a public name: planners and recordings read it
    details.update(_depth_details(scene, item))
    overlaps = {
        other.object_id: round(iou, 2)
        for other in scene.objects
        if other.object_id != item.object_id and (iou := other.mask.iou(item.mask)) >= 0.05
    }
    if overlaps:
        details["overlaps"] = dict(sorted(overlaps.items(), key=lambda pair: -pair[1])[:5])
    if item.parent_id:
        details["parent"] = item.parent_id
    if item.query and item.query != item.label:
        details["query"] = item.query
    return details


def _depth_details(scene: Scene, item: SceneObject) -> dict[str, Any]:
    """Return distance and size where there is depth, or why the depth cannot be used."""
    if not is_locatable(scene, item):
        return {}
    try:
        location = locate(scene, item)
    except InvalidImageError as error:
        return {"depth_problem": shorten(error.message, 160)}
    details: dict[str, Any] = {}
    if location.valid:
        details = {"distance_m": round(location.distance_m, 2), "size_cm": size_cm(location)}
    return {**details, "depth_valid_pct": round(100 * location.depth_valid_ratio)}


def _resolve_ids(scene: Scene, names: Sequence[str]) -> set[str]:
    """Return the ids of the objects with names such as "f7/m2", "m2" or "2" on this image.

    Raises:
        UnknownIdError: a name is not of any object on the image.
    """
    known = {item.object_id: item.object_id for item in scene.objects}
    for item in scene.objects:
        known[f"m{item.mark}"] = known[str(item.mark)] = item.object_id
    unknown = [name for name in names if name not in known]
    if unknown:
        ids = ", ".join(item.object_id for item in scene.objects[:20]) or "none"
        raise UnknownIdError(f"no object {unknown[0][:40]!r} on image {scene.image_id}; it has: {ids}")
    return {known[name] for name in names}
