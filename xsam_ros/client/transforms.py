"""Transforms by TF in the client, for positions in other frames than those of the node's results."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from std_msgs.msg import Header

from xsam_ros.cameras.registration import TransformLookupError
from xsam_ros.cameras.transforms import Transforms
from xsam_ros.messages.frames import stamp_from_ns

_WAIT_S = 1.0  # for the first transforms of a listener that has just begun


class ClientTransforms:
    """A TF listener that begins when it is needed. Thread-safe."""

    def __init__(self, node: Node) -> None:
        """Begin without a subscription."""
        self._node = node
        self._transforms: Transforms | None = None
        self._lock = threading.Lock()

    def listen(self) -> Transforms:
        """Subscribe to TF, once: a transform from before the subscription is not known."""
        with self._lock:
            if self._transforms is None:
                self._transforms = Transforms(self._node, wait_s=lambda: _WAIT_S)
            return self._transforms

    def look_up(self, target: str, source: str, stamp_ns: int) -> NDArray[np.float64] | None:
        """Return the (4, 4) transform of points from source to target at a stamp in ns; None if unknown."""
        header = Header(frame_id=source, stamp=stamp_from_ns(stamp_ns))
        try:
            return self.listen().look_up(header, target)
        except TransformLookupError:
            return None

    def close(self) -> None:
        """Unsubscribe."""
        with self._lock:
            if self._transforms is not None:
                self._transforms.destroy()
            self._transforms = None
