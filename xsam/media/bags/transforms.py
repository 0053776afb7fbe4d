"""Static transforms between frames, from the topic /tf_static of a bag."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.errors import InvalidImageError
from xsam.types.location import matrix_of_quaternion

_MAX_CHAIN = 100


class StaticTransforms:
    """A tree of frames."""

    def __init__(self) -> None:
        self._parents: dict[str, tuple[str, NDArray[np.float64]]] = {}

    def add(self, message: Any) -> None:
        """Take over a `tf2_msgs/TFMessage`; a rotation that is none is left out."""
        for item in message.transforms:
            move, turn = item.transform.translation, item.transform.rotation
            matrix = np.eye(4)
            try:
                matrix[:3, :3] = matrix_of_quaternion((turn.x, turn.y, turn.z, turn.w))
            except ValueError:
                continue
            matrix[:3, 3] = (move.x, move.y, move.z)
            self._parents[_bare(item.child_frame_id)] = (_bare(item.header.frame_id), matrix)

    def look_up(self, target: str, source: str) -> NDArray[np.float64]:
        """Return the (4, 4) transform of points from one frame to another.

        Raises:
            InvalidImageError: the frames are not connected.
        """
        target_root, root_from_target = self._to_root(_bare(target))
        source_root, root_from_source = self._to_root(_bare(source))
        if target_root != source_root:
            raise InvalidImageError(f"/tf_static does not connect {source!r} and {target!r}")
        transform: NDArray[np.float64] = np.linalg.inv(root_from_target) @ root_from_source
        return transform

    def _to_root(self, frame: str) -> tuple[str, NDArray[np.float64]]:
        matrix = np.eye(4)
        for _ in range(_MAX_CHAIN):
            if frame not in self._parents:
                return frame, matrix
            frame, step = self._parents[frame]
            matrix = step @ matrix
        raise InvalidImageError("/tf_static has a loop")


def _bare(frame: str) -> str:
    return frame.removeprefix("/")
