"""Finding a known object on a new image: `track_object`."""

from __future__ import annotations

from typing import Any

from xsam.errors import StaleFrameError
from xsam.segmenter import Session, video_engine
from xsam.types.deadline import Deadline
from xsam.types.masks import MaskRle
from xsam.types.requests import Query, SegmentationResult, Task, VisualPrompt
from xsam_agent_tools.findings import (
    SAME_IOU,
    nonempty_segments,
    raise_if_all_failed,
    scene_object,
    store_objects,
)
from xsam_agent_tools.memory.scene_store import Scene, SceneObject
from xsam_agent_tools.perception import Perception
from xsam_agent_tools.phrases import query_from_phrase
from xsam_agent_tools.runtime.progress import progress_reporter
from xsam_agent_tools.schemas import SAME_CAMERA, track_object_args
from xsam_agent_tools.spatial.differences import distinguish
from xsam_agent_tools.spatial.matching import Sighting, best_matches
from xsam_agent_tools.text.artifact import segmentation_artifact
from xsam_agent_tools.text.content import header, object_payload, suggested_call, to_text
from xsam_agent_tools.tools.definition import Output, Toolbox, ToolSpec
from xsam_agent_tools.tools.pointing import POINTED_LABELS

_DESCRIPTION = """\
Find an object again on a fresh image, after time has passed or something moved: before acting on it, or \
when an id is stale. Gives a new id (parent = the old one) with the fresh position in the image; match is \
how alike they are in color, size and place (0 to 1), moved_px how far the center moved, right and down. \
ambiguous = several look like it; no_match = it is not in view any more; unsure = what it is was in doubt \
before, or is now.\
"""


def track_object(toolbox: Toolbox) -> ToolSpec:
    """Build `track_object`: find an object again on a fresh frame."""
    perception = toolbox.perception

    def run(object_id: str, camera: str = SAME_CAMERA) -> Output:
        scene, item = perception.store.object(object_id)
        if camera == SAME_CAMERA and camera not in perception.cameras:
            camera = scene.camera
        before = Sighting.of(item, scene.frame, scene.camera)
        progress = progress_reporter("track_object")
        progress("looking", camera=camera, image_id="", queries=[item.label])
        deadline = Deadline(perception.limits.deadline_s)
        followed = _followed(perception, item, scene, deadline) if camera == scene.camera else None
        capture = perception.capture(
            lambda hw: _queries(item, scene, camera, hw, followed), camera=camera, deadline=deadline
        )
        raise_if_all_failed(capture.results)
        candidates = _candidates(capture.results, item)
        sightings = [Sighting.of(candidate, capture.frame, camera) for candidate in candidates]
        matches = best_matches(before, sightings)
        new, objects = store_objects(capture, [candidates[index] for index, _ in matches], perception.store)
        status = "ok" if len(matches) == 1 else "ambiguous" if matches else "no_match"
        if objects and all(found.doubt for found in objects):
            status = "unsure"
        payload = header(status, new, perception.age(new))
        payload["objects"] = [object_payload(found, new.image_hw) for found in objects]
        payload["parent"] = item.object_id
        payload.update(_comparison(before, new, objects, [score for _, score in matches], len(candidates)))
        if status == "no_match" and item.query and not item.query.endswith("?"):
            payload["next"] = suggested_call("segment_objects", [item.label])
        progress("answered", status=status, image_id=new.image_id)
        images = toolbox.overlays(new, objects, f"{item.label}, again")
        return to_text(payload), segmentation_artifact(new, objects, payload, images=images)

    args = track_object_args(perception.cameras)
    return ToolSpec(name="track_object", description=_DESCRIPTION, args=args, run=run)


def _marked(item: SceneObject) -> Query:
    return Query(task=Task.INTERACTIVE, prompts=(VisualPrompt.from_mask(item.mask.decode()),))


