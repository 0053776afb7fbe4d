"""The node in a process of its own, over DDS: right results, and a typed refusal of everything else."""

from __future__ import annotations

import array
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from pycocotools import mask as coco_mask
from rcl_interfaces.srv import DescribeParameters
from sensor_msgs.msg import Image

import xsam_ros.msg as messages
from tests.ros.image_driver import ImageDriver
from tests.ros.node_client import NodeClient
from xsam.media.messages.images import array_from_image
from xsam_ros.messages.frames import stamp_from_ns
from xsam_ros.messages.image_messages import image_from_array
from xsam_ros.srv import Segment

Eventually = Callable[..., Any]
_RESULT = messages.SegmentationResult
_HW = (48, 64)


def _scene() -> np.ndarray:
    """A red, a green and a blue rectangle on gray."""
    rgb = np.full((*_HW, 3), 120, np.uint8)
    rgb[10:20, 5:25] = (255, 0, 0)
    rgb[30:40, 40:60] = (0, 255, 0)
    rgb[25:30, 0:10] = (0, 0, 255)
    return rgb


def _image(encoding: str = "rgb8", stamp_ns: int = 0) -> Image:
    rgb = _scene()
    message = image_from_array(np.ascontiguousarray(rgb[..., ::-1]) if encoding == "bgr8" else rgb, encoding)
    message.header.frame_id = "lens/optical frame"
    message.header.stamp = stamp_from_ns(stamp_ns)
    return message


def _query(text: str, **fields: Any) -> messages.SegmentQuery:
    return messages.SegmentQuery(text=text, **fields)


@pytest.fixture(scope="module")
def camera(module_ros: Any) -> Iterator[ImageDriver]:
    with ImageDriver(module_ros, _image("bgr8"), "/front_camera/image") as camera:
        yield camera


@pytest.fixture(scope="module")
def node(
    module_spawn: Callable[..., Any], module_ros: Any, eventually: Eventually, camera: ImageDriver
) -> Any:
    process = module_spawn(
        "tests/ros/color_node.py",
        params={
            "cameras": "[front, dark]",
            "front.image_topic": "/front_camera/image",
            "queue_size": 2,
            "max_frame_age_s": 30,
            "max_image_side_px": 200,
            "max_queries": 4,
        },
    )

    def front_delivers() -> bool:
        status = NodeClient(module_ros).status
        return status.state == "active" and any(item.frames for item in status.cameras)

    eventually(front_delivers, "frames of the front camera")
    return process


@pytest.fixture
def client(node: Any, module_ros: Any) -> NodeClient:
    return NodeClient(module_ros)


@pytest.fixture
def segment(node: Any, module_ros: Any) -> Callable[..., Segment.Response]:
    def segment(*queries: messages.SegmentQuery, **fields: Any) -> Segment.Response:
        request = Segment.Request(queries=list(queries), **fields)
        return module_ros.call(Segment, "/xsam/segment", request)

    return segment


SegmentCall = Callable[..., Segment.Response]


def _assert_refused(response: Segment.Response, code: str) -> None:
    assert (response.status, response.code) == (Segment.Response.STATUS_REFUSED, code), response
    assert response.message
    assert list(response.results) == []


# -------------------------------------------------------------------------------------- results


