"""3D locations ↔ messages."""

from __future__ import annotations

import math

from geometry_msgs.msg import Point, Pose, Quaternion, Vector3

import xsam_ros.msg as messages
from xsam.errors import ModelError
from xsam.types.location import Location3D

NOT_LOCATED = "no depth belongs to the image"
"""`Location.reason` of an instance that was never located, which is None in Python."""


def location_to_message(location: Location3D | None) -> messages.Location:
    """Convert a location to a message; None becomes an unknown location with reason `NOT_LOCATED`."""
    if location is None:
        location = Location3D.unknown(NOT_LOCATED)
    position, center, size = (
        {"x": x, "y": y, "z": z} for x, y, z in (location.position_m, location.center_m, location.size_m)
    )
    x, y, z, w = location.orientation_xyzw
    return messages.Location(
        valid=location.valid,
        frame_id=location.frame_id,
        position=Point(**position),
        box_pose=Pose(position=Point(**center), orientation=Quaternion(x=x, y=y, z=z, w=w)),
        box_size=Vector3(**size),
        distance=float(location.distance_m),
        depth_valid_ratio=float(location.depth_valid_ratio),
        reason=location.reason,
    )


def location_from_message(message: messages.Location) -> Location3D | None:
    """Convert a message to a location; None if the instance was never located.

    Raises:
        ModelError: the message claims to be valid and has numbers that are not finite.
    """
    ratio = message.depth_valid_ratio
    ratio = min(max(ratio, 0.0), 1.0) if math.isfinite(ratio) else 0.0
    if not message.valid:
        if message.reason in ("", NOT_LOCATED):
            return None
        return Location3D.unknown(message.reason, depth_valid_ratio=ratio)
    center, orientation = message.box_pose.position, message.box_pose.orientation
    try:
        return Location3D(
            position_m=(message.position.x, message.position.y, message.position.z),
            center_m=(center.x, center.y, center.z),
            size_m=(message.box_size.x, message.box_size.y, message.box_size.z),
            orientation_xyzw=(orientation.x, orientation.y, orientation.z, orientation.w),
            distance_m=message.distance,
            depth_valid_ratio=ratio,
            frame_id=message.frame_id,
        )
    except ValueError as error:
        raise ModelError(f"the result contradicts itself: {error}") from error
