"""A camera's buffer, filled over DDS by the simulated camera in another process, in many encodings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo

from xsam import NoFrameError, StaleFrameError
from xsam.sim.render import RenderedView, render
from xsam.sim.scene import sample_scene
from xsam_ros.cameras.camera import CameraBuffer, CameraFrame
from xsam_ros.cameras.parameters import CameraParameters
from xsam_ros.cameras.subscriptions import CameraSubscriptions, camera_qos, create_camera_buffer
from xsam_ros.runtime.parameters import declare

Spawn = Callable[..., Any]
Eventually = Callable[..., Any]
_SIM = {"camera": "table", "frame_id": "lens_optical", "seed": 3, "width": 96, "height": 72, "rate_hz": 20}
_MILLIMETERS = {"camera": "mm", "encoding": "bgr8", "depth_encoding": "16UC1", "qos": "reliable"}
_METERS = {"camera": "m", "encoding": "rgba8", "depth_encoding": "32FC1"}


@pytest.fixture(scope="module")
def truth() -> RenderedView:
    return render(sample_scene(3), image_hw=(72, 96))


@pytest.fixture(scope="module", autouse=True)
def drivers(module_spawn: Spawn) -> None:
    """Two simulated cameras for all tests, "mm" and "m", which differ in encodings and reliability."""
    for camera in (_MILLIMETERS, _METERS):
        module_spawn("-m", "xsam_ros.camera_sim", params={**_SIM, **camera, "compression": "png"})


@contextmanager
def _subscribed(ros: Any, **parameters: Any) -> Iterator[CameraBuffer]:
    """Yield the buffer of camera "front" with these parameters, created as the segmenter node does."""
    declare(ros.node, CameraParameters, prefix="front.")
    values = [Parameter(f"front.{name}", value=value) for name, value in parameters.items()]
    assert all(result.successful for result in ros.node.set_parameters(values))
    buffer = create_camera_buffer(ros.node, "front")
    subscriptions = CameraSubscriptions(ros.node, buffer)
    try:
        yield buffer
    finally:
        subscriptions.destroy()
        subscriptions.destroy()


def _frame(buffer: CameraBuffer, *, max_age_s: float = 1.0) -> CameraFrame | None:
    try:
        return buffer.newest_frame(max_age_s=max_age_s, max_side_px=1000)
    except (NoFrameError, StaleFrameError):
        return None


def _complete(buffer: CameraBuffer) -> CameraFrame | None:
    got = _frame(buffer)
    complete = got is not None and got.frame.depth_m is not None and got.frame.intrinsics is not None
    return got if complete else None


@pytest.mark.parametrize(("camera", "depth_atol"), [("mm", 0.000501), ("m", 0.0)])
def test_raw_color_depth_and_info(
    ros: Any, eventually: Eventually, truth: RenderedView, camera: str, depth_atol: float
) -> None:
    with _subscribed(ros, image_topic=f"/{camera}/image_raw", depth_topic=f"/{camera}/depth") as buffer:
        assert buffer.topics == (f"/{camera}/image_raw", f"/{camera}/depth", f"/{camera}/camera_info")
        got = eventually(lambda: _complete(buffer), "a complete frame")
        _assert_truth(got, truth, depth_atol)
        np.testing.assert_array_equal(got.frame.rgb, truth.rgb)
        statistics = eventually(
            lambda: (now := buffer.statistics()).image.received > 10 and now, "some more images"
        )
        assert statistics.decode_errors == 0
        assert 5 < statistics.image.rate_hz < 40
        assert statistics.image.age_s < 1
        assert statistics.image.incompatible_qos == ""
        assert statistics.image.received_bytes > statistics.image.received * 96 * 72 * 3
    eventually(lambda: ros.node.count_subscribers(f"/{camera}/image_raw") == 0, "the end of the subscription")


@pytest.mark.parametrize(("camera", "depth_atol"), [("mm", 0.0006), ("m", 0.002)])
def test_compressed_color_and_depth(
    ros: Any, eventually: Eventually, truth: RenderedView, camera: str, depth_atol: float
) -> None:
    with _subscribed(
        ros,
        image_topic=f"/{camera}/image_raw/compressed",
        compressed=True,
        depth_topic=f"/{camera}/depth/compressedDepth",
        depth_compressed=True,
    ) as buffer:
        assert buffer.topics[2] == f"/{camera}/camera_info"
        got = eventually(lambda: _complete(buffer), "a complete frame")
        np.testing.assert_array_equal(got.frame.rgb, truth.rgb)
        _assert_truth(got, truth, depth_atol)


def _assert_truth(got: CameraFrame, truth: RenderedView, depth_atol: float) -> None:
    assert (got.no_depth_reason, got.no_intrinsics_reason, got.notes) == ("", "", ())
    assert (got.frame.camera, got.header.frame_id) == ("front", "lens_optical")
    assert got.frame.depth_m is not None
    assert got.frame.intrinsics is not None
    np.testing.assert_allclose(got.frame.depth_m, truth.depth_m, atol=depth_atol)
    np.testing.assert_allclose(got.frame.intrinsics, truth.intrinsics)


def test_an_incompatible_quality_of_service_is_reported_by_topic(ros: Any, eventually: Eventually) -> None:
    """The driver offers best effort, color requests reliable: nothing arrives, and there is no error."""
    with _subscribed(
        ros,
        image_topic="/m/image_raw",
        depth_topic="/m/depth",
        qos="reliable",
        depth_qos="sensor_data",
    ) as buffer:
        eventually(lambda: buffer.statistics().image.incompatible_qos, "the report")
        assert buffer.depth is not None
        assert buffer.info is not None
        eventually(lambda: buffer.depth.statistics().received, "depth, which is compatible")
        eventually(lambda: buffer.info.statistics().incompatible_qos, "the report about the camera info")
        image, depth = buffer.image.statistics(), buffer.depth.statistics()
        assert (image.topic, image.incompatible_qos) == ("/m/image_raw", "RELIABILITY")
        assert (image.incompatible_publishers, image.received) == (1, 0)
        assert depth.incompatible_qos == ""
        with pytest.raises(NoFrameError, match=r"RELIABILITY.*front\.image_qos"):
            buffer.newest_frame(max_age_s=1.0, max_side_px=1000)


def test_a_camera_info_that_was_published_once(ros: Any, module_ros: Any, eventually: Eventually) -> None:
    latched = QoSProfile(
        depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL, reliability=ReliabilityPolicy.RELIABLE
    )
    publisher = module_ros.node.create_publisher(CameraInfo, "/once/camera_info", latched)
    publisher.publish(CameraInfo(height=4, width=6))
    with _subscribed(
        ros, image_topic="/once/image", info_topic="/once/camera_info", info_qos="latched"
    ) as buffer:
        assert buffer.info is not None
        eventually(buffer.info.newest, "the camera info from before")
    module_ros.node.destroy_publisher(publisher)


def test_a_camera_that_is_restarted_with_another_size_and_encoding(
    spawn: Spawn, ros: Any, eventually: Eventually
) -> None:
    first = spawn("-m", "xsam_ros.camera_sim", params=_SIM)
    with _subscribed(ros, image_topic="/table/image_raw", depth_topic="/table/depth") as buffer:
        got = eventually(lambda: _complete(buffer), "a complete frame")
        assert got.frame.image_hw == (72, 96)
        first.stop()
        eventually(lambda: _frame(buffer, max_age_s=0.3) is None, "a stale frame")
        with pytest.raises(StaleFrameError):
            buffer.newest_frame(max_age_s=0.3, max_side_px=1000)
        spawn(
            "-m",
            "xsam_ros.camera_sim",
            params={**_SIM, "width": 64, "height": 64, "encoding": "yuv422", "depth_encoding": "16UC1"},
        )

        def changed() -> CameraFrame | None:
            now = _complete(buffer)
            return now if now is not None and now.frame.image_hw == (64, 64) else None

        now = eventually(changed, "a complete frame of the other size")
        assert now.sequence > got.sequence
        expected = render(sample_scene(3), image_hw=(64, 64))
        _assert_truth(now, expected, 0.000501)
        difference = np.abs(now.frame.rgb.astype(int) - expected.rgb)
        assert np.median(difference) <= 4


@pytest.mark.parametrize(
    ("kind", "reliability", "durability"),
    [
        ("sensor_data", ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE),
        ("reliable", ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE),
        ("latched", ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL),
    ],
)
def test_quality_of_service(kind: str, reliability: Any, durability: Any) -> None:
    qos = camera_qos(kind, depth=3)
    assert (qos.reliability, qos.durability, qos.depth) == (reliability, durability, 3)
