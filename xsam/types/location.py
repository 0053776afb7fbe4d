"""The location of one object in space: position, oriented box, distance, and how well it is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Vector3 = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]

_NAN3 = (math.nan, math.nan, math.nan)


@dataclass(frozen=True, slots=True, kw_only=True)
class Location3D:
    """Where the visible surface of one object is, or why that is unknown.

    The box is the smallest one along the principal axes of the visible surface that contains 98 % of its
    points along each axis. A camera only sees front sides, so it is not the box of the whole object. A box
    looks the same after half turns about its axes; the orientation with positive largest components is given.

    Attributes:
        position_m: (x, y, z) median of the surface points.
        center_m: (x, y, z) middle of the box.
        size_m: lengths of the box along its own x, y and z axes, longest first.
        orientation_xyzw: unit quaternion that turns the box's axes into the frame.
        distance_m: from the camera to `position_m`; the same in every frame.
        depth_valid_ratio: share of the mask's pixels with a depth measurement, 0 to 1.
        frame_id: name of the frame; empty = the camera frame of the image.
        reason: why the location is unknown (position, box and distance are NaN); empty when it is known.
    """

    position_m: Vector3 = _NAN3
    center_m: Vector3 = _NAN3
    size_m: Vector3 = _NAN3
    orientation_xyzw: Quaternion = (math.nan, math.nan, math.nan, math.nan)
    distance_m: float = math.nan
    depth_valid_ratio: float = 0.0
    frame_id: str = ""
    reason: str = ""

    def __post_init__(self) -> None:
        if not 0.0 <= self.depth_valid_ratio <= 1.0:
            raise ValueError(f"depth_valid_ratio must be in [0, 1], got {self.depth_valid_ratio}")
        numbers = (*self.position_m, *self.center_m, *self.size_m, *self.orientation_xyzw, self.distance_m)
        if not self.reason and not all(map(math.isfinite, numbers)):
            raise ValueError("a location needs finite numbers, or a reason why it is unknown")

    @property
    def valid(self) -> bool:
        """Whether the location is known."""
        return not self.reason

    @classmethod
    def unknown(cls, reason: str, *, depth_valid_ratio: float = 0.0) -> Location3D:
        """Create a location that is unknown, with the reason."""
        if not reason:
            raise ValueError("an unknown location needs a reason")
        return cls(reason=reason, depth_valid_ratio=depth_valid_ratio)

    def transformed(self, target_from_source: NDArray[np.float64], frame_id: str) -> Location3D:
        """Express the location in another frame; an unknown one stays unknown.

        Args:
            target_from_source: (4, 4) rigid transform of points from this frame to the target frame.
            frame_id: name of the target frame.

        Raises:
            ValueError: the matrix is not a rigid transform.
        """
        matrix = np.asarray(target_from_source, np.float64)
        if matrix.shape != (4, 4) or not np.allclose(matrix[3], (0, 0, 0, 1)):
            raise ValueError(f"a transform must be (4, 4) with last row 0 0 0 1, got shape {matrix.shape}")
        rotation, translation = matrix[:3, :3], matrix[:3, 3]
        if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-6) or np.linalg.det(rotation) < 0:
            raise ValueError("the transform scales, mirrors or is not finite; it must be rigid")
        if not self.valid:
            return self
        return replace(
            self,
            position_m=vector3(rotation @ self.position_m + translation),
            center_m=vector3(rotation @ self.center_m + translation),
            orientation_xyzw=quaternion_of_matrix(rotation @ matrix_of_quaternion(self.orientation_xyzw)),
            frame_id=frame_id,
        )


def quaternion_of_matrix(rotation: NDArray[np.float64]) -> Quaternion:
    """Return the unit quaternion (x, y, z, w), w ≥ 0, of a (3, 3) rotation matrix; it may be rounded."""
    from scipy.spatial.transform import Rotation  # imported when needed: `import xsam` stays fast

    x, y, z, w = Rotation.from_matrix(rotation).as_quat().tolist()
    sign = -1.0 if w < 0 else 1.0  # `as_quat(canonical=True)` needs SciPy 1.11
    return (sign * x, sign * y, sign * z, sign * w)


def matrix_of_quaternion(xyzw: Quaternion) -> NDArray[np.float64]:
    """Return the (3, 3) rotation matrix of a quaternion of any length.

    Raises:
        ValueError: the quaternion is zero or not finite.
    """
    from scipy.spatial.transform import Rotation

    length = math.hypot(*xyzw)
    if not math.isfinite(length) or length < 1e-9:
        raise ValueError(f"{xyzw} is not a rotation: the quaternion is zero or not finite")
    matrix: NDArray[np.float64] = Rotation.from_quat(xyzw).as_matrix()
    return matrix


def vector3(values: NDArray[np.float64]) -> Vector3:
    """Convert an array of three numbers to a tuple of Python floats."""
    x, y, z = values.tolist()
    return (x, y, z)
