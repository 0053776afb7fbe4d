"""Geometry from masks and depth instead of a model's arithmetic: `locate_objects_3d`, `compare_objects`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xsam.types.location import Location3D
from xsam_agent_tools.errors import ArgumentsError, NoDepthError
from xsam_agent_tools.memory.scene_store import Scene, SceneObject
from xsam_agent_tools.runtime.time_limits import ImageAge
from xsam_agent_tools.schemas import compare_objects_args, locate_objects_3d_args
from xsam_agent_tools.spatial.differences import spatial_object
from xsam_agent_tools.spatial.gripping import GripWidth, grip_width
from xsam_agent_tools.spatial.locations import (
    is_computable,
    locate,
    locate_in_camera,
    location_frame,
    transform_location,
)
from xsam_agent_tools.spatial.relations import UNCLEAR, compare
from xsam_agent_tools.text.artifact import (
    COMPARISON,
    LOCATION,
    frame_entry,
    location_entry,
    mask_entry,
    picture_entries,
    segmentation_artifact,
)
from xsam_agent_tools.text.content import (
    age_payload,
    header,
    location_payload,
    notes_payload,
    shorten,
    to_text,
)
from xsam_agent_tools.tools.definition import Output, Toolbox, ToolSpec

_LOCATE_OBJECTS_3D = """\
Position, size and distance of objects in meters, from their masks and the camera's depth image. \
position_m is the middle of the visible surface in `frame`; in a camera's own frame x is right, y down, z \
forward. size_cm is length, width, thickness of the box around what is visible, rpy_deg the turns of its \
axes about x, then y, then z of `frame`; grip_cm is the narrowest opening for a gripper that comes along \
the line of sight, '>=9' where a part may be hidden: it may be wider; distance_m is from the camera; \
depth_valid_pct, there instead of the turns if below 70, is how much of the object has depth (below 30: do \
not trust it). unsure \
= what is there was in doubt: check it before you move. stale = too old to act on: look again.\
"""
_OTHER_FRAMES = " Give frame only if positions are needed in another one, such as 'base_link'."

_COMPARE_OBJECTS = """\
Compare objects of one image; do not work it out from boxes yourself. left_of, right_of, above, below \
(in the image), nearer, farther (depth), larger, smaller, inside, on: is it so for the first object and each \
of the others? answer yes, no or unclear. between: is the first between the other two? leftmost, rightmost, \
topmost, bottommost, nearest, farthest, largest, smallest: answer is the object's id, order sorts all. \
closest_to: which of the others is closest to the first? unclear = within the margin: they differ too little \
to say. unsure lists ids whose kind is in doubt.\
"""


