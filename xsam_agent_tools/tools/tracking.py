"""The same object on a new image: `track_object`."""

from __future__ import annotations

from typing import Any

from xsam.types.masks import MaskRle
from xsam.types.requests import Query, SegmentationResult, Task, VisualPrompt
from xsam_agent_tools.memory.matching import Sighting, best_matches
from xsam_agent_tools.memory.scene_store import Scene, SceneObject
from xsam_agent_tools.runtime.progress import progress_of
from xsam_agent_tools.schemas import SAME_CAMERA, track_object_args
from xsam_agent_tools.spatial.differences import distinguish
from xsam_agent_tools.text.answers import SAME_IOU, object_of, put, raise_if_all_failed, with_pixels
from xsam_agent_tools.text.artifact import segmentation_artifact
from xsam_agent_tools.text.content import call_of, header, object_payload, to_text
from xsam_agent_tools.text.phrases import query_for
from xsam_agent_tools.tools.definition import Output, Toolbox, ToolSpec

POINTED_LABELS = frozenset({"marked", "similar"})  # of objects that were pointed at, not named

_DESCRIPTION = """\
Find an object again on a fresh image, after time has passed or something moved: before acting on it, or \
when an id is stale. Gives a new id (parent = the old one) with the fresh position in the image; match is \
how alike they are in color, size and place (0 to 1), moved_px how far the center moved, right and down. \
ambiguous = several look like it; no_match = it is not in view any more.\
"""


def track_object(box: Toolbox) -> ToolSpec:
    """Find an object again on a fresh frame."""
    perception = box.perception

    def run(object_id: str, camera: str = SAME_CAMERA) -> Output:
        scene, item = perception.store.object(object_id)
        if camera == SAME_CAMERA and camera not in perception.cameras:
            camera = scene.camera
        before = Sighting.of(item, scene.frame, scene.camera)
        progress = progress_of("track_object")
        progress("looking", camera=camera, image_id="", queries=[item.label])
        look = perception.look(lambda hw: _queries(item, scene, camera, hw), camera=camera)
        raise_if_all_failed(look.results)
        candidates = _candidates(look.results, item)
        sightings = [Sighting.of(candidate, look.frame, camera) for candidate in candidates]
        matches = best_matches(before, sightings)
        new, objects = put(look, [candidates[index] for index, _ in matches], perception.store)
        status = "ok" if len(matches) == 1 else "ambiguous" if matches else "no_match"
        payload = header(status, new, perception.age(new))
        payload["objects"] = [object_payload(found, new.image_hw) for found in objects]
        payload["parent"] = item.object_id
        payload.update(_comparison(before, new, objects, [score for _, score in matches], len(candidates)))
        if status == "no_match" and item.query and not item.query.endswith("?"):
            payload["next"] = call_of("segment_objects", [item.label])
        progress("answered", status=status, image_id=new.image_id)
        pictures = box.pictures(new, objects, f"{item.label}, again")
        return to_text(payload), segmentation_artifact(new, objects, payload, images=pictures)

    args = track_object_args(perception.cameras)
    return ToolSpec(name="track_object", description=_DESCRIPTION, args=args, run=run)


def _queries(item: SceneObject, scene: Scene, camera: str, image_hw: tuple[int, int]) -> list[Query]:
    """By its words, by its label, and by its old place if that is where the camera still looks."""
    queries = []
    if item.query:
        queries.append(query_for(item.query))
    if item.label not in POINTED_LABELS and item.label != item.query and not item.label.endswith("…"):
        queries.append(Query(thing_classes=(item.label,)))
    if (camera == scene.camera and image_hw == scene.image_hw) or not queries:
        mask = item.mask.decode() if image_hw == scene.image_hw else None
        x_px, y_px = (center * new / old for center, new, old in _scales(item, scene, image_hw))
        prompt = VisualPrompt.from_mask(mask) if mask is not None else VisualPrompt.point(x_px, y_px)
        queries.append(Query(task=Task.INTERACTIVE, prompts=(prompt,)))
    return queries


def _scales(item: SceneObject, scene: Scene, image_hw: tuple[int, int]) -> list[tuple[int, int, int]]:
    """(center, new length, old length) along x and y."""
    x_px, y_px = item.center_xy
    return [(x_px, image_hw[1], scene.image_hw[1]), (y_px, image_hw[0], scene.image_hw[0])]


def _candidates(results: list[SegmentationResult], item: SceneObject) -> list[SceneObject]:
    """Everything that was found, each object once, as children of the tracked one."""
    candidates: list[SceneObject] = []
    masks: list[MaskRle] = []
    for result in results:
        for index in with_pixels(result):
            mask = result.segments.masks[index]
            if all(mask.iou(known) <= SAME_IOU for known in masks):
                masks.append(mask)
                candidates.append(
                    object_of(result, index, query=item.query, parent_id=item.object_id, label=item.label)
                )
    return candidates


def _comparison(
    before: Sighting, new: Scene, objects: tuple[SceneObject, ...], scores: list[float], seen: int
) -> dict[str, Any]:
    """How the find relates to the old sighting, or why there is none."""
    if not objects:
        other = "; what is there looks different" if seen else ""
        return {"hint": f"it is not in view any more{other}: look for it by words, or use another camera"}
    if len(objects) > 1:
        said: dict[str, Any] = {
            "match": {item.object_id: round(score, 2) for item, score in zip(objects, scores, strict=True)}
        }
        if differ := distinguish(new, objects):
            said["differ"] = differ
        return {**said, "hint": "several look like it: pick one by id, or ask the user"}
    comparison: dict[str, Any] = {"match": round(scores[0], 2)}
    same_size = (before.mask.height, before.mask.width) == new.image_hw
    if before.camera == new.camera and same_size:
        (x_old, y_old), (x_new, y_new) = before.center_xy, objects[0].center_xy
        comparison["moved_px"] = [x_new - x_old, y_new - y_old]
        comparison["iou_with_parent"] = round(before.mask.iou(objects[0].mask), 2)
    return comparison