def test_by_camera_name(segment: SegmentCall) -> None:
    """The camera sends bgr8: a node that ignored the encoding would find the blue rectangle."""
    before_s = time.time()
    response = segment(_query("the red thing"), camera="front")
    assert (response.status, response.code) == (Segment.Response.STATUS_ANSWERED, "")
    (result,) = response.results
    assert (result.status, result.camera, result.model_id) == (_RESULT.STATUS_FOUND, "front", "colors")
    assert (result.image_height, result.image_width) == _HW
    assert result.header.frame_id == "lens/optical frame"
    assert 0 <= before_s - result.header.stamp.sec < 60
    assert [item.stage for item in result.timing] == ["queue", "image", "inference"]
    (instance,) = result.instances
    assert (instance.id, instance.label, instance.area) == (1, "red", 200)
    box = instance.box
    assert (box.x_min, box.y_min, box.x_max, box.y_max) == (5, 10, 25, 20)
    assert (instance.centroid.x, instance.centroid.y) == (14.5, 14.5)
    code = {"size": [instance.mask.height, instance.mask.width], "counts": bytes(instance.mask.counts)}
    np.testing.assert_array_equal(coco_mask.decode(code) > 0, (_scene() == (255, 0, 0)).all(axis=2))


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8"])
def test_with_an_image(segment: SegmentCall, encoding: str) -> None:
    image = _image(encoding, stamp_ns=123_000_000_456)
    image.header.stamp.nanosec = 4_000_000_000  # invalid, but passed on as it is
    response = segment(_query("green"), image=image)
    (result,) = response.results
    assert result.header == image.header
    assert result.camera == ""
    assert result.instances[0].box.x_min == 40


def test_all_queries_run_on_one_frame_in_order(segment: SegmentCall) -> None:
    response = segment(_query("red and blue"), _query("purple"), _query("blue"), camera="front")
    assert [result.status for result in response.results] == [
        _RESULT.STATUS_FOUND,
        _RESULT.STATUS_NOT_FOUND,
        _RESULT.STATUS_FOUND,
    ]
    assert [[item.id for item in result.instances] for result in response.results] == [[1, 2], [], [3]]
    assert "purple" in response.results[1].message
    assert len({result.header.stamp.nanosec for result in response.results}) == 1


def test_a_wrong_query_leaves_the_others_alone(segment: SegmentCall) -> None:
    outside = messages.PixelBox(x_min=1000.0, y_min=1000.0, x_max=1010.0, y_max=1010.0)
    response = segment(
        _query("red"),
        _query(""),
        _query("", prompts=[messages.VisualPrompt(kind=messages.VisualPrompt.KIND_BOX, box=outside)]),
        _query("blue", task=200),
        camera="front",
    )
    assert response.status == Segment.Response.STATUS_ANSWERED
    good, *wrong = response.results
    assert good.status == _RESULT.STATUS_FOUND
    assert [(result.status, result.code) for result in wrong] == [
        (_RESULT.STATUS_REFUSED, "INVALID_QUERY")
    ] * 3
    assert "empty" in wrong[0].message
    assert "outside" in wrong[1].message
    assert "unknown task 200" in wrong[2].message
    assert wrong[2].query.task == 200
    assert all(result.header == good.header for result in wrong)


# ------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "query",
    [
        messages.SegmentQuery(),
        _query("   "),
        _query("x" * 3000),
        _query("red", score_threshold=2.0),
        _query("red", task=255),
        _query("", thing_classes=["mug", ""]),
        _query("", prompts=[messages.VisualPrompt()]),
        _query("", prompts=[messages.VisualPrompt(kind=1, points=[messages.PixelPoint(x=-1.0)])]),
        _query("", prompts=[messages.VisualPrompt(kind=4, mask=messages.MaskRle(height=48, width=64))]),
        _query("", prompts=[messages.VisualPrompt(kind=4, mask=messages.MaskRle(height=2**32 - 1, width=1))]),
    ],
)
def test_wrong_queries(segment: SegmentCall, query: messages.SegmentQuery) -> None:
    response = segment(query, camera="front")
    (result,) = response.results
    assert (result.status, result.code) == (_RESULT.STATUS_REFUSED, "INVALID_QUERY")
    assert result.message
    assert list(result.instances) == []


def _broken_image(**fields: Any) -> Image:
    image = _image()
    for name, value in fields.items():
        setattr(image, name, value)
    return image


@pytest.mark.parametrize(
    "image",
    [
        _broken_image(height=0, width=0, data=array.array("B")),
        _broken_image(encoding="mp4"),
        _broken_image(encoding=""),
        _broken_image(height=2**32 - 1, width=2**32 - 1),
        _broken_image(height=100),
        _broken_image(step=1),
        _broken_image(data=array.array("B")),
        image_from_array(np.zeros((4, 201, 3), np.uint8), "rgb8"),
    ],
)
def test_wrong_images(segment: SegmentCall, image: Image) -> None:
    _assert_refused(segment(_query("red"), image=image), "INVALID_IMAGE")


