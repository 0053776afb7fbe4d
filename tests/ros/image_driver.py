"""A camera driver in the test's process that publishes one image repeatedly until it is stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rclpy.qos import qos_profile_sensor_data

_PERIOD_S = 0.05


class ImageDriver:
    """Image publisher that can be stopped and restarted."""

    def __init__(self, ros: Any, message: Any, topic: str, *, stamp: Callable[[], Any] | None = None) -> None:
        """Create the publisher.

        Args:
            ros: the test's `Ros`.
            message: the image; `self.message` may be replaced at any time.
            topic: where to publish.
            stamp: returns the time of the camera's clock; None = that of the test's node.
        """
        self.message = message
        self._stamp = stamp or (lambda: ros.node.get_clock().now().to_msg())
        self._publisher = ros.node.create_publisher(type(message), topic, qos_profile_sensor_data)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Any:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def next(self, stamp: Any) -> Any:
        """Return the image to send now."""
        message = self.message
        message.header.stamp = stamp
        message.header.frame_id = message.header.frame_id or "lens"
        return message

    def _run(self) -> None:
        while not self._stopping.wait(_PERIOD_S):
            self._publisher.publish(self.next(self._stamp()))
