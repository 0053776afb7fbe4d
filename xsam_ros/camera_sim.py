"""A simulated camera over a table-top scene: colour, registered depth, camera info.

Run it with `ros2 run xsam_ros xsam_camera_sim` or `python -m xsam_ros.camera_sim`. The scene is rendered
once at start, or `orbit_views` times for a camera that swings around the table, because rendering takes
a few hundred milliseconds a view; after that publishing costs next to nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from xsam.sim.render import RenderedView, render
from xsam.sim.scene import orbit_camera, sample_scene
from xsam_ros.image_conversion import image_from_array
from xsam_ros.spinning import run_node

_ORBIT_PERIOD_S = 20.0


@dataclass(frozen=True, slots=True)
class _View:
    """What is published of one view; only the stamps change."""

    color: Image
    depth: Image
    info: CameraInfo


class CameraSim(Node):
    """Publishes `<camera>/image_raw` (rgb8), `<camera>/depth` (32FC1, metres) and `<camera>/camera_info`."""

    def __init__(self, node_name: str = "xsam_camera_sim", **options: Any) -> None:
        super().__init__(node_name, **options)
        camera = self._declare("camera", "camera", "Name of the camera: the namespace of its topics.")
        self._frame_id = self._declare("frame_id", "camera_optical_frame", "frame_id of all headers.")
        self._seed = self._declare("seed", 7, "Which scene to show.", (0, 2**31 - 1))
        self._width = self._declare("width", 640, "Image width in px.", (16, 4096))
        self._height = self._declare("height", 480, "Image height in px.", (16, 4096))
        rate_hz = self._declare("rate_hz", 10.0, "Images a second.", (0.1, 120.0))
        self._orbit = self._declare("orbit", False, "Swing around the table instead of standing still.")
        self._orbit_views = self._declare("orbit_views", 24, "Views rendered for the swing.", (2, 200))
        self._color = self.create_publisher(Image, f"{camera}/image_raw", qos_profile_sensor_data)
        self._depth = self.create_publisher(Image, f"{camera}/depth", qos_profile_sensor_data)
        self._info = self.create_publisher(CameraInfo, f"{camera}/camera_info", qos_profile_sensor_data)
        self._views: list[_View] = []
        self._stopping = threading.Event()
        self._renderer = threading.Thread(target=self._render, name="xsam_camera_sim", daemon=True)
        self._renderer.start()
        self.create_timer(1.0 / rate_hz, self._publish)

    def stop(self) -> None:
        """End rendering."""
        self._stopping.set()
        self._renderer.join(timeout=10.0)

    def _render(self) -> None:
        """Render all views; a swing starts to be published when it is complete."""
        scene = sample_scene(self._seed)
        started_s = time.monotonic()
        count = self._orbit_views if self._orbit else 1
        views = []
        for index in range(count):
            if self._stopping.is_set():
                return
            camera = orbit_camera(scene, index * _ORBIT_PERIOD_S / count, period_s=_ORBIT_PERIOD_S)
            views.append(self._view(render(scene, camera=camera, image_hw=(self._height, self._width))))
        self._views = views
        names = ", ".join(f"{item.color} {item.category}" for item in scene.objects)
        self.get_logger().info(
            f"scene {self._seed} ({names}): {count} views in {time.monotonic() - started_s:.1f} s"
        )

    def _view(self, seen: RenderedView) -> _View:
        header = Header(frame_id=self._frame_id)
        matrix = [float(value) for value in seen.intrinsics.ravel()]
        return _View(
            image_from_array(seen.rgb, "rgb8", header),
            image_from_array(seen.depth_m, "32FC1", header),
            CameraInfo(
                header=header,
                height=self._height,
                width=self._width,
                distortion_model="plumb_bob",
                d=[0.0] * 5,
                k=matrix,
                r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
                p=[*matrix[:3], 0.0, *matrix[3:6], 0.0, *matrix[6:], 0.0],
            ),
        )

    def _publish(self) -> None:
        if not self._views:
            return
        turn = time.monotonic() / _ORBIT_PERIOD_S % 1.0
        view = self._views[int(turn * len(self._views))]
        view.color.header.stamp = self.get_clock().now().to_msg()  # the three messages share the header
        self._color.publish(view.color)
        self._info.publish(view.info)
        if self._depth.get_subscription_count():
            self._depth.publish(view.depth)

    def _declare(self, name: str, default: Any, text: str, limits: tuple[float, float] | None = None) -> Any:
        descriptor = ParameterDescriptor(description=text, read_only=True)
        if isinstance(default, float) and limits is not None:
            descriptor.dynamic_typing = True  # `rate_hz: 5` in YAML is an integer
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=limits[0], to_value=limits[1], step=0.0)
            ]
        elif limits is not None:
            descriptor.integer_range = [IntegerRange(from_value=limits[0], to_value=limits[1], step=1)]
        return self.declare_parameter(name, default, descriptor).value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the camera until SIGINT or SIGTERM."""
    return run_node(CameraSim, arguments=arguments)


if __name__ == "__main__":
    raise SystemExit(main())