def test_wrong_requests(segment: SegmentCall) -> None:
    red = _query("red")
    _assert_refused(segment(camera="front"), "INVALID_QUERY")
    _assert_refused(segment(red), "INVALID_QUERY")
    _assert_refused(segment(red, camera="front", image=_image()), "INVALID_QUERY")
    _assert_refused(segment(*[red] * 5, camera="front"), "INVALID_QUERY")
    _assert_refused(segment(red, camera="front", timeout_s=-1.0), "INVALID_QUERY")
    _assert_refused(segment(red, camera="front", timeout_s=float("nan")), "INVALID_QUERY")
    _assert_refused(segment(red, camera="front", max_age_s=float("inf")), "INVALID_QUERY")


def test_unknown_camera(segment: SegmentCall) -> None:
    response = segment(_query("red"), camera="/rosout; rm -rf")
    _assert_refused(response, "UNKNOWN_CAMERA")
    assert "front, dark" in response.message


def test_no_frame_yet(segment: SegmentCall) -> None:
    response = segment(_query("red"), camera="dark")
    _assert_refused(response, "NO_FRAME")
    assert "/dark/image_raw" in response.message


def test_stale_frame(segment: SegmentCall, camera: ImageDriver, eventually: Eventually) -> None:
    camera.stop()
    try:
        eventually(
            lambda: segment(_query("red"), camera="front", max_age_s=0.2).code == "STALE_FRAME",
            "a stale frame",
        )
        assert segment(_query("red"), camera="front").status == Segment.Response.STATUS_ANSWERED
    finally:
        camera.start()


def test_deadline(segment: SegmentCall) -> None:
    """The model is stuck for 1.5 s; the caller gets the refusal after 0.3 s."""
    started_s = time.monotonic()
    response = segment(_query("stuck"), image=_image(), timeout_s=0.3)
    _assert_refused(response, "DEADLINE")
    assert time.monotonic() - started_s < 1.3
    assert segment(_query("red"), image=_image()).status == Segment.Response.STATUS_ANSWERED


@pytest.mark.parametrize(("text", "code"), [("broken", "MODEL_ERROR"), ("memory", "OUT_OF_MEMORY")])
def test_a_failing_model_is_a_failure_and_not_an_empty_result(
    segment: SegmentCall, text: str, code: str
) -> None:
    response = segment(_query(text), image=_image())
    assert (response.status, response.code) == (Segment.Response.STATUS_FAILED, code)
    assert "Traceback" not in response.message
    assert segment(_query("red"), image=_image()).status == Segment.Response.STATUS_ANSWERED


def test_queue_full_and_status_meanwhile(client: NodeClient, eventually: Eventually) -> None:
    """Send four slow requests with room for two in the queue; status and parameters still respond."""
    futures = [client.segment_later("slow red", image=_image())]
    eventually(lambda: client.status.busy, "the first request to run")
    futures += [client.segment_later("slow red", image=_image()) for _ in range(3)]
    eventually(lambda: any(future.done() for future in futures), "the refusal")
    refused = [future.result() for future in futures if future.done()]
    assert [response.code for response in refused] == ["QUEUE_FULL"]
    now = client.status
    assert (now.busy, now.waiting, now.queue_size) == (True, 2, 2)
    assert client.get_integer("queue_size") == 2
    eventually(lambda: all(future.done() for future in futures), "all responses")
    codes = sorted(future.result().code for future in futures)
    assert codes == ["", "", "", "QUEUE_FULL"]


# ------------------------------------------------------------------------------ topics, parameters