def locate_objects_3d(toolbox: Toolbox) -> ToolSpec:
    """Build `locate_objects_3d`: locations of objects in space."""
    perception = toolbox.perception

    def run(object_ids: list[str], frame: str = "") -> Output:
        frame = frame.removeprefix("/")  # as names of frames were in ROS 1
        found = [perception.store.object(object_id) for object_id in object_ids]
        for scene, _ in found:
            perception.check_scene_age(scene, position=True)
        located, grips = [], []
        for scene, item in found:
            own = locate(scene, item)
            grips.append(_grip_width(scene, item, own))
            location = transform_location(own, frame, scene, perception)
            located.append((scene, item, location, frame or location_frame(location, scene)))
        if not any(location.valid for _, _, location, _ in located):
            reasons = "; ".join(f"{item.object_id}: {location.reason}" for _, item, location, _ in located)
            raise NoDepthError(
                f"none of the objects can be located: {shorten(reasons, 300)}",
                hint="the depth camera may not see the surface (glass, metal, too near): look from elsewhere",
            )
        ages = [age for scene, _ in found if (age := perception.age(scene)) is not None]
        # A program that reads positions moves an arm: what is in doubt must not look like a target.
        payload: dict[str, Any] = {"status": "unsure" if any(item.doubt for _, item in found) else "ok"}
        payload.update(age_payload(_oldest(ages)))
        payload.update(
            notes_payload(tuple(dict.fromkeys(note for scene, _ in found for note in scene.notes)))
        )
        names = {name for _, _, _, name in located}
        if len(names) == 1:
            payload["frame"] = names.pop()
        payload["objects"] = [
            location_payload(item, location, "" if "frame" in payload else name, grip=grip)
            for (_, item, location, name), grip in zip(located, grips, strict=True)
        ]
        artifact: dict[str, Any] = {
            "schema": LOCATION,
            "result": payload,
            "masks": [mask_entry(item) for _, item in found],
            "places": [
                location_entry(scene, item, location, name, grip=grip)
                for (scene, item, location, name), grip in zip(located, grips, strict=True)
            ],
            "frame": frame_entry(found[0][0]),
        }
        if toolbox.images != "none":
            scenes = {scene.image_id: scene for scene, _ in found}
            pictures = []
            for scene in scenes.values():
                shown = [item for other, item in found if other.image_id == scene.image_id]
                pictures += toolbox.overlays(scene, shown, "located") or []
            artifact.update(picture_entries(pictures))
        return to_text(payload), artifact

    args = locate_objects_3d_args(with_frame=perception.has_transforms)
    description = _LOCATE_OBJECTS_3D + (_OTHER_FRAMES if perception.has_transforms else "")
    return ToolSpec(name="locate_objects_3d", description=description, args=args, run=run)


def compare_objects(toolbox: Toolbox) -> ToolSpec:
    """Build `compare_objects`: a spatial relation, with a margin."""
    perception = toolbox.perception

    def run(object_ids: list[str], relation: str) -> Output:
        scene, items = _on_one_image(toolbox, object_ids)
        perception.check_scene_age(scene)
        result = compare(relation, [spatial_object(scene, item) for item in items])
        unclear = result.outcome == UNCLEAR
        payload = header("ambiguous" if unclear else "ok", scene, perception.age(scene), size=False)
        payload["relation"] = relation
        payload["answer"] = result.outcome
        payload["why"] = result.reason
        if result.ranking:
            payload["order"] = list(result.ranking)
        if result.values:
            payload["values"] = result.values
        if doubtful := [item.object_id for item in items if item.doubt]:
            payload["unsure"] = doubtful  # the geometry holds, what they are may not
        if unclear:
            payload["hint"] = "treat them as equal in this, compare something else, or look from elsewhere"
        images = toolbox.overlays(scene, items, relation.replace("_", " "))
        return to_text(payload), segmentation_artifact(
            scene, items, payload, schema=COMPARISON, images=images
        )

    args = compare_objects_args()
    return ToolSpec(name="compare_objects", description=_COMPARE_OBJECTS, args=args, run=run)


def _grip_width(scene: Scene, item: SceneObject, location: Location3D) -> GripWidth | None:
    """Return the width to grip: it is measured in the frame of the camera, wherever the location is."""
    if location.valid and location.frame_id not in ("", scene.frame_id) and is_computable(scene):
        location = locate_in_camera(scene, item)
    return grip_width(scene, item, location)


def _oldest(ages: Sequence[ImageAge]) -> ImageAge | None:
    return max(ages, key=lambda age: age.seconds, default=None)


def _on_one_image(toolbox: Toolbox, object_ids: Sequence[str]) -> tuple[Scene, list[SceneObject]]:
    """Return the objects and the image they are all on.

    Raises:
        ArgumentsError: they are on different images.
    """
    found = [toolbox.perception.store.object(object_id) for object_id in object_ids]
    images = list(dict.fromkeys(scene.image_id for scene, _ in found))
    if len(images) > 1:
        raise ArgumentsError(
            f"the objects are on different images: {', '.join(images)}",
            hint="find them all on one image: segment_objects with all queries at once",
        )
    return found[0][0], [item for _, item in found]
