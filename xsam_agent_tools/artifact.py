"""What a program gets from a tool call beside the text: masks, frame data and overlays.

Plain Python values only (dict, list, str, int, float), so that every checkpointer can store it.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from xsam.errors import ModelError
from xsam.structures import Frame, Segments
from xsam_agent_tools.scene_store import Scene, SceneObject

SCHEMA = "xsam_agent_tools/segmentation/1"
MAX_OVERLAY_SIDE_PX = 1024


def segmentation_artifact(
    scene: Scene, objects: Sequence[SceneObject], result: dict[str, Any], *, title: str, with_images: bool
) -> dict[str, Any]:
    """The artifact of `segment_objects`.

    `masks` are COCO run-length codes (`pycocotools.mask.decode` reads them), `images` base64 PNG
    overlays with each object's mark; the key is there only when overlays were asked for.
    """
    height, width = scene.image_hw
    artifact: dict[str, Any] = {
        "schema": SCHEMA,
        "result": result,
        "masks": [
            {
                "id": item.object_id,
                "rle": {
                    "size": [item.mask.height, item.mask.width],
                    "counts": item.mask.counts.decode("ascii"),
                },
            }
            for item in objects
        ],
        "frame": {
            "image_id": scene.image_id,
            "camera": scene.camera,
            "frame_id": scene.frame_id,
            "stamp_ns": int(scene.stamp_ns),
            "size": [int(width), int(height)],
        },
    }
    if with_images:
        artifact["images"] = [overlay_png(scene.frame, objects, title)] if scene.frame is not None else []
    return artifact


def overlay_png(frame: Frame, objects: Sequence[SceneObject], title: str) -> str:
    """A base64 PNG of the frame with numbered outlines, sides up to `MAX_OVERLAY_SIDE_PX`."""
    import cv2

    from xsam.draw import draw_overlay

    segments = Segments(
        image_hw=frame.image_hw,
        masks=tuple(item.mask for item in objects),
        labels=tuple(item.label for item in objects),
        label_indices=np.zeros(len(objects), np.int32),
        scores=np.array([np.nan if item.score is None else item.score for item in objects], np.float32),
        boxes_xyxy=np.array([item.box_xyxy for item in objects], np.float32).reshape(-1, 4),
    )
    marks = [item.mark for item in objects]
    image: Any = draw_overlay(frame.rgb, segments, style="outline", title=title, numbers=marks)
    shrink = MAX_OVERLAY_SIDE_PX / max(frame.image_hw)
    if shrink < 1:
        image = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    ok, png = cv2.imencode(".png", image[..., ::-1])
    if not ok:
        raise ModelError("the overlay could not be encoded as PNG")
    return base64.b64encode(png.tobytes()).decode("ascii")