def _followed(perception: Perception, item: SceneObject, scene: Scene, deadline: Deadline) -> Session | None:
    """Show the object in its own image to a model with a memory.

    Returns:
        A session for which the new image is the next one; None without a memory, or without that image.
    """
    engine = video_engine(perception.segmenter)
    if engine is None or scene.frame is None:
        return None
    session = engine.open_session(_marked(item), refresh_every=0, late_s=0.0)
    try:
        seen = perception.capture([session], camera=scene.camera, image_id=scene.image_id, deadline=deadline)
    except StaleFrameError:  # it is too old to be queried again
        return None
    return session if seen.results[0].answered else None


def _queries(
    item: SceneObject,
    scene: Scene,
    camera: str,
    image_hw: tuple[int, int],
    followed: Session | None,
) -> list[Query | Session]:
    """Return queries by phrase, by label, and by old position if the camera is the same.

    `followed` has seen the object in its own image, so it needs no position.
    """
    queries: list[Query | Session] = []
    if item.query:
        queries.append(query_from_phrase(item.query))
    if item.label not in POINTED_LABELS and item.label != item.query and not item.label.endswith("…"):
        queries.append(Query(thing_classes=(item.label,)))
    if (camera == scene.camera and image_hw == scene.image_hw) or not queries:
        x_px, y_px = (center * new / old for center, new, old in _scales(item, scene, image_hw))
        if image_hw == scene.image_hw:
            queries.append(followed if followed is not None else _marked(item))
        else:
            queries.append(Query(task=Task.INTERACTIVE, prompts=(VisualPrompt.point(x_px, y_px),)))
    return queries


def _scales(item: SceneObject, scene: Scene, image_hw: tuple[int, int]) -> list[tuple[int, int, int]]:
    """Return (center, new length, old length) along x and y."""
    x_px, y_px = item.center_xy
    return [(x_px, image_hw[1], scene.image_hw[1]), (y_px, image_hw[0], scene.image_hw[0])]


def _candidates(results: list[SegmentationResult], item: SceneObject) -> list[SceneObject]:
    """Return everything that was found, each object once, as children of the tracked one."""
    candidates: list[SceneObject] = []
    masks: list[MaskRle] = []
    for result in results:
        for index in nonempty_segments(result):
            mask = result.segments.masks[index]
            if all(mask.iou(known) <= SAME_IOU for known in masks):
                masks.append(mask)
                # Where a phrase such as "the leftmost mug" points to now does not matter, only what it is.
                own = result.segments.doubts[index] if result.query.thing_classes else ""
                candidates.append(
                    scene_object(
                        result,
                        index,
                        query=item.query,
                        parent_id=item.object_id,
                        label=item.label,
                        doubt=item.doubt or own,
                    )
                )
    return candidates


def _comparison(
    before: Sighting,
    new: Scene,
    objects: tuple[SceneObject, ...],
    scores: list[float],
    candidate_count: int,
) -> dict[str, Any]:
    """Relate the matches to the old sighting, or hint at why there are none."""
    if not objects:
        other = "; what is there looks different" if candidate_count else ""
        return {"hint": f"it is not in view any more{other}: look for it by words, or use another camera"}
    if len(objects) > 1:
        candidates: dict[str, Any] = {
            "match": {item.object_id: round(score, 2) for item, score in zip(objects, scores, strict=True)}
        }
        if differ := distinguish(new, objects):
            candidates["differ"] = differ
        return {**candidates, "hint": "several look like it: pick one by id, or ask the user"}
    comparison: dict[str, Any] = {"match": round(scores[0], 2)}
    same_size = (before.mask.height, before.mask.width) == new.image_hw
    if before.camera == new.camera and same_size:
        (x_old, y_old), (x_new, y_new) = before.center_xy, objects[0].center_xy
        comparison["moved_px"] = [x_new - x_old, y_new - y_old]
        comparison["iou_with_parent"] = round(before.mask.iou(objects[0].mask), 2)
    return comparison
