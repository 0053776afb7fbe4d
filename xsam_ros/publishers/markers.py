"""Instances in space: markers for RViz and a point cloud with instance ids."""

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
from xsam_ros.msg import Instance, SegmentationResult

_LIFETIME_S = 2
"""Markers vanish when no answer follows."""

_TEXT_M = 0.03
_LEAST_EDGE_M = 0.002  # RViz warns about boxes without volume

POINT_DTYPE = np.dtype(
    {
        "names": ["x", "y", "z", "rgb", "instance_id"],
        "formats": ["<f4", "<f4", "<f4", "<u4", "<u4"],
        "offsets": [0, 4, 8, 12, 16],
        "itemsize": 20,
    }
)
"""One point: meters in the camera's optical frame, 0x00RRGGBB, and the id of `Instance.id` (0 = none)."""

_FIELDS = [
    PointField(name="x", offset=0, datatype=PointField.FLOAT32, count=1),
    PointField(name="y", offset=4, datatype=PointField.FLOAT32, count=1),
    PointField(name="z", offset=8, datatype=PointField.FLOAT32, count=1),
    # A float by RViz's and PCL's convention, whose bits are the color.
    PointField(name="rgb", offset=12, datatype=PointField.FLOAT32, count=1),
    PointField(name="instance_id", offset=16, datatype=PointField.UINT32, count=1),
]


def markers(results: Sequence[SegmentationResult]) -> MarkerArray:
    """Oriented boxes with labels of all instances whose place is known; what was drawn before is deleted."""
    made = [Marker(action=Marker.DELETEALL)]
    for result in results:
        for instance in result.instances:
            if instance.location.valid:
                header = Header(stamp=result.header.stamp, frame_id=instance.location.frame_id)
                made += _instance_markers(instance, header)
    return MarkerArray(markers=made)


def _instance_markers(instance: Instance, header: Header) -> list[Marker]:
    place = instance.location
    number = instance.track_id or instance.id
    red, green, blue = (value / 255.0 for value in color_of(int(number) - 1))
    box = Marker(
        header=header,
        ns="boxes",
        id=int(instance.id),
        type=Marker.CUBE,
        action=Marker.ADD,
        pose=place.box_pose,
        color=ColorRGBA(r=red, g=green, b=blue, a=0.4),
        lifetime=Duration(sec=_LIFETIME_S),
    )
    size = place.box_size
    box.scale.x, box.scale.y, box.scale.z = (max(edge, _LEAST_EDGE_M) for edge in (size.x, size.y, size.z))
    text = Marker(
        header=header,
        ns="labels",
        id=int(instance.id),
        type=Marker.TEXT_VIEW_FACING,
        action=Marker.ADD,
        text=f"{number} {instance.label} {place.distance:.2f} m",
        color=ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0),
        lifetime=Duration(sec=_LIFETIME_S),
    )
    text.pose.position = place.position
    text.pose.orientation.w = 1.0
    text.scale.z = _TEXT_M
    return [box, text]


def point_cloud(frame: Frame, instance_ids: NDArray[np.uint16], header: Header) -> PointCloud2:
    """An organized cloud, one point a pixel, NaN where depth is missing.

    Args:
        frame: with depth and intrinsics.
        instance_ids: (H, W), 0 = none.
        header: of the image.
    """
    assert frame.depth_m is not None
    assert frame.intrinsics is not None
    height, width = frame.image_hw
    grid = point_grid(frame.depth_m, frame.intrinsics)
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
