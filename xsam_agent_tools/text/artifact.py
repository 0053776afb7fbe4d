"""Artifacts: what a program gets from a tool call in addition to the text, such as masks and poses.

Plain Python values only (dict, list, str, int, float, bool), so that every checkpointer can store them.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from xsam.errors import ModelError
from xsam.types.location import Location3D
from xsam.types.requests import Frame, Segments
from xsam_agent_tools.memory.scene_store import Scene, SceneObject

SEGMENTATION = "xsam_agent_tools/segmentation/1"
LOCATION = "xsam_agent_tools/location/1"
COMPARISON = "xsam_agent_tools/comparison/1"
ABSENCE = "xsam_agent_tools/absence/1"
STATUS = "xsam_agent_tools/status/1"

MAX_OVERLAY_SIDE_PX = 1024
_CROP_SIDE_PX = 480  # a smaller crop is enlarged to this, at most four times
_CROP_MARGIN = 0.25  # of the object's box, on each side


def segmentation_artifact(
    scene: Scene,
    objects: Sequence[SceneObject],
    result: dict[str, Any],
    *,
    schema: str = SEGMENTATION,
    images: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Build the artifact of a tool call about one image.

    Args:
        scene: the image.
        objects: the objects whose masks to include.
        result: the payload that the model reads.
        schema: name and version of the artifact's structure.
        images: base64 PNGs; None = images are off, then the key is left out.

    Returns:
        `schema`, `result`, `masks` (COCO run-length codes that `pycocotools.mask.decode` reads),
        `frame`, and `images`.
    """
    artifact: dict[str, Any] = {
        "schema": schema,
        "result": result,
        "masks": [mask_entry(item) for item in objects],
        "frame": frame_entry(scene),
    }
    if images is not None:
        artifact["images"] = list(images)
    return artifact


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


def location_entry(scene: Scene, item: SceneObject, location: Location3D, frame: str) -> dict[str, Any]:
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
    return entry


def overlay_png(frame: Frame, objects: Sequence[SceneObject], title: str) -> str:
    """Draw numbered outlines on the frame; return a base64 PNG with sides up to `MAX_OVERLAY_SIDE_PX`."""
    from xsam.draw.overlay import draw_overlay

    segments = Segments(
        image_hw=frame.image_hw,
        masks=tuple(item.mask.compact() for item in objects),  # the store keeps no decoded crops
        labels=tuple(item.label for item in objects),
        label_indices=np.zeros(len(objects), np.int32),
        scores=np.array([np.nan if item.score is None else item.score for item in objects], np.float32),
        boxes_xyxy=np.array([item.box_xyxy for item in objects], np.float32).reshape(-1, 4),
    )
    marks = [item.mark for item in objects]
    image = draw_overlay(frame.rgb, segments, style="outline", title=title, numbers=marks, show_scores=False)
    return _png(image)


def crop_pngs(frame: Frame, item: SceneObject) -> list[str]:
    """Crop an object and its surroundings; return two base64 PNGs, without and with its outline.

    The first is for questions about color and material: nothing is drawn on it.
    """
    from xsam.draw.overlay import draw_outline

    height, width = frame.image_hw
    x_min, y_min, x_max, y_max = item.box_xyxy
    margin = 8 + round(_CROP_MARGIN * max(x_max - x_min, y_max - y_min))
    rows = slice(max(0, y_min - margin), min(height, y_max + margin))
    columns = slice(max(0, x_min - margin), min(width, x_max + margin))
    crop = np.ascontiguousarray(frame.rgb[rows, columns])
    mask = np.ascontiguousarray(item.mask.decode()[rows, columns])
    return [_png(crop, enlarge=True), _png(draw_outline(crop, mask), enlarge=True)]


def _png(rgb: Any, *, enlarge: bool = False) -> str:
    import cv2

    side = max(rgb.shape[:2])
    scale = min(1.0, MAX_OVERLAY_SIDE_PX / side)
    if enlarge and side < _CROP_SIDE_PX:
        scale = min(4.0, _CROP_SIDE_PX / side)
    if scale != 1.0:
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        height, width = (max(1, round(scale * length)) for length in rgb.shape[:2])
        rgb = cv2.resize(rgb, (width, height), interpolation=interpolation)
    ok, png = cv2.imencode(".png", rgb[..., ::-1])
    if not ok:
        raise ModelError(f"the image of {rgb.shape[1]}×{rgb.shape[0]} px could not be encoded as PNG")
    return base64.b64encode(png.tobytes()).decode("ascii")
