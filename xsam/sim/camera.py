"""A pinhole camera: its pose, its projection, and smooth motion around the table.

Frames: in the world frame, z points up and the table top is at z = 0. The camera frame is the optical frame:
x right, y down, z forward. Pixel coordinates are (x, y) with integers at pixel *centers*, as in ROS and
OpenCV, so the center of an image of width W is at (W - 1) / 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from xsam.sim.meshes import Vec3


@dataclass(frozen=True, slots=True, kw_only=True)
class PinholeCamera:
    """Pose and field of view of a camera.

    The focal length depends only on the longest edge of the image, so objects have the same size in a
    192x144 image and in a 192x192 image; the latter just shows more above and below.

    Attributes:
        eye_m: position in the world.
        target_m: point at the center of the image.
        fovy_rad: vertical field of view *of a landscape 4:3 image*.
        roll_rad: rotation about the optical axis; positive rotates the image counterclockwise.
    """

    eye_m: Vec3
    target_m: Vec3
    fovy_rad: float
    roll_rad: float = 0.0

    def world_from_camera(self) -> NDArray[np.float64]:
        """Return the (4, 4) float64 pose of the optical frame in the world.

        Raises:
            ValueError: the camera looks straight up or down, or eye and target coincide.
        """
        return _pose(self).copy()

    def intrinsics(self, image_hw: tuple[int, int]) -> NDArray[np.float64]:
        """Return the (3, 3) float64 matrix K for an image of (H, W) pixels."""
        height, width = image_hw
        focal_px = 0.375 * max(height, width) / math.tan(self.fovy_rad / 2.0)
        return np.array(
            [[focal_px, 0.0, (width - 1) / 2.0], [0.0, focal_px, (height - 1) / 2.0], [0.0, 0.0, 1.0]]
        )

    def project(self, points_m: NDArray[np.floating], image_hw: tuple[int, int]) -> NDArray[np.float64]:
        """Project (N, 3) world points to (N, 3): x and y in pixels, depth in meters (negative: behind)."""
        pose = _pose(self)
        local = (np.asarray(points_m, np.float64) - pose[:3, 3]) @ pose[:3, :3]
        matrix = self.intrinsics(image_hw)
        depth = local[:, 2]
        safe = np.where(np.abs(depth) < 1e-9, 1e-9, depth)
        x = matrix[0, 0] * local[:, 0] / safe + matrix[0, 2]
        y = matrix[1, 1] * local[:, 1] / safe + matrix[1, 2]
        return np.stack([x, y, depth], axis=1)


@lru_cache(maxsize=16)
def _pose(camera: PinholeCamera) -> NDArray[np.float64]:
    """Compute `PinholeCamera.world_from_camera`; the cached array is read-only."""
    forward = np.subtract(camera.target_m, camera.eye_m).astype(np.float64)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    if np.linalg.norm(right) < 1e-9:
        raise ValueError("the camera must not look straight up or down, and eye must differ from target")
    forward /= np.linalg.norm(forward)
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    cos, sin = math.cos(camera.roll_rad), math.sin(camera.roll_rad)
    pose = np.eye(4)
    pose[:3, 0] = cos * right + sin * down
    pose[:3, 1] = -sin * right + cos * down
    pose[:3, 2] = forward
    pose[:3, 3] = camera.eye_m
    pose.flags.writeable = False
    return pose


def look_from(
    target_m: Vec3,
    *,
    azimuth_rad: float,
    elevation_rad: float,
    distance_m: float,
    fovy_rad: float,
    roll_rad: float = 0.0,
) -> PinholeCamera:
    """Place a camera on a sphere around a point.

    Azimuth 0 looks along +y; a positive azimuth moves the camera to the right.
    """
    horizontal = distance_m * math.cos(elevation_rad)
    eye = (
        target_m[0] + horizontal * math.sin(azimuth_rad),
        target_m[1] - horizontal * math.cos(azimuth_rad),
        target_m[2] + distance_m * math.sin(elevation_rad),
    )
    return PinholeCamera(eye_m=eye, target_m=target_m, fovy_rad=fovy_rad, roll_rad=roll_rad)


def orbit(
    camera: PinholeCamera, t_s: float, *, period_s: float = 20.0, swing_rad: float = 0.35
) -> PinholeCamera:
    """Swing a camera smoothly around its target; at t = 0 it is at its resting pose.

    Args:
        camera: the camera at rest.
        t_s: time in seconds; any value.
        period_s: duration of one full swing.
        swing_rad: maximum change in azimuth; elevation and distance also change slightly.
    """
    offset = np.subtract(camera.eye_m, camera.target_m)
    distance = float(np.linalg.norm(offset))
    phase = 2.0 * math.pi * t_s / period_s
    elevation = math.asin(float(offset[2]) / distance) + 0.15 * swing_rad * math.sin(2.0 * phase)
    return look_from(
        camera.target_m,
        azimuth_rad=math.atan2(float(offset[0]), -float(offset[1])) + swing_rad * math.sin(phase),
        elevation_rad=min(max(elevation, math.radians(10.0)), math.radians(80.0)),
        distance_m=distance * (1.0 + 0.05 * (1.0 - math.cos(phase))),
        fovy_rad=camera.fovy_rad,
        roll_rad=camera.roll_rad,
    )
