"""The fields of the messages that are read, as protocols."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class RosStamp(Protocol):
    """`builtin_interfaces/Time`."""

    sec: int
    nanosec: int


class RosHeader(Protocol):
    """`std_msgs/Header`."""

    stamp: RosStamp
    frame_id: str


class RosImage(Protocol):
    """`sensor_msgs/Image`."""

    header: Any
    height: int
    width: int
    encoding: str
    is_bigendian: Any
    step: int
    data: Any


class RosCompressedImage(Protocol):
    """`sensor_msgs/CompressedImage`."""

    header: Any
    format: str
    data: Any


class RosRegion(Protocol):
    """`sensor_msgs/RegionOfInterest`."""

    x_offset: int
    y_offset: int
    height: int
    width: int


class RosCameraInfo(Protocol):
    """`sensor_msgs/CameraInfo`."""

    header: Any
    height: int
    width: int
    distortion_model: str
    d: Sequence[float]
    k: Sequence[float]
    p: Sequence[float]
    binning_x: int
    binning_y: int
    roi: RosRegion
