"""Instances in 3D: markers for RViz, and a point cloud with instance ids."""

from __future__ import annotations

import array
from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Duration
from numpy.typing import NDArray
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from xsam.draw.shapes import color_of
from xsam.spatial.localize import point_grid
from xsam.types.requests import Frame
from xsam_ros.messages.frames import copied_header
from xsam_ros.msg import Instance, SegmentationResult

_LIFETIME_S = 2
"""Markers disappear if no new result arrives."""

_TEXT_HEIGHT_M = 0.03
_MIN_EDGE_M = 0.002  # RViz warns about boxes without volume

POINT_DTYPE = np.dtype(
    {
        "names": ["x", "y", "z", "rgb", "instance_id"],
        "formats": ["<f4", "<f4", "<f4", "<u4", "<u4"],
        "offsets": [0, 4, 8, 12, 16],
        "itemsize": 20,
    }
)
"""One point: meters in the camera's optical frame, color 0x00RRGGBB, `Instance.id` (0 = none)."""

_FIELDS = [
    PointField(name="x", offset=0, datatype=PointField.FLOAT32, count=1),
    PointField(name="y", offset=4, datatype=PointField.FLOAT32, count=1),
    PointField(name="z", offset=8, datatype=PointField.FLOAT32, count=1),
    # Convention of RViz and PCL: the bits of a float hold the color.
    PointField(name="rgb", offset=12, datatype=PointField.FLOAT32, count=1),
    PointField(name="instance_id", offset=16, datatype=PointField.UINT32, count=1),
]


def markers(results: Sequence[SegmentationResult]) -> MarkerArray:
    """Build boxes and labels for all instances with a known location; delete the previous markers."""
    made = [Marker(action=Marker.DELETEALL)]
    for result in results:
        for instance in result.instances:
            if instance.location.valid:
                header = copied_header(result.header, frame_id=instance.location.frame_id)
                made += _instance_markers(instance, header)
    return MarkerArray(markers=made)


def _instance_markers(instance: Instance, header: Header) -> list[Marker]:
    location = instance.location
    number = instance.track_id or instance.id
    red, green, blue = (value / 255.0 for value in color_of(int(number) - 1))
    box = Marker(
        header=header,
        ns="boxes",
        id=int(instance.id),
        type=Marker.CUBE,
        action=Marker.ADD,
        pose=location.box_pose,
        color=ColorRGBA(r=red, g=green, b=blue, a=0.4),
        lifetime=Duration(sec=_LIFETIME_S),
    )
    size = location.box_size
    box.scale.x, box.scale.y, box.scale.z = (max(edge, _MIN_EDGE_M) for edge in (size.x, size.y, size.z))
    text = Marker(
        header=header,
        ns="labels",
        id=int(instance.id),
        type=Marker.TEXT_VIEW_FACING,
        action=Marker.ADD,
        text=f"{number} {instance.label} {location.distance:.2f} m",
        color=ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0),
        lifetime=Duration(sec=_LIFETIME_S),
    )
    text.pose.position = location.position
    text.pose.orientation.w = 1.0
    text.scale.z = _TEXT_HEIGHT_M
    return [box, text]


def point_cloud(frame: Frame, instance_ids: NDArray[np.uint16], header: Header) -> PointCloud2:
    """Build an organized cloud, one point per pixel, NaN where depth is missing.

    Args:
        frame: must have depth and intrinsics.
        instance_ids: (H, W), 0 = none.
        header: of the image.
    """
    assert frame.depth_m is not None
    assert frame.intrinsics is not None
    height, width = frame.image_hw
    grid = point_grid(frame.depth_m, frame.intrinsics, frame.lens)
    points = np.zeros((height, width), POINT_DTYPE)
    points["x"], points["y"], points["z"] = grid[..., 0], grid[..., 1], grid[..., 2]
    rgb = frame.rgb.astype(np.uint32)
    points["rgb"] = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
    points["instance_id"] = instance_ids
    return PointCloud2(
        header=header,
        height=height,
        width=width,
        fields=_FIELDS,
        is_bigendian=False,
        point_step=POINT_DTYPE.itemsize,
        row_step=POINT_DTYPE.itemsize * width,
        data=array.array("B", points.tobytes()),
        is_dense=False,
    )
