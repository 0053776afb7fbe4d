"""The opening a gripper needs, measured on the visible surface; and a box's orientation in degrees."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.types.location import Location3D, Quaternion, matrix_of_quaternion
from xsam.types.requests import Frame
from xsam_agent_tools.memory.scene_store import Scene, SceneObject
from xsam_agent_tools.spatial.pieces import main_piece

_MIN_POINTS = 10
_BOX_SLACK_M, _BOX_SLACK_SHARE = 0.005, 0.1  # around the box of the surface; beyond is the background
_LEAST_INSIDE = 0.9  # share of the measured pixels within that box; with less, some may be of the object
_RIM_PX = 3
_STEP_M, _STEP_SHARE = 0.015, 0.01  # what is nearer by more, in meters + share of the depth, is in front
_LEAST_RIM = 0.02  # share of the rim with something in front of it

Depth = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class GripWidth:
    """The narrowest width of the visible surface across the line of sight.

    Attributes:
        width_m: meters.
        at_least: a part of the object may be hidden, so that it may be wider.
    """

    width_m: float
    at_least: bool


def grip_width(scene: Scene, item: SceneObject, location: Location3D) -> GripWidth | None:
    """Return the narrowest width of an object across the line of sight, or None where it is not known.

    It is the opening of a gripper that comes along the line of sight. Both sides of that width are visible,
    unlike the back of the object, which the thickness of a box leaves out. It is a lower bound where
    something nearer borders on the object, the border of the image cuts it off, it is seen in several large
    pieces, or a part of its outline is measured far from the rest.

    Args:
        scene: image of the object.
        item: the object.
        location: its location in the frame of the camera.

    Returns:
        None without depth pixels, and with a location in another frame.
    """
    frame = scene.frame
    if frame is None or frame.depth_m is None or frame.intrinsics is None or not location.valid:
        return None
    if location.frame_id not in ("", scene.frame_id):
        return None
    x_min, y_min, x_max, y_max = item.box_xyxy
    height, width = scene.image_hw
    cut_off = x_min == 0 or y_min == 0 or x_max == width or y_max == height
    piece = main_piece(item.mask.decode())
    points, share = _surface_points(frame, piece.mask, location)
    if len(points) < _MIN_POINTS:
        return None
    at_least = cut_off or piece.is_broken or share < _LEAST_INSIDE or _is_covered(piece.mask, frame.depth_m)
    return GripWidth(width_m=_narrowest_width(_across(points, location)), at_least=at_least)


def roll_pitch_yaw_deg(orientation_xyzw: Quaternion) -> tuple[int, int, int]:
    """Convert to turns about the fixed x, then y, then z axis of the frame, in whole degrees."""
    x, y, z, w = orientation_xyzw
    roll = math.atan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
    pitch = math.asin(max(-1.0, min(1.0, 2 * (w * y - z * x))))
    yaw = math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    degrees = [round(math.degrees(angle)) for angle in (roll, pitch, yaw)]
    return degrees[0], degrees[1], degrees[2]


def _is_covered(mask: Mask, depth_m: Depth) -> bool:
    """Return whether something in front of an object borders on its mask, and so may hide a part of it."""
    import cv2

    from xsam.spatial.localize import valid_depth

    valid = valid_depth(depth_m)
    window = np.ones((2 * _RIM_PX + 1, 2 * _RIM_PX + 1), np.uint8)
    grown: Any = cv2.dilate(mask.astype(np.uint8), window)
    rim = grown.astype(np.bool_) & ~mask & valid
    far = np.float32(np.finfo(np.float32).max)
    nearest: Any = cv2.erode(np.where(mask & valid, depth_m, far).astype(np.float32), window)
    beside = nearest[rim]  # the nearest depth of the object within reach of each pixel of the rim
    known = beside < far
    steps = beside[known] - depth_m[rim][known]
    in_front = int(np.count_nonzero(steps > _STEP_M + _STEP_SHARE * beside[known]))
    return in_front > _LEAST_RIM * max(1, int(np.count_nonzero(known)))


def _surface_points(frame: Frame, mask: Mask, location: Location3D) -> tuple[NDArray[np.float64], float]:
    """Return the (N, 3) points of a mask within the box of its surface, and their share of all points."""
    from xsam.spatial.localize import back_project, valid_depth

    assert frame.depth_m is not None
    assert frame.intrinsics is not None
    rows, columns = np.nonzero(mask & valid_depth(frame.depth_m))
    points = back_project(columns, rows, frame.depth_m[rows, columns], frame.intrinsics, frame.lens)
    half = np.array(location.size_m) * (0.5 + _BOX_SLACK_SHARE) + _BOX_SLACK_M
    offsets = (points - location.center_m) @ matrix_of_quaternion(location.orientation_xyzw)
    near: NDArray[np.float64] = points[(np.abs(offsets) <= half).all(axis=1)]  # NaN is not near
    return near, len(near) / max(1, len(points))


def _across(points: NDArray[np.float64], location: Location3D) -> NDArray[np.float64]:
    """Project (N, 3) points to the plane across the line of sight to the object; return (N, 2) meters."""
    sight = np.array(location.position_m) / np.linalg.norm(location.position_m)
    right = np.cross(sight, np.eye(3)[np.argmin(np.abs(sight))])
    right /= np.linalg.norm(right)
    flat: NDArray[np.float64] = points @ np.stack([right, np.cross(sight, right)], axis=1)
    return flat


def _narrowest_width(points: NDArray[np.float64]) -> float:
    """Return the least distance of two parallel lines that enclose (N, 2) points: one lies on an edge."""
    import cv2

    hull = np.asarray(cv2.convexHull(points.astype(np.float32)), np.float64).reshape(-1, 2)
    edges = np.roll(hull, -1, axis=0) - hull
    lengths = np.linalg.norm(edges, axis=1)
    edges = edges[lengths > 0] / lengths[lengths > 0, None]
    if not len(edges):
        return 0.0
    heights = hull @ np.stack([-edges[:, 1], edges[:, 0]])
    return float((heights.max(axis=0) - heights.min(axis=0)).min())
