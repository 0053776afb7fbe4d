"""The simulated camera, once in a process of its own, else in the test's process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from rclpy.exceptions import InvalidParameterValueException
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from xsam.media.messages.compressed_images import rgb_from_compressed
from xsam.media.messages.depth_images import depth_from_compressed, depth_from_image
from xsam.media.messages.images import array_from_image
from xsam.sim.render import render
from xsam.sim.scene import sample_scene
from xsam_ros import simulated_camera
from xsam_ros.messages.image_messages import rgb_from_image
from xsam_ros.runtime.spin import spin


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


@pytest.fixture
def run_sim(ros: Any) -> Iterator[Callable[..., None]]:
    """Run the node with the given parameters in a thread of this process."""
    with contextlib.ExitStack() as cleanup:

        def run(**parameters: Any) -> None:
            overrides = [Parameter(name, value=value) for name, value in parameters.items()]
            sim = simulated_camera.CameraSim(context=ros.context, parameter_overrides=overrides)
            executor = SingleThreadedExecutor(context=ros.context)
            executor.add_node(sim)
            ended = threading.Event()
            thread = threading.Thread(target=spin, args=[executor], kwargs={"until": ended.is_set})
            thread.start()
            for end in (sim.destroy_node, executor.shutdown, sim.stop, thread.join, ended.set):
                cleanup.callback(end)  # called in reverse

        yield run


def test_an_orbiting_camera_moves(
    run_sim: Callable[..., None], ros: Any, eventually: Callable[..., Any]
) -> None:
    run_sim(orbit=True, orbit_views=40, width=48, height=36, rate_hz=20.0)
    colors = ros.collect(Image, "/camera/image_raw", qos_profile_sensor_data)
    eventually(lambda: len({bytes(image.data) for image in colors}) > 1, "two different views")


def test_every_topic_in_other_encodings(
    run_sim: Callable[..., None], ros: Any, eventually: Callable[..., Any]
) -> None:
    """Color, JPEG, depth, compressed depth and camera info of one cycle share a stamp."""
    run_sim(
        **{"camera": "table", "seed": 3, "width": 96, "height": 72, "rate_hz": 20.0, "qos": "reliable"},
        **{"encoding": "bayer_grbg8", "depth_encoding": "16UC1", "jpeg_quality": 95},
    )
    topics = {
        "image_raw": Image,
        "image_raw/compressed": CompressedImage,
        "depth": Image,
        "depth/compressedDepth": CompressedImage,
        "camera_info": CameraInfo,
    }
    received = {name: ros.collect(kind, f"/table/{name}") for name, kind in topics.items()}

    def of_one_cycle() -> dict[str, Any] | None:
        by_name = {
            name: {(item.header.stamp.sec, item.header.stamp.nanosec): item for item in messages}
            for name, messages in received.items()
        }
        stamps = set.intersection(*(set(items) for items in by_name.values()))
        return {name: items[max(stamps)] for name, items in by_name.items()} if stamps else None

    cycle = eventually(of_one_cycle, "five messages with one stamp")
    truth = render(sample_scene(3), image_hw=(72, 96))
    assert cycle["image_raw"].encoding == "bayer_grbg8"
    mosaic = array_from_image(cycle["image_raw"])
    np.testing.assert_array_equal(mosaic[0::2, 1::2], truth.rgb[0::2, 1::2, 0])
    jpeg = cycle["image_raw/compressed"]
    assert jpeg.format == "rgb8; jpeg compressed bgr8"
    assert np.abs(rgb_from_compressed(jpeg).astype(int) - truth.rgb).mean() < 4
    assert cycle["depth"].encoding == "16UC1"
    assert cycle["depth/compressedDepth"].format == "16UC1; compressedDepth png"
    for depth_m in (
        depth_from_image(cycle["depth"]),
        depth_from_compressed(cycle["depth/compressedDepth"]),
    ):
        near = truth.depth_m < 10.0  # compressedDepth drops anything farther
        np.testing.assert_allclose(depth_m[near], truth.depth_m[near], atol=0.000501)


def test_only_topics_with_subscribers_are_encoded(
    run_sim: Callable[..., None], ros: Any, eventually: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    names = ("image_from_rgb", "image_from_depth", "compressed_from_rgb", "compressed_from_depth")
    for name in names:
        original = getattr(simulated_camera, name)

        def recorded(*args: Any, name: str = name, original: Any = original, **options: Any) -> Any:
            called.append(name)
            return original(*args, **options)

        monkeypatch.setattr(simulated_camera, name, recorded)
    run_sim(width=48, height=36, rate_hz=50.0)
    infos = ros.collect(CameraInfo, "/camera/camera_info", qos_profile_sensor_data)
    eventually(lambda: len(infos) > 2, "camera info")
    assert called == []
    depths = ros.collect(Image, "/camera/depth", qos_profile_sensor_data)
    eventually(lambda: len(depths) > 2, "depth")
    assert called == ["image_from_depth"], "once, because the view does not change"


def test_a_wrong_parameter_ends_the_program_with_one_line(spawn: Callable[..., Any]) -> None:
    process = spawn("-m", "xsam_ros.camera_sim", params={"encoding": "rgb10"}, exit_code=2)
    assert process.wait() == 2
    assert "bayer_rggb8" in process.output
    assert "Traceback" not in process.output


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"depth_encoding": "64FC1"}, "16UC1"),
        ({"encoding": "nv12", "width": 33}, "even"),
        ({"rate_hz": 1e6}, "rate_hz"),
        ({"frame_id": "/lens"}, "begins with a slash"),
    ],
)
def test_wrong_parameters(ros: Any, parameters: dict[str, Any], reason: str) -> None:
    overrides = [Parameter(name, value=value) for name, value in parameters.items()]
    with pytest.raises(InvalidParameterValueException, match=reason):
        simulated_camera.CameraSim(context=ros.context, parameter_overrides=overrides)
