"""Content of a camera's topics: ids, classes, 3D boxes, points; checked against scenes built by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sensor_msgs.msg import PointField
from std_msgs.msg import Header
from visualization_msgs.msg import Marker

from xsam import Frame, MaskRle, Segments
from xsam.types.location import Location3D
from xsam_ros.messages.results import instances_from_segments
from xsam_ros.msg import SegmentationResult
from xsam_ros.publishers.camera import instance_ids, overlay
from xsam_ros.publishers.markers import POINT_DTYPE, markers, point_cloud
from xsam_ros.publishers.semantic import NO_CLASS, ClassTable, label_json

HW = (4, 6)


def _mask(rows: slice, columns: slice) -> MaskRle:
    mask = np.zeros(HW, bool)
    mask[rows, columns] = True
    return MaskRle.encode(mask)


def _segments(*items: tuple[str, float, slice, slice], **extra: object) -> Segments:
    masks = tuple(_mask(rows, columns) for _, _, rows, columns in items)
    return Segments(
        image_hw=HW,
        masks=masks,
        labels=tuple(label for label, *_ in items),
        label_indices=np.arange(len(items), dtype=np.int32),
        scores=np.array([score for _, score, *_ in items], np.float32),
        boxes_xyxy=np.zeros((len(items), 4), np.float32),
        **extra,  # type: ignore[arg-type]
    )


ALL = slice(None)


def test_ids_count_through_all_results_and_the_first_result_wins() -> None:
    first = _segments(("mug", 0.9, ALL, slice(0, 2)))
    second = _segments(("book", 0.8, ALL, slice(1, 4)), ("fork", 0.7, ALL, slice(5, 6)))
    ids = instance_ids(HW, [first, second])
    assert ids.dtype == np.uint16
    assert ids[0].tolist() == [1, 1, 2, 2, 0, 3]


def test_classes_keep_their_ids_over_frames() -> None:
    table = ClassTable()
    table.semantic_image(HW, [_segments(("mug", 0.9, ALL, slice(0, 1)), ("book", 0.8, ALL, slice(2, 3)))])
    before = {label: table.id_of(label) for label in ("mug", "book")}
    classes, _ = table.semantic_image(
        HW, [_segments(("fork", 0.9, ALL, slice(0, 1)), ("book", 0.8, ALL, slice(2, 3)))]
    )
    assert {label: table.id_of(label) for label in ("mug", "book")} == before
    assert classes[0, 2] == before["book"]
    assert classes[0, 0] not in before.values()
    assert classes[0, 5] == NO_CLASS
    assert json.loads(label_json(table))[str(before["mug"])] == "mug"


def test_the_higher_score_and_the_first_result_win_a_pixel() -> None:
    table = ClassTable()
    weak_first = [
        _segments(("mug", 0.4, ALL, slice(0, 3)), ("book", 0.8, ALL, slice(2, 4))),
        _segments(("fork", 0.99, ALL, slice(0, 6))),
    ]
    classes, confidence = table.semantic_image(HW, weak_first)
    names = [table.labels[value] for value in classes[0]]
    assert names == ["mug", "mug", "book", "book", "fork", "fork"]
    assert confidence[0].tolist() == [102, 102, 204, 204, 252, 252]


def test_classes_beyond_the_last_id_are_no_class() -> None:
    table = ClassTable()
    ids = [table.id_of(f"thing {number}") for number in range(300)]
    assert ids[:255] == list(range(255))
    assert set(ids[255:]) == {NO_CLASS}


@pytest.mark.parametrize(("no_class", "first", "last"), [(255, 0, 254), (0, 1, 255), (7, 0, 255)])
def test_the_value_for_no_class_is_nobody_s_id(no_class: int, first: int, last: int) -> None:
    """Some consumers take 0 for "none": the first label was invisible to them."""
    table = ClassTable(no_class=no_class)
    ids = [table.id_of(f"thing {number}") for number in range(255)]
    assert (ids[0], ids[-1]) == (first, last)
    assert len(set(ids)) == 255
    assert no_class not in ids
    assert table.id_of("one more") == no_class
    classes, _ = table.semantic_image(HW, [_segments(("thing 0", 0.9, ALL, slice(0, 1)))])
    assert classes[0].tolist() == [first] + [no_class] * 5
    assert json.loads(label_json(table))[str(first)] == "thing 0"


def _located() -> Segments:
    here = Location3D(
        position_m=(0.1, 0.2, 1.0),
        center_m=(0.1, 0.2, 1.05),
        size_m=(0.3, 0.2, 0.1),
        orientation_xyzw=(0.0, 0.0, 0.0, 1.0),
        distance_m=1.02,
        depth_valid_ratio=1.0,
        frame_id="lens",
    )
    return _segments(
        ("mug", 0.9, ALL, slice(0, 2)),
        ("book", 0.8, ALL, slice(3, 5)),
        track_ids=np.array([7, 0], np.uint32),
        locations=(here, Location3D.unknown("holes")),
    )


def test_only_known_locations_have_markers_and_previous_ones_are_deleted() -> None:
    result = SegmentationResult(instances=instances_from_segments(_located()))
    found = markers([result]).markers
    assert found[0].action == Marker.DELETEALL
    box, text = found[1:]
    assert (box.type, box.header.frame_id) == (Marker.CUBE, "lens")
    assert (box.pose.position.z, box.scale.x, box.scale.z) == pytest.approx((1.05, 0.3, 0.1))
    assert text.text == "7 mug 1.02 m"


def test_points_are_where_depth_says_with_color_and_id() -> None:
    """One pixel right of the principal point at depth 2 m with f = 4 px is half a meter to the right."""
    depth_m = np.full(HW, 2.0, np.float32)
    depth_m[0, 0] = 0.0
    rgb = np.zeros((*HW, 3), np.uint8)
    rgb[1, 3] = (255, 128, 1)
    intrinsics = np.array([[4.0, 0, 2.0], [0, 4.0, 1.0], [0, 0, 1]])
    frame = Frame(rgb=rgb, depth_m=depth_m, intrinsics=intrinsics)
    ids = np.zeros(HW, np.uint16)
    ids[1, 3] = 5
    cloud = point_cloud(frame, ids, Header(frame_id="lens"))
    points = np.frombuffer(cloud.data, POINT_DTYPE).reshape(HW)
    at = points[1, 3]
    assert (at["x"], at["y"], at["z"]) == (0.5, 0.0, 2.0)
    assert at["rgb"] == 0xFF8001
    assert at["instance_id"] == 5
    assert np.isnan(points[0, 0]["z"])
    assert (cloud.height, cloud.width, cloud.point_step, cloud.row_step) == (4, 6, 20, 120)
    assert [(f.name, f.offset, f.datatype) for f in cloud.fields] == [
        ("x", 0, PointField.FLOAT32),
        ("y", 4, PointField.FLOAT32),
        ("z", 8, PointField.FLOAT32),
        ("rgb", 12, PointField.FLOAT32),
        ("instance_id", 16, PointField.UINT32),
    ]


def test_the_overlay_is_drawn_on_a_copy() -> None:
    rgb = np.full((120, 160, 3), 90, np.uint8)
    mask = np.zeros((120, 160), bool)
    mask[30:90, 40:120] = True
    segments = Segments(
        image_hw=(120, 160),
        masks=(MaskRle.encode(mask),),
        labels=("mug",),
        label_indices=np.zeros(1, np.int32),
        scores=np.ones(1, np.float32),
        boxes_xyxy=np.array([[40, 30, 120, 90]], np.float32),
    )
    frame = Frame(rgb=rgb)
    drawn = overlay(frame, [segments])
    assert (frame.rgb == 90).all()
    assert (drawn[40:80, 50:110] != 90).any()
    assert (drawn[110:, :20] == 90).all()
