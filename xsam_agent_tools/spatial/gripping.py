"""The opening a gripper needs, measured on the visible surface; and a box's orientation in degrees."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from xsam.types.location import Location3D, Quaternion, matrix_of_quaternion
from xsam.types.requests import Frame
from xsam_agent_tools.memory.scene_store import Scene, SceneObject
from xsam_agent_tools.spatial.pieces import main_piece

_MIN_POINTS = 10
_BOX_SLACK_M, _BOX_SLACK_SHARE = 0.005, 0.1  # around the box of the surface; beyond is the background


def grip_width_m(scene: Scene, item: SceneObject, location: Location3D) -> float | None:
    """Return the narrowest width of an object across the line of sight, or None where it is not known.

    It is the opening of a gripper that comes along the line of sight. Both sides of that width are visible,
    unlike the back of the object, which the thickness of a box leaves out.

    Args:
        scene: image of the object.
        item: the object.
        location: its location in the frame of the camera.

    Returns:
        Meters. None without depth pixels, with a location in another frame, and for an object that the
        border of the image cuts off or that is seen in several large pieces: a part of it is hidden.
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
    if cut_off or piece.is_broken:
        return None
    points = _surface_points(frame, piece.mask, location)
    return None if len(points) < _MIN_POINTS else _narrowest_width(_across(points, location))


def roll_pitch_yaw_deg(orientation_xyzw: Quaternion) -> tuple[int, int, int]:
    """Convert to turns about the fixed x, then y, then z axis of the frame, in whole degrees."""
    x, y, z, w = orientation_xyzw
    roll = math.atan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
    pitch = math.asin(max(-1.0, min(1.0, 2 * (w * y - z * x))))
    yaw = math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    degrees = [round(math.degrees(angle)) for angle in (roll, pitch, yaw)]
    return degrees[0], degrees[1], degrees[2]


def _surface_points(frame: Frame, mask: NDArray[np.bool_], location: Location3D) -> NDArray[np.float64]:
    """Return the (N, 3) points of a mask within the box of its surface, in the frame of the camera."""
    from xsam.spatial.localize import back_project, valid_depth

    assert frame.depth_m is not None
    assert frame.intrinsics is not None
    rows, columns = np.nonzero(mask & valid_depth(frame.depth_m))
    points = back_project(columns, rows, frame.depth_m[rows, columns], frame.intrinsics, frame.lens)
    half = np.array(location.size_m) * (0.5 + _BOX_SLACK_SHARE) + _BOX_SLACK_M
    offsets = (points - location.center_m) @ matrix_of_quaternion(location.orientation_xyzw)
    near: NDArray[np.float64] = points[(np.abs(offsets) <= half).all(axis=1)]  # NaN is not near
    return near


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
