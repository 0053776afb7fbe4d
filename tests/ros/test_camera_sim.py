from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image

from xsam.sim.render import render
from xsam.sim.scene import sample_scene
from xsam_ros.image_conversion import array_from_image, rgb_from_image


def test_colour_depth_and_info_belong_together(
    spawn: Callable[..., Any], ros: Any, eventually: Callable[..., Any]
) -> None:
    spawn(
        "-m",
        "xsam_ros.camera_sim",
        params={"camera": "table", "frame_id": "lens", "seed": 3, "width": 96, "height": 72, "rate_hz": 20},
    )
    colors = ros.collect(Image, "/table/image_raw", qos_profile_sensor_data)
    depths = ros.collect(Image, "/table/depth", qos_profile_sensor_data)
    infos = ros.collect(CameraInfo, "/table/camera_info", qos_profile_sensor_data)
    eventually(lambda: len(colors) > 2 and len(depths) > 2 and infos, "images")
    stamps = {(item.header.stamp.sec, item.header.stamp.nanosec) for item in colors}
    assert len(stamps) == len(colors)
    assert {(item.header.stamp.sec, item.header.stamp.nanosec) for item in depths[1:2]} <= stamps
    assert {item.header.frame_id for item in (*colors, *depths, *infos)} == {"lens"}

    truth = render(sample_scene(3), image_hw=(72, 96))
    np.testing.assert_array_equal(rgb_from_image(colors[0]), truth.rgb)
    assert depths[0].encoding == "32FC1"
    np.testing.assert_array_equal(array_from_image(depths[0]), truth.depth_m)
    assert (infos[0].height, infos[0].width) == (72, 96)
    np.testing.assert_allclose(np.reshape(infos[0].k, (3, 3)), truth.intrinsics)
    np.testing.assert_allclose(np.reshape(infos[0].p, (3, 4))[:, :3], truth.intrinsics)


def test_an_orbiting_camera_moves(
    spawn: Callable[..., Any], ros: Any, eventually: Callable[..., Any]
) -> None:
    spawn(
        "-m",
        "xsam_ros.camera_sim",
        params={"orbit": "true", "orbit_views": 40, "width": 48, "height": 36, "rate_hz": 20.0},
    )
    colors = ros.collect(Image, "/camera/image_raw", qos_profile_sensor_data)
    eventually(lambda: len({bytes(image.data) for image in colors}) > 1, "two different views")
