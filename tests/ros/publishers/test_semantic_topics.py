"""The table of classes on real topics, and the rules of the Nav2 layer that reads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Header, String

from support.ros_peer import RosPeer
from xsam import Frame, MaskRle, Segments
from xsam_ros.msg import SegmentationResult
from xsam_ros.publishers.camera import TOPICS, CameraPublishers

Eventually = Callable[..., Any]
_HW = (4, 6)
_CONFIG = Path(__file__).resolve().parents[3] / "config" / "nav2_semantic.yaml"


def _segments(*labels: str) -> Segments:
    masks = [np.zeros(_HW, np.bool_) for _ in labels]
    for column, mask in enumerate(masks):
        mask[:, column] = True
    return Segments(
        image_hw=_HW,
        masks=tuple(map(MaskRle.encode, masks)),
        labels=labels,
        label_indices=np.arange(len(labels), dtype=np.int32),
        scores=np.ones(len(labels), np.float32),
        boxes_xyxy=np.zeros((len(labels), 4), np.float32),
    )


def test_labels_are_there_before_anybody_subscribes_to_images(ros: Any, eventually: Eventually) -> None:
    """A consumer that waits for the labels before it subscribes to the image waited for ever."""
    node = LifecycleNode("labels", context=ros.node.context)
    with RosPeer() as consumer:
        received: list[Any] = []
        publishers = CameraPublishers(node, "front")  # as on configure: the node is not active
        qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        consumer.node.create_subscription(
            String,
            "/labels/front/semantic/labels",
            lambda message: received.append(json.loads(message.data)),
            qos,
        )
        eventually(lambda: received == [{}], "an empty table")
        frame = Frame(rgb=np.zeros((*_HW, 3), np.uint8))
        result = SegmentationResult(header=Header(frame_id="lens_optical"))
        publishers.publish(frame, [result], [_segments("mug", "book")])
        eventually(lambda: received[-1] == {"0": "mug", "1": "book"}, "the labels of a result")
        publishers.publish(frame, [result], [_segments("book")])
        publishers.publish(frame, [result], [_segments("fork")])
        eventually(lambda: received[-1] == {"0": "mug", "1": "book", "2": "fork"}, "a label that is added")
        assert len(received) == 3, "an unchanged table is not published again"
        publishers.destroy()
    node.destroy_node()


def test_publishers_are_nothing_that_the_executor_waits_for(ros: Any) -> None:
    """rclpy waited for 24 events of them in every turn, for each camera: half of the time of a turn."""
    node = LifecycleNode("quiet", context=ros.node.context)
    before = list(node.waitables)
    publishers = [CameraPublishers(node, name) for name in ("front", "back")]
    assert list(node.waitables) == before
    for each in publishers:
        each.destroy()
    node.destroy_node()


def test_the_nav2_file_fits_the_topics_and_the_rules_of_the_layer() -> None:
    """Topics exist, class types are described, costs and confidence are in range."""
    layer = yaml.safe_load(_CONFIG.read_text(encoding="utf-8"))["/**"]["ros__parameters"][
        "semantic_segmentation_layer"
    ]
    assert layer["plugin"] == "semantic_segmentation_layer::SemanticSegmentationLayer"
    sources = layer["observation_sources"].split()
    assert sources
    for source in sources:
        parameters = layer[source]
        for key in ("segmentation_topic", "confidence_topic", "labels_topic", "pointcloud_topic"):
            assert parameters[key].removeprefix(f"/xsam/{source}/") in TOPICS
        names = [name for kind in parameters["class_types"] for name in parameters[kind]["classes"]]
        assert len(names) == len(set(names)) > 0
        for kind in parameters["class_types"]:
            assert {0, 254} >= {parameters[kind]["base_cost"], parameters[kind]["max_cost"]}
            assert 0 <= parameters[kind]["mark_confidence"] < 255
