"""A camera driver without DDS: it stores serialized messages in a buffer, by a clock of the test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo

from xsam_ros.cameras import buffer as buffer_module
from xsam_ros.cameras import camera as camera_module
from xsam_ros.cameras.camera import CameraBuffer, CameraFrame, CameraTopics
from xsam_ros.cameras.parameters import CameraParameters
from xsam_ros.cameras.registration import TransformLookup, no_transforms
from xsam_ros.messages.encode_images import image_from_depth, image_from_rgb
from xsam_ros.messages.frames import stamp_from_ns

_START_NS = 1_700_000_000_000_000_000
TOPICS = CameraTopics(image="/front/image_raw", depth="/front/depth", info="/front/camera_info")


class FakeClock:
    """Replacement for `time` in the camera modules, and the node clock."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.offset_ns = 0
        self.simulated = False
        self.rate = 1.0  # of the node clock

    @classmethod
    def installed(cls, monkeypatch: pytest.MonkeyPatch) -> FakeClock:
        """Create a clock and make the camera modules use it as `time`."""
        clock = cls()
        monkeypatch.setattr(buffer_module, "time", clock)
        monkeypatch.setattr(camera_module, "time", clock)
        return clock

    def monotonic(self) -> float:
        return self.now_s

    def node_ns(self) -> int:
        """Return the time of the node clock; `offset_ns` makes it jump."""
        return _START_NS + round((self.now_s - 100.0) * 1e9) + self.offset_ns

    def advance(self, seconds: float) -> None:
        """Let real seconds pass, of which the node clock sees as many as its rate says."""
        self.now_s += seconds
        self.offset_ns += round((self.rate - 1.0) * seconds * 1e9)


class BufferedCamera:
    """A driver that stores its messages directly in a `CameraBuffer`."""

    def __init__(
        self,
        clock: FakeClock,
        topics: CameraTopics = TOPICS,
        look_up: TransformLookup = no_transforms,
        **parameters: Any,
    ) -> None:
        self.clock = clock
        self.parameters = CameraParameters(**parameters)
        self.buffer = CameraBuffer(
            "front",
            topics,
            settings=lambda: self.parameters,
            clock_ns=clock.node_ns,
            is_simulated=lambda: clock.simulated,
            look_up=look_up,
        )

    def color(self, value: int = 0, *, ago_s: float = 0.0, hw: tuple[int, int] = (4, 6)) -> None:
        rgb = np.full((*hw, 3), value, np.uint8)
        self.buffer.image.store(self.serialized(image_from_rgb(rgb, "rgb8"), ago_s))

    def depth(self, meters: float = 1.0, *, ago_s: float = 0.0, hw: tuple[int, int] = (4, 6)) -> None:
        assert self.buffer.depth is not None
        message = image_from_depth(np.full(hw, meters, np.float32), "32FC1")
        self.buffer.depth.store(self.serialized(message, ago_s))

    def info(self, *, focal_px: float = 5.0, hw: tuple[int, int] = (4, 6), **fields: Any) -> None:
        assert self.buffer.info is not None
        k = [focal_px, 0.0, 2.5, 0.0, focal_px, 1.5, 0.0, 0.0, 1.0]
        message = CameraInfo(**{"height": hw[0], "width": hw[1], "k": k, **fields})
        self.buffer.info.store(self.serialized(message, 0.0))

    def frame(self, *, max_age_s: float = 1.0, max_side_px: int = 100) -> CameraFrame:
        return self.buffer.newest_frame(max_age_s=max_age_s, max_side_px=max_side_px)

    def serialized(self, message: Any, ago_s: float) -> bytes:
        message.header.stamp = stamp_from_ns(self.clock.node_ns() - round(ago_s * 1e9))
        message.header.frame_id = message.header.frame_id or "lens_optical"
        return serialize_message(message)


def first_value(frame: CameraFrame) -> int:
    """Return the red value of the first pixel, which the image was filled with."""
    return int(frame.frame.rgb[0, 0, 0])
