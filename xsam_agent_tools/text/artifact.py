"""What a program gets from a tool call beside the text: masks, frame data, places and pictures.

Plain Python values only (dict, list, str, int, float, bool), so that every checkpointer can store it.
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
    """The artifact of a tool that answers about one image.

    Args:
        scene: the image.
        objects: whose masks are wanted.
        result: the payload that the model reads.
        schema: name and version of the shape.
        images: base64 PNGs; None = none are wanted, then the key is left out.

    Returns:
        `schema`, `result`, `masks` (COCO run-length codes that `pycocotools.mask.decode` reads),
        `frame`, and `images`.
    """
    artifact: dict[str, Any] = {
        "schema": schema,
        "result": result,
        "masks": [mask_of(item) for item in objects],
        "frame": frame_of(scene),
    }
    if images is not None:
        artifact["images"] = list(images)
    return artifact


def mask_of(item: SceneObject) -> dict[str, Any]:
    """The mask of an object with its id."""
    mask = item.mask
    rle = {"size": [int(mask.height), int(mask.width)], "counts": mask.counts.decode("ascii")}
    return {"id": item.object_id, "rle": rle}


def frame_of(scene: Scene) -> dict[str, Any]:
    """Which image it was: id, camera, optical frame, stamp and size."""
    height, width = scene.image_hw
    return {
        "image_id": scene.image_id,
        "camera": scene.camera,
        "frame_id": scene.frame_id,
        "stamp_ns": int(scene.stamp_ns),
        "size": [int(width), int(height)],
    }


def place_of(scene: Scene, item: SceneObject, location: Location3D, frame: str) -> dict[str, Any]:
    """The place of an object with full precision, for a program that moves an arm."""
    place: dict[str, Any] = {
        "id": item.object_id,
        "label": item.label,
        "valid": bool(location.valid),
        "reason": location.reason,
        "frame": frame,
        "stamp_ns": int(scene.stamp_ns),
        "depth_valid_ratio": float(location.depth_valid_ratio),
    }
    if location.valid:
        place["position_m"] = [float(value) for value in location.position_m]
        place["center_m"] = [float(value) for value in location.center_m]
        place["size_m"] = [float(value) for value in location.size_m]
        place["orientation_xyzw"] = [float(value) for value in location.orientation_xyzw]
        place["distance_m"] = float(location.distance_m)
    return place


def overlay_png(frame: Frame, objects: Sequence[SceneObject], title: str) -> str:
    """A base64 PNG of the frame with numbered outlines, sides up to `MAX_OVERLAY_SIDE_PX`."""
    from xsam.draw.overlay import draw_overlay

    segments = Segments(
        image_hw=frame.image_hw,
        masks=tuple(item.mask for item in objects),
        labels=tuple(item.label for item in objects),
        label_indices=np.zeros(len(objects), np.int32),
        scores=np.array([np.nan if item.score is None else item.score for item in objects], np.float32),
        boxes_xyxy=np.array([item.box_xyxy for item in objects], np.float32).reshape(-1, 4),
    )
    marks = [item.mark for item in objects]
    image = draw_overlay(frame.rgb, segments, style="outline", title=title, numbers=marks, show_scores=False)
    return _png(image)


def crop_pngs(frame: Frame, item: SceneObject) -> list[str]:
    """Two base64 PNGs of an object and its surroundings: as the camera saw it, and with its outline.

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
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        height, width = (max(1, round(scale * length)) for length in rgb.shape[:2])
        rgb = cv2.resize(rgb, (width, height), interpolation=how)
    ok, png = cv2.imencode(".png", rgb[..., ::-1])
    if not ok:
        raise ModelError("the picture could not be encoded as PNG")
    return base64.b64encode(png.tobytes()).decode("ascii")
