"""Ground truth of a rendered view: one record per visible object, in image and camera coordinates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from xsam.sim.render import RenderedView
from xsam.sim.scene import TableScene

MIN_AREA_SHARE = 0.0008
MIN_IN_FRAME_FRACTION = 0.5
MIN_VISIBLE_FRACTION = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectAnnotation:
    """One visible object.

    Attributes:
        instance_id: value of the object's pixels in the instance image.
        category, color: names, as in `household`.
        labeled: True if language may refer to the object. Slivers and objects that are mostly occluded or
            mostly out of frame are not labeled: their pixels count neither as object nor as background.
        area_px: number of visible pixels.
        box_xyxy: bounding box of the visible pixels, in pixels, maximum exclusive.
        centroid_xy: mean coordinates of the visible pixels (integers at pixel centers).
        depth_m: mean depth of the visible surface.
        position_camera_m: median of the visible surface points (x right, y down, z forward).
        visible_fraction: fraction of the silhouette that is in frame and not occluded.
        in_frame_fraction: fraction of the silhouette that is in frame.
    """

    instance_id: int
    category: str
    color: str
    labeled: bool
    area_px: int
    box_xyxy: tuple[int, int, int, int]
    centroid_xy: tuple[float, float]
    depth_m: float
    position_camera_m: tuple[float, float, float]
    visible_fraction: float
    in_frame_fraction: float


def back_project(
    x_px: NDArray[np.integer],
    y_px: NDArray[np.integer],
    depth_m: NDArray[np.float32],
    intrinsics: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Back-project N pixels with known depth to (N, 3) points in the camera frame."""
    depth = depth_m.astype(np.float64)
    x = (x_px - intrinsics[0, 2]) / intrinsics[0, 0] * depth
    y = (y_px - intrinsics[1, 2]) / intrinsics[1, 1] * depth
    return np.stack([x, y, depth], axis=1)


def annotate(scene: TableScene, view: RenderedView) -> tuple[ObjectAnnotation, ...]:
    """Describe every object with at least one visible pixel, ordered by instance id."""
    height, width = view.instance_ids.shape
    annotations = []
    y_all, x_all = np.nonzero(view.instance_ids)
    ids = view.instance_ids[y_all, x_all]
    for index, item in enumerate(scene.objects):
        is_object = ids == index + 1
        y, x = y_all[is_object], x_all[is_object]
        if len(x) == 0:
            continue
        depth = view.depth_m[y, x]
        known = depth > 0
        points = back_project(x[known], y[known], depth[known], view.intrinsics)
        position = np.median(points, axis=0) if known.any() else np.zeros(3)
        in_frame, visible = float(view.in_frame_fraction[index]), float(view.visible_fraction[index])
        annotations.append(
            ObjectAnnotation(
                instance_id=index + 1,
                category=item.category,
                color=item.color,
                labeled=len(x) >= MIN_AREA_SHARE * height * width
                and in_frame >= MIN_IN_FRAME_FRACTION
                and visible >= MIN_VISIBLE_FRACTION,
                area_px=len(x),
                box_xyxy=(int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1),
                centroid_xy=(float(x.mean()), float(y.mean())),
                depth_m=float(depth[known].mean()) if known.any() else 0.0,
                position_camera_m=(float(position[0]), float(position[1]), float(position[2])),
                visible_fraction=visible,
                in_frame_fraction=in_frame,
            )
        )
    return tuple(annotations)


def unlabeled_ids(annotations: Iterable[ObjectAnnotation]) -> tuple[int, ...]:
    """Return the ids of the instances whose pixels training and scoring should ignore."""
    return tuple(item.instance_id for item in annotations if not item.labeled)


def mirror(annotations: Iterable[ObjectAnnotation], width_px: int) -> tuple[ObjectAnnotation, ...]:
    """Flip annotations left to right, to match a mirrored image of width `width_px`."""
    mirrored = []
    for item in annotations:
        x0, y0, x1, y1 = item.box_xyxy
        x, y, z = item.position_camera_m
        mirrored.append(
            replace(
                item,
                box_xyxy=(width_px - x1, y0, width_px - x0, y1),
                centroid_xy=(width_px - 1 - item.centroid_xy[0], item.centroid_xy[1]),
                position_camera_m=(-x, y, z),
            )
        )
    return tuple(mirrored)
