"""Places in another frame than the camera's, at the moment of the image, through TF where it is installed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.time import Time
from std_msgs.msg import Header

from xsam.types.location import Location3D, matrix_of_quaternion

try:
    import tf2_ros
except ImportError:  # not everywhere: the Python wheels of ROS lack it
    tf2_ros = None

_POLL_S = 0.005
_WAIT_S = 0.1
"""Longest wait for a transform that is on its way: TF usually comes a little later than the image."""


class Transforms:
    """Looks transforms up; without tf2_ros every look-up says why there is none."""

    def __init__(self, node: Node) -> None:
        self._buffer: Any = None
        self._listener: Any = None
        if tf2_ros is not None:
            self._buffer = tf2_ros.Buffer(node=node)
            # It spins with the node's executor: the model's thread may wait for it.
            self._listener = tf2_ros.TransformListener(self._buffer, node, spin_thread=False)

    def destroy(self) -> None:
        """Stop listening."""
        if self._listener is not None:
            self._listener.unregister()
        self._listener = self._buffer = None

    def relocate(
        self, locations: Sequence[Location3D | None], header: Header, target_frame: str
    ) -> tuple[Location3D | None, ...]:
        """Places in another frame; those that can't be given there become unknown, with the reason.

        Args:
            locations: in the frame of the image.
            header: of the image: its frame and its stamp.
            target_frame: "" or the image's own frame leave everything as it is.
        """
        if not target_frame or target_frame == header.frame_id:
            return tuple(locations)
        try:
            matrix = self._look_up(target_frame, header)
        except _NoTransformError as error:
            reason = str(error)
            return tuple(
                None
                if place is None
                else Location3D.unknown(place.reason or reason, depth_valid_ratio=place.depth_valid_ratio)
                for place in locations
            )
        return tuple(
            None if place is None else place.transformed(matrix, target_frame) for place in locations
        )

    def _look_up(self, target_frame: str, header: Header) -> NDArray[np.float64]:
        """(4, 4) that takes points of the image's frame to the target, at the stamp of the image."""
        wanted = f"no transform from {header.frame_id!r} to {target_frame!r}"
        if self._buffer is None:
            raise _NoTransformError(f"{wanted}: tf2_ros is not installed")
        if not header.frame_id:
            raise _NoTransformError(f"{wanted}: the image names no frame")
        try:
            # Its own timeout goes by the clock of the node, which stands still when a simulation is paused.
            stamp, until_s = Time.from_msg(header.stamp), time.monotonic() + _WAIT_S
            while (
                not self._buffer.can_transform(target_frame, header.frame_id, stamp)
                and time.monotonic() < until_s
            ):
                time.sleep(_POLL_S)
            found = self._buffer.lookup_transform(target_frame, header.frame_id, stamp).transform
        except tf2_ros.TransformException as error:
            raise _NoTransformError(f"{wanted}: {error}") from error
        matrix = np.eye(4)
        turn, shift = found.rotation, found.translation
        matrix[:3, :3] = matrix_of_quaternion((turn.x, turn.y, turn.z, turn.w))
        matrix[:3, 3] = (shift.x, shift.y, shift.z)
        return matrix


class _NoTransformError(Exception):
    """There is no transform; the text says why."""
