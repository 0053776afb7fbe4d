"""Locations in another frame than the camera's, by TF at the stamp of the image, where TF is installed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.time import Time
from std_msgs.msg import Header

from xsam.types.checks import frame_id_problem
from xsam.types.location import Location3D, matrix_of_quaternion
from xsam_ros.cameras.registration import TransformLookupError

try:
    import tf2_ros
except ImportError:  # the Python wheels of ROS do not have it
    tf2_ros = None

_POLL_S = 0.005
_MAX_PROBLEMS = 16


def transforms_available() -> bool:
    """Return whether TF is installed."""
    return tf2_ros is not None


class Transforms:
    """A TF buffer and its listener; without tf2_ros, all locations in other frames are unknown."""

    def __init__(self, node: Node, *, wait_s: Callable[[], float]) -> None:
        """Subscribe to TF.

        Args:
            node: the segmenter node.
            wait_s: returns how long to wait for a transform, which usually arrives a little later than the
                image.
        """
        self._wait_s = wait_s
        self._problems: dict[str, str] = {}  # by source frame
        self._buffer: Any = None
        self._listener: Any = None
        if tf2_ros is not None:
            self._buffer = tf2_ros.Buffer(node=node)
            # The listener spins with the node's executor, so the model's thread may wait for it.
            self._listener = tf2_ros.TransformListener(self._buffer, node, spin_thread=False)

    def destroy(self) -> None:
        """Unsubscribe from TF."""
        if self._listener is not None:
            self._listener.unregister()
        self._listener = self._buffer = None

    def relocate(
        self, locations: Sequence[Location3D | None], header: Header, target_frame: str
    ) -> tuple[Location3D | None, ...]:
        """Return the locations in another frame; without a transform they become unknown, with the reason.

        Args:
            locations: in the frame of the image.
            header: of the image, with its frame and its stamp.
            target_frame: "" or the frame of the image return the locations unchanged.
        """
        if not target_frame or target_frame == header.frame_id:
            self._problems.pop(header.frame_id, None)
            return tuple(locations)
        try:
            matrix = self.look_up(header, target_frame)
        except TransformLookupError as error:
            reason = str(error)
            return tuple(
                None
                if location is None
                else Location3D.unknown(
                    location.reason or reason, depth_valid_ratio=location.depth_valid_ratio
                )
                for location in locations
            )
        return tuple(
            None if location is None else location.transformed(matrix, target_frame) for location in locations
        )

    def look_up(self, header: Header, target_frame: str) -> NDArray[np.float64]:
        """Return the (4, 4) transform of points from a header's frame to another one, at the header's stamp.

        Raises:
            TransformLookupError: it did not arrive in time, or TF is not installed.
        """
        self._problems.pop(header.frame_id, None)
        try:
            return self._look_up(header, target_frame)
        except TransformLookupError as error:
            while len(self._problems) >= _MAX_PROBLEMS:
                self._problems.pop(next(iter(self._problems)))
            self._problems[header.frame_id] = str(error)
            raise

    @property
    def problems(self) -> tuple[str, ...]:
        """Why the last look-up from each frame failed, the latest last; a success removes the frame."""
        return tuple(self._problems.values())

    def _look_up(self, header: Header, target_frame: str) -> NDArray[np.float64]:
        problem = f"no transform from {header.frame_id!r} to {target_frame!r}"
        if self._buffer is None:
            raise TransformLookupError(f"{problem}: tf2_ros is not installed")
        if not header.frame_id:
            raise TransformLookupError(f"{problem}: the frame_id of the image is empty")
        if wrong := frame_id_problem(target_frame):
            raise TransformLookupError(f"{problem[:200]}: the frame {wrong}")
        try:
            # tf2's own timeout uses the node's clock, which stands still while a simulation is paused.
            stamp, until_s = Time.from_msg(header.stamp), time.monotonic() + self._wait_s()
            while (
                not self._buffer.can_transform(target_frame, header.frame_id, stamp)
                and time.monotonic() < until_s
            ):
                time.sleep(_POLL_S)
            found = self._buffer.lookup_transform(target_frame, header.frame_id, stamp).transform
            rotation, translation = found.rotation, found.translation
            turn = matrix_of_quaternion((rotation.x, rotation.y, rotation.z, rotation.w))
        except (tf2_ros.TransformException, ValueError) as error:  # a negative stamp, or no rotation
            raise TransformLookupError(f"{problem}: {error}") from error
        matrix = np.eye(4)
        matrix[:3, :3] = turn
        matrix[:3, 3] = (translation.x, translation.y, translation.z)
        return matrix
