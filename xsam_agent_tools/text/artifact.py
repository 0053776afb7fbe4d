"""Artifacts: what a program gets from a tool call in addition to the text, such as masks and poses.

Plain Python values only (dict, list, str, int, float, bool), so that every checkpointer can store them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xsam.types.location import Location3D
from xsam_agent_tools.memory.scene_store import Scene, SceneObject
from xsam_agent_tools.spatial.gripping import GripWidth
from xsam_agent_tools.text.pictures import Picture

SEGMENTATION = "xsam_agent_tools/segmentation/1"
LOCATION = "xsam_agent_tools/location/1"
COMPARISON = "xsam_agent_tools/comparison/1"
ABSENCE = "xsam_agent_tools/absence/1"
STATUS = "xsam_agent_tools/status/1"


def segmentation_artifact(
    scene: Scene,
    objects: Sequence[SceneObject],
    result: dict[str, Any],
    *,
    schema: str = SEGMENTATION,
    images: Sequence[Picture] | None = None,
) -> dict[str, Any]:
    """Build the artifact of a tool call about one image.

    Args:
        scene: the image.
        objects: the objects whose masks to include.
        result: the payload that the model reads.
        schema: name and version of the artifact's structure.
        images: pictures for models with vision; None = they are off, then the keys are left out.

    Returns:
        `schema`, `result`, `masks` (COCO run-length codes that `pycocotools.mask.decode` reads),
        `frame`, and those of `picture_entries`.
    """
    artifact: dict[str, Any] = {
        "schema": schema,
        "result": result,
        "masks": [mask_entry(item) for item in objects],
        "frame": frame_entry(scene),
    }
    if images is not None:
        artifact.update(picture_entries(images))
    return artifact


def picture_entries(pictures: Sequence[Picture]) -> dict[str, Any]:
    """Return `images`, the pictures as base64, and `picture`: what they show, if that is the same for all."""
    entries: dict[str, Any] = {"images": [picture.base64 for picture in pictures]}
    described = [picture.payload() for picture in pictures]
    if described and all(payload == described[0] for payload in described):
        entries["picture"] = described[0]
    return entries


def mask_entry(item: SceneObject) -> dict[str, Any]:
    """Return the mask of an object with its id."""
    mask = item.mask
    rle = {"size": [int(mask.height), int(mask.width)], "counts": mask.counts.decode("ascii")}
    return {"id": item.object_id, "rle": rle}


def frame_entry(scene: Scene) -> dict[str, Any]:
    """Return id, camera, optical frame, stamp and size of an image."""
    height, width = scene.image_hw
    return {
        "image_id": scene.image_id,
        "camera": scene.camera,
        "frame_id": scene.frame_id,
        "stamp_ns": int(scene.stamp_ns),
        "size": [int(width), int(height)],
    }


def location_entry(
    scene: Scene, item: SceneObject, location: Location3D, frame: str, *, grip: GripWidth | None = None
) -> dict[str, Any]:
    """Return the location of an object at full precision, for a program that moves an arm."""
    entry: dict[str, Any] = {
        "id": item.object_id,
        "label": item.label,
        "valid": bool(location.valid),
        "reason": location.reason,
        "frame": frame,
        "stamp_ns": int(scene.stamp_ns),
        "depth_valid_ratio": float(location.depth_valid_ratio),
    }
    if location.valid:
        entry["position_m"] = [float(value) for value in location.position_m]
        entry["center_m"] = [float(value) for value in location.center_m]
        entry["size_m"] = [float(value) for value in location.size_m]
        entry["orientation_xyzw"] = [float(value) for value in location.orientation_xyzw]
        entry["distance_m"] = float(location.distance_m)
        if grip is not None:
            entry["grip_at_least_m" if grip.at_least else "grip_m"] = grip.width_m
    return entry
