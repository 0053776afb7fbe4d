"""Places in space ↔ messages."""

from __future__ import annotations

import math

from geometry_msgs.msg import Point, Pose, Quaternion, Vector3

import xsam_ros.msg as messages
from xsam.errors import ModelError
from xsam.types.location import Location3D

NOT_ASKED = "no depth belongs to the image"


def location_to_message(place: Location3D | None) -> messages.Location:
    """A place as a message; None, which is "nobody looked", becomes an unknown place as well."""
    if place is None:
        place = Location3D.unknown(NOT_ASKED)
    position, center, size = (
        {"x": x, "y": y, "z": z} for x, y, z in (place.position_m, place.center_m, place.size_m)
    )
    x, y, z, w = place.orientation_xyzw
    return messages.Location(
        valid=place.valid,
        frame_id=place.frame_id,
        position=Point(**position),
        box_pose=Pose(position=Point(**center), orientation=Quaternion(x=x, y=y, z=z, w=w)),
        box_size=Vector3(**size),
        distance=float(place.distance_m),
        depth_valid_ratio=float(place.depth_valid_ratio),
        reason=place.reason,
    )


def location_from_message(message: messages.Location) -> Location3D | None:
    """A place from its message; None when nobody looked.

    Raises:
        ModelError: the message says that it is valid, and its numbers are not.
    """
    ratio = message.depth_valid_ratio
    ratio = min(max(ratio, 0.0), 1.0) if math.isfinite(ratio) else 0.0
    if not message.valid:
        if message.reason in ("", NOT_ASKED):
            return None
        return Location3D.unknown(message.reason, depth_valid_ratio=ratio)
    center, turn = message.box_pose.position, message.box_pose.orientation
    try:
        return Location3D(
            position_m=(message.position.x, message.position.y, message.position.z),
            center_m=(center.x, center.y, center.z),
            size_m=(message.box_size.x, message.box_size.y, message.box_size.z),
            orientation_xyzw=(turn.x, turn.y, turn.z, turn.w),
            distance_m=message.distance,
            depth_valid_ratio=ratio,
            frame_id=message.frame_id,
        )
    except ValueError as error:
        raise ModelError(f"the answer contradicts itself: {error}") from error
