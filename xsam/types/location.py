"""The place of one object in space: position, oriented box, distance, and how well it is known."""

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
    """Where the visible surface of one object is, or why that is not known.

    The box is the smallest one along the principal axes of the visible surface that holds 98 % of its
    points along each axis. A camera sees front sides only, so it is no box of the whole object. It looks
    the same after half turns about its axes; of these the one with positive largest components is given.

    Attributes:
        position_m: (x, y, z) median of the surface points.
        center_m: (x, y, z) middle of the box.
        size_m: lengths of the box along its own x, y and z axes, longest first.
        orientation_xyzw: unit quaternion that turns the box's axes into the frame.
        distance_m: from the camera to `position_m`, in whatever frame that is given.
        depth_valid_ratio: part of the mask's pixels with a depth measurement, 0 to 1.
        frame_id: name of the frame; empty = the camera frame of the image.
        reason: why the location is unknown; empty when it is known. Unknown numbers are NaN.
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
        """A location that is not known, and why."""
        if not reason:
            raise ValueError("say why the location is unknown")
        return cls(reason=reason, depth_valid_ratio=depth_valid_ratio)

    def transformed(self, target_from_source: NDArray[np.float64], frame_id: str) -> Location3D:
        """The same place in another frame; an unknown one stays unknown.

        Args:
            target_from_source: (4, 4) rigid transform that takes points of this frame to the target.
            frame_id: name of the target frame.

        Raises:
            ValueError: the matrix is no rigid transform.
        """
        matrix = np.asarray(target_from_source, np.float64)
        if matrix.shape != (4, 4) or not np.allclose(matrix[3], (0, 0, 0, 1)):
            raise ValueError(f"a transform must be (4, 4) with last row 0 0 0 1, got shape {matrix.shape}")
        turn, shift = matrix[:3, :3], matrix[:3, 3]
        if not np.allclose(turn @ turn.T, np.eye(3), atol=1e-6) or np.linalg.det(turn) < 0:
            raise ValueError("the transform scales, mirrors or is not finite; it must be rigid")
        if not self.valid:
            return self
        return replace(
            self,
            position_m=vector3(turn @ self.position_m + shift),
            center_m=vector3(turn @ self.center_m + shift),
            orientation_xyzw=quaternion_of_matrix(turn @ matrix_of_quaternion(self.orientation_xyzw)),
            frame_id=frame_id,
        )


def quaternion_of_matrix(rotation: NDArray[np.float64]) -> Quaternion:
    """Unit quaternion (x, y, z, w), w ≥ 0, of a (3, 3) rotation matrix.

    Source: Bar-Itzhack 2000, "New Method for Extracting the Quaternion from a Rotation Matrix": the
    eigenvector of the largest eigenvalue. It has no special cases and tolerates rounded matrices.
    """
    (a, b, c), (d, e, f), (g, h, i) = np.asarray(rotation, np.float64)
    symmetric = np.array(
        [
            [a - e - i, b + d, c + g, h - f],
            [b + d, e - a - i, f + h, c - g],
            [c + g, f + h, i - a - e, d - b],
            [h - f, c - g, d - b, a + e + i],
        ]
    )
    x, y, z, w = np.linalg.eigh(symmetric)[1][:, 3].tolist()
    sign = -1.0 if w < 0 else 1.0
    return (sign * x, sign * y, sign * z, sign * w)


def matrix_of_quaternion(xyzw: Quaternion) -> NDArray[np.float64]:
    """(3, 3) rotation matrix of a quaternion, which need not have length 1.

    Raises:
        ValueError: the quaternion is zero or not finite.
    """
    length = math.sqrt(sum(value * value for value in xyzw))
    if not math.isfinite(length) or length < 1e-9:
        raise ValueError(f"{xyzw} is no rotation")
    x, y, z, w = (value / length for value in xyzw)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def vector3(values: NDArray[np.float64]) -> Vector3:
    """Three numbers of an array as floats of Python."""
    x, y, z = values.tolist()
    return (x, y, z)
