"""The simulated camera in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from xsam.sim.render import render
from xsam.sim.scene import sample_scene
from xsam_ros import camera_sim
from xsam_ros.messages.compressed_images import rgb_from_compressed
from xsam_ros.messages.depth_images import depth_from_compressed, depth_from_image
from xsam_ros.messages.images import array_from_image, rgb_from_image


def test_color_depth_and_info_belong_together(
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
    ids = ros.collect(Image, "/table/truth", qos_profile_sensor_data)
    eventually(lambda: len(colors) > 2 and len(depths) > 2 and infos and ids, "images")
    stamps = {(item.header.stamp.sec, item.header.stamp.nanosec) for item in colors}
    assert len(stamps) == len(colors)
    assert {(item.header.stamp.sec, item.header.stamp.nanosec) for item in depths[1:2]} <= stamps
    assert {item.header.frame_id for item in (*colors, *depths, *infos)} == {"lens"}

    truth = render(sample_scene(3), image_hw=(72, 96))
    np.testing.assert_array_equal(rgb_from_image(colors[0]), truth.rgb)
    assert depths[0].encoding == "32FC1"
    np.testing.assert_array_equal(array_from_image(depths[0]), truth.depth_m)
    assert ids[0].encoding == "mono16"
    np.testing.assert_array_equal(array_from_image(ids[0]), truth.instance_ids)
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


def test_every_topic_in_other_encodings(
    spawn: Callable[..., Any], ros: Any, eventually: Callable[..., Any]
) -> None:
    """All of one moment: the same stamp on color, JPEG, depth, compressed depth and camera info."""
    spawn(
        "-m",
        "xsam_ros.camera_sim",
        params={
            **{"camera": "table", "seed": 3, "width": 96, "height": 72, "rate_hz": 20.0, "qos": "reliable"},
            **{"encoding": "bayer_grbg8", "depth_encoding": "16UC1", "jpeg_quality": 95},
        },
    )
    topics = {
        "image_raw": Image,
        "image_raw/compressed": CompressedImage,
        "depth": Image,
        "depth/compressedDepth": CompressedImage,
        "camera_info": CameraInfo,
    }
    received = {name: ros.collect(kind, f"/table/{name}") for name, kind in topics.items()}

    def of_one_moment() -> dict[str, Any] | None:
        by_name = {
            name: {(item.header.stamp.sec, item.header.stamp.nanosec): item for item in messages}
            for name, messages in received.items()
        }
        stamps = set.intersection(*(set(items) for items in by_name.values()))
        return {name: items[max(stamps)] for name, items in by_name.items()} if stamps else None

    moment = eventually(of_one_moment, "five messages with one stamp")
    truth = render(sample_scene(3), image_hw=(72, 96))
    assert moment["image_raw"].encoding == "bayer_grbg8"
    mosaic = array_from_image(moment["image_raw"])
    np.testing.assert_array_equal(mosaic[0::2, 1::2], truth.rgb[0::2, 1::2, 0])
    jpeg = moment["image_raw/compressed"]
    assert jpeg.format == "rgb8; jpeg compressed bgr8"
    assert np.abs(rgb_from_compressed(jpeg).astype(int) - truth.rgb).mean() < 4
    assert moment["depth"].encoding == "16UC1"
    assert moment["depth/compressedDepth"].format == "16UC1; compressedDepth png"
    for depth_m in (
        depth_from_image(moment["depth"]),
        depth_from_compressed(moment["depth/compressedDepth"]),
    ):
        near = truth.depth_m < 10.0  # compressedDepth leaves out what is farther
        np.testing.assert_allclose(depth_m[near], truth.depth_m[near], atol=0.000501)


def test_nothing_is_made_for_nobody(
    ros: Any, eventually: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node in the test's process, with a note of what it makes."""
    made: list[str] = []
    names = ("image_from_rgb", "image_from_depth", "compressed_from_rgb", "compressed_from_depth")
    for name in names:
        original = getattr(camera_sim, name)

        def noted(*args: Any, name: str = name, original: Any = original, **options: Any) -> Any:
            made.append(name)
            return original(*args, **options)

        monkeypatch.setattr(camera_sim, name, noted)
    size = [Parameter("width", value=48), Parameter("height", value=36)]
    sim = camera_sim.CameraSim(context=ros.context, parameter_overrides=size)
    try:
        eventually(lambda: sim._views, "the picture")

        def published(messages: list[Any]) -> list[Any]:
            sim._publish()
            return messages[2:]

        infos = ros.collect(CameraInfo, "/camera/camera_info", qos_profile_sensor_data)
        eventually(lambda: published(infos), "camera info")
        assert made == []
        depths = ros.collect(Image, "/camera/depth", qos_profile_sensor_data)
        eventually(lambda: published(depths), "depth")
        assert made == ["image_from_depth"], "and only once for a picture that stays"
    finally:
        sim.stop()
        sim.destroy_node()


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"encoding": "rgb10"}, "bayer_rggb8"),
        ({"depth_encoding": "64FC1"}, "16UC1"),
        ({"encoding": "nv12", "width": 33}, "even"),
        ({"rate_hz": 1e6}, "rate_hz"),
    ],
)
def test_wrong_parameters_end_the_program_with_one_line(
    spawn: Callable[..., Any], params: dict[str, Any], words: str
) -> None:
    process = spawn("-m", "xsam_ros.camera_sim", params=params, exit_code=2)
    assert process.wait() == 2
    assert words in process.output
    assert "Traceback" not in process.output
