"""A simulated camera over a table-top scene: color, registered depth, camera info.

Run it with `ros2 run xsam_ros xsam_camera_sim` or `python -m xsam_ros.camera_sim`. Rendering takes a few
hundred milliseconds per view, so the scene is rendered once at startup, or `orbit_views` times for a camera
that orbits the table; publishing then costs next to nothing. Messages are built only for topics that have
subscribers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterValueException
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from xsam.media.messages.images import DEPTH_ENCODINGS
from xsam.sim.render import RenderedView, render
from xsam.sim.scene import orbit_camera, sample_scene
from xsam.types.checks import frame_id_problem
from xsam_ros.messages.encode_images import (
    ENCODINGS,
    compressed_from_depth,
    compressed_from_rgb,
    image_from_depth,
    image_from_rgb,
)
from xsam_ros.messages.image_messages import image_from_array
from xsam_ros.runtime.spin import run_node

_EncodeView = Callable[[RenderedView], Any]
"""Builds the message of one topic from a view."""


class CameraSim(Node):
    """A driver of an RGB-D camera; all images of a cycle share one stamp and frame_id.

    * `<camera>/image_raw`, in `encoding`, and `<camera>/image_raw/compressed`, JPEG or PNG;
    * `<camera>/depth`, in `depth_encoding`, and `<camera>/depth/compressedDepth`;
    * `<camera>/camera_info`;
    * `<camera>/truth`, mono16: ground-truth instance ids, 0 = none, i + 1 = object i of the scene.
    """

    def __init__(self, node_name: str = "xsam_camera_sim", **options: Any) -> None:
        super().__init__(node_name, **options)
        camera = self._declare("camera", "camera", "Name of the camera, the namespace of its topics.")
        self._frame_id = self._declare(
            "frame_id", "camera_optical_frame", "frame_id of all headers.", frame=True
        )
        self._seed = self._declare("seed", 7, "Which scene to show.", (0, 2**31 - 1))
        self._width = self._declare("width", 640, "Image width in px.", (16, 4096))
        self._height = self._declare("height", 480, "Image height in px.", (16, 4096))
        rate_hz = self._declare("rate_hz", 10.0, "Images per second.", (0.1, 120.0))
        self._encoding = self._declare("encoding", "rgb8", "Encoding of image_raw.", choices=ENCODINGS)
        self._compression = self._declare(
            "compression", "jpeg", "File format of image_raw/compressed.", choices=("jpeg", "png")
        )
        self._jpeg_quality = self._declare("jpeg_quality", 90, "JPEG quality.", (1, 100))
        self._depth_encoding = self._declare(
            "depth_encoding", "32FC1", "32FC1 = depth in m, 16UC1 = depth in mm.", choices=DEPTH_ENCODINGS
        )
        qos = self._declare(
            "qos", "sensor_data", "Reliability of the topics.", choices=("sensor_data", "reliable")
        )
        self._orbit = self._declare("orbit", False, "Orbit the table instead of standing still.")
        self._orbit_views = self._declare("orbit_views", 24, "Views rendered for the orbit.", (2, 200))
        self._orbit_period_s = self._declare("orbit_period_s", 20.0, "Time of one orbit.", (0.1, 3600.0))
        if self._encoding.startswith(("yuv", "nv")) and (self._width % 2 or self._height % 2):
            raise InvalidParameterValueException("encoding", self._encoding, "it needs an even size")
        reliability = ReliabilityPolicy.RELIABLE if qos == "reliable" else ReliabilityPolicy.BEST_EFFORT
        self._profile = QoSProfile(depth=5, reliability=reliability)
        color, depth = f"{camera}/image_raw", f"{camera}/depth"
        self._image_publishers: list[tuple[Publisher, _EncodeView]] = [
            self._create_topic(Image, color, lambda view: image_from_rgb(view.rgb, self._encoding)),
            self._create_topic(
                CompressedImage,
                f"{color}/compressed",
                lambda view: compressed_from_rgb(view.rgb, self._compression, quality=self._jpeg_quality),
            ),
            self._create_topic(
                Image, depth, lambda view: image_from_depth(view.depth_m, self._depth_encoding)
            ),
            self._create_topic(
                CompressedImage,
                f"{depth}/compressedDepth",
                lambda view: compressed_from_depth(view.depth_m, self._depth_encoding),
            ),
            self._create_topic(CameraInfo, f"{camera}/camera_info", self._camera_info),
            self._create_topic(
                Image, f"{camera}/truth", lambda view: image_from_array(view.instance_ids, "mono16")
            ),
        ]
        self._views: list[RenderedView] = []
        self._messages: dict[tuple[int, int], Any] = {}  # by view index and publisher index
        self._stopping = threading.Event()
        self._renderer = threading.Thread(target=self._render, name="xsam_camera_sim", daemon=True)
        self._renderer.start()
        self.create_timer(1.0 / rate_hz, self._publish)

    def stop(self, *, timeout_s: float = 10.0) -> None:
        """Stop rendering, and wait this long for the view in progress."""
        self._stopping.set()
        self._renderer.join(timeout=timeout_s)

    def _create_topic(
        self, message_type: type[Any], topic: str, encode: _EncodeView
    ) -> tuple[Publisher, _EncodeView]:
        return self.create_publisher(message_type, topic, self._profile), encode

    def _render(self) -> None:
        """Render all views; nothing is published until all are done."""
        scene = sample_scene(self._seed)
        started_s = time.monotonic()
        count = self._orbit_views if self._orbit else 1
        views = []
        for index in range(count):
            if self._stopping.is_set():
                return
            camera = orbit_camera(scene, float(index), period_s=float(count))
            views.append(render(scene, camera=camera, image_hw=(self._height, self._width)))
        self._views = views
        names = ", ".join(f"{item.color} {item.category}" for item in scene.objects)
        self.get_logger().info(
            f"scene {self._seed} ({names}): {count} views in {time.monotonic() - started_s:.1f} s"
        )

    def _camera_info(self, view: RenderedView) -> CameraInfo:
        matrix = [float(value) for value in view.intrinsics.ravel()]
        return CameraInfo(
            height=self._height,
            width=self._width,
            distortion_model="plumb_bob",
            d=[0.0] * 5,
            k=matrix,
            r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
            p=[*matrix[:3], 0.0, *matrix[3:6], 0.0, *matrix[6:], 0.0],
        )

    def _publish(self) -> None:
        if not self._views:
            return
        view_index = int(time.monotonic() / self._orbit_period_s % 1.0 * len(self._views))
        header = Header(frame_id=self._frame_id, stamp=self.get_clock().now().to_msg())
        for index, (publisher, encode) in enumerate(self._image_publishers):
            if publisher.get_subscription_count() == 0:
                continue
            key = view_index, index
            if key not in self._messages:
                self._messages[key] = encode(self._views[view_index])
            message = self._messages[key]
            message.header = header
            publisher.publish(message)

    def _declare(
        self,
        name: str,
        default: Any,
        description: str,
        limits: tuple[float, float] | None = None,
        *,
        choices: Sequence[str] = (),
        frame: bool = False,
    ) -> Any:
        if choices:
            description = f"{description} One of {', '.join(choices)}."
        descriptor = ParameterDescriptor(description=description, read_only=True)
        if isinstance(default, float) and limits is not None:
            descriptor.dynamic_typing = True  # `rate_hz: 5` in YAML is an integer
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=limits[0], to_value=limits[1], step=0.0)
            ]
        elif limits is not None:
            descriptor.integer_range = [IntegerRange(from_value=limits[0], to_value=limits[1], step=1)]
        value = self.declare_parameter(name, default, descriptor).value
        if choices and value not in choices:
            raise InvalidParameterValueException(name, value, f"expected one of {', '.join(choices)}")
        if frame and (problem := frame_id_problem(value)):
            raise InvalidParameterValueException(name, value[:60], f"the frame {problem}")
        return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the camera until SIGINT or SIGTERM."""
    run_node(CameraSim, arguments=arguments)