def test_topics_of_a_camera(segment: SegmentCall, module_ros: Any, eventually: Eventually) -> None:
    results = module_ros.collect(messages.SegmentationResult, "/xsam/front/result")
    label_images = module_ros.collect(Image, "/xsam/front/label_image")
    overlays = module_ros.collect(Image, "/xsam/front/overlay")
    node = module_ros.node
    for name in ("result", "label_image", "overlay"):
        eventually(lambda name=name: node.count_publishers(f"/xsam/front/{name}"), f"topic {name}")

    def published() -> bool:
        segment(_query("red"), _query("green"), camera="front")
        return bool(results and label_images and overlays)

    eventually(published, "a message on each topic")
    header = label_images[0].header
    assert header.frame_id == "lens/optical frame"
    ids = array_from_image(label_images[0])
    assert label_images[0].encoding == "mono16"
    assert (ids[15, 10], ids[35, 50], ids[0, 0]) == (1, 2, 0)
    assert np.bincount(ids.ravel()).tolist()[1:] == [200, 200]
    overlay = array_from_image(overlays[0])
    assert (overlays[0].encoding, overlay.shape) == ("rgb8", (*_HW, 3))
    assert (overlay != _scene()).any()
    assert overlays[0].header.frame_id == "lens/optical frame"
    by_id = {item.id: item.label for result in results[:2] for item in result.instances}
    assert by_id == {1: "red", 2: "green"}


def test_diagnostics(node: Any, module_ros: Any, eventually: Eventually) -> None:
    """A camera that is configured but silent is named."""
    received = module_ros.collect(DiagnosticArray, "/diagnostics")

    def latest() -> dict[str, DiagnosticStatus]:
        return {status.name: status for message in received[-1:] for status in message.status}

    def model_is_ok() -> bool:
        model = latest().get("/xsam: model")
        return model is not None and model.level == DiagnosticStatus.OK

    eventually(model_is_ok, "diagnostics without errors in the last second", 30.0)
    statuses = latest()
    values = {pair.key: pair.value for pair in statuses["/xsam: model"].values}
    assert values["model"] == "colors on cpu", "the parameter's default, auto, is resolved"
    silent = statuses["/xsam: camera dark"]
    assert silent.level == DiagnosticStatus.STALE
    assert "/dark/image_raw" in silent.message


def test_parameters(client: NodeClient, module_ros: Any) -> None:
    assert client.set("default_timeout_s", 20.0).successful
    assert not client.set("default_timeout_s", 1e9).successful
    for name, value in (("model", "/etc/passwd"), ("front.image_topic", "/elsewhere")):
        refused = client.set(name, value)
        assert not refused.successful
        assert "unconfigured" in refused.reason
    described = module_ros.call(
        DescribeParameters, "/xsam/describe_parameters", DescribeParameters.Request(names=["queue_size"])
    ).descriptors[0]
    assert "QUEUE_FULL" in described.description
    assert (described.integer_range[0].from_value, described.integer_range[0].to_value) == (1, 1024)


def test_refused_changes_say_why(client: NodeClient) -> None:
    refused = client.set("autostart", False)
    assert not refused.successful
    assert "read-only" in refused.reason
    too_long = client.set("track_lost_s", 1e6)
    assert not too_long.successful
    assert "track_lost_s" in too_long.reason
    wrong_type = client.set("target_frame", 1)
    assert not wrong_type.successful
    assert client.set("target_frame", "base_link").successful
    assert client.set("target_frame", "").successful


def test_the_node_is_still_alive_and_has_counted(segment: SegmentCall, node: Any, client: NodeClient) -> None:
    assert segment(_query("red"), camera="front").status == Segment.Response.STATUS_ANSWERED
    assert node.running
    status = client.status
    front, dark = status.cameras
    assert (front.name, front.image_topic, front.publishers) == ("front", "/front_camera/image", 1)
    assert front.frames > 0
    assert 0 <= front.age_s < 30
    assert (dark.frames, dark.publishers) == (0, 0)
    assert np.isnan(dark.age_s)
    assert status.answered > 0
    assert (status.waiting, status.model_id) == (0, "colors")
