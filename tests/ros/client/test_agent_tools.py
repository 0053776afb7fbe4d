"""Every agent tool over ROS, as an agent calls them: the client's frames, the node's locations, and TF."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import Quaternion, TransformStamped, Vector3
from langchain_core.tools import BaseTool

from support.ros_peer import RosPeer
from tests.ros import tf_stand_in
from xsam.sim.scene import sample_scene
from xsam_agent_tools import XSamToolkit
from xsam_ros.cameras import transforms
from xsam_ros.client import RosSegmenter

Tools = dict[str, BaseTool]

pytestmark = pytest.mark.slow
_LENS = "table_optical_frame"


@pytest.fixture(scope="module")
def peer() -> Iterator[RosPeer]:
    """Publish one transform, in the stand-in for TF: the camera looks along the x axis of `base_link`."""
    with RosPeer() as peer:
        found = TransformStamped(child_frame_id=_LENS)
        found.header.frame_id = "base_link"
        found.transform.rotation = Quaternion(x=-0.5, y=0.5, z=-0.5, w=0.5)
        found.transform.translation = Vector3(x=0.1, y=0.0, z=1.5)
        publisher = peer.node.create_publisher(TransformStamped, "/test_transforms", 10)
        peer.node.create_timer(0.1, lambda: publisher.publish(found))
        yield peer


@pytest.fixture(scope="module")
def segmenter(
    peer: RosPeer, module_spawn: Callable[..., Any], eventually: Callable[..., Any]
) -> Iterator[RosSegmenter]:
    for module in ("xsam_ros.camera_sim", "xsam_ros.segmenter_node"):
        module_spawn("-m", module, "--ros-args", "--params-file", "config/demo.yaml")
    with pytest.MonkeyPatch.context() as patch, RosSegmenter("/xsam") as segmenter:
        patch.setattr(transforms, "tf2_ros", tf_stand_in)

        def ready() -> bool:
            status = segmenter.status(deadline_s=20.0)
            assert not status.last_error
            return status.state == "active" and bool(status.cameras[0].frames)

        eventually(ready, "the active state and a frame", 60.0)
        yield segmenter


@pytest.fixture(scope="module")
def toolkit(segmenter: RosSegmenter) -> XSamToolkit:
    return XSamToolkit(segmenter, ["table"], mode="full", images="tool", deadline_s=60.0)


def _call(toolkit: XSamToolkit, name: str, **arguments: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the model reads, and the artifact; the call must not be refused."""
    spec = next(spec for spec in toolkit.specs if spec.name == name)
    content, artifact = spec.call(arguments)
    return json.loads(content), artifact


def test_every_tool_works_over_ros(toolkit: XSamToolkit) -> None:
    called: dict[str, dict[str, Any]] = {}

    def call(name: str, **arguments: Any) -> dict[str, Any]:
        called[name], artifact = _call(toolkit, name, **arguments)
        if name not in ("report_not_found", "perception_status"):
            assert artifact["images"], f"no picture of {name}"
            assert not called[name].get("notes"), "the pixels are known"
        return called[name]

    categories = sorted({item.category for item in sample_scene(7).objects})
    found = call("segment_objects", queries=categories[:8])
    first, second = found["objects"][:2]
    center = dict(zip("xy", first["center_xy"], strict=True))
    call("ask_scene", question="What can I drink from?", image_id=found["image_id"])
    assert call("inspect_object", object_id=first["id"])["colour"]
    assert call("show_camera", grid=True)["size"] == found["size"]
    located = call("locate_objects_3d", object_ids=[first["id"]])
    assert located["frame"] == _LENS
    marked = call("segment_with_prompt", prompts=[{"type": "point", **center}], image_id=found["image_id"])
    refined = call("refine_object", object_id=first["id"], add=[{"type": "point", **center}])
    assert refined["iou_with_parent"] > 0.5
    call("filter_objects", image_id=found["image_id"], keep=[first["id"], second["id"]])
    call("compare_objects", object_ids=[first["id"], second["id"]], relation="left_of")
    call("segment_everything")
    assert call("track_object", object_id=first["id"])["parent"] == first["id"]
    call("segment_objects", queries=["unicorn"])
    call("report_not_found", query="unicorn", tried=["unicorn"], reason="not in view")
    status = call("perception_status")
    assert status["cameras"][0]["fresh"]
    assert set(called) == {spec.name for spec in toolkit.specs}
    # What was segmented again came back to the node without depth, and still has a position.
    for item in (*marked["objects"], *refined["objects"]):
        again, _ = _call(toolkit, "locate_objects_3d", object_ids=[item["id"]])
        distance_m = again["objects"][0]["distance_m"]
        assert distance_m == pytest.approx(located["objects"][0]["distance_m"], abs=0.1)


def test_positions_in_the_frame_of_the_robot(toolkit: XSamToolkit) -> None:
    found, _ = _call(toolkit, "segment_objects", queries=["cup"])
    ids = [found["objects"][0]["id"]]
    (own,) = _call(toolkit, "locate_objects_3d", object_ids=ids)[0]["objects"]
    turned, _ = _call(toolkit, "locate_objects_3d", object_ids=ids, frame="base_link")
    x, y, z = (own["position_m"][axis] for axis in "xyz")
    assert turned["frame"] == "base_link"
    expected = {"x": z + 0.1, "y": -x, "z": 1.5 - y}
    assert turned["objects"][0]["position_m"] == pytest.approx(expected, abs=0.002)


def test_the_frame_is_the_one_that_was_segmented(segmenter: RosSegmenter) -> None:
    from xsam import CameraRef, Query

    results, frame = segmenter.segment_with_frame(
        CameraRef(name="table"), [Query(thing_classes=("cup",))], deadline_s=60.0
    )
    assert frame is not None
    assert (frame.stamp_ns, frame.frame_id) == (results[0].stamp_ns, _LENS)
    assert frame.depth_m is not None
    assert np.isfinite(frame.depth_m).any()
