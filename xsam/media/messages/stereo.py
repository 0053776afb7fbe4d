"""`sensor_msgs/CameraInfo` of the second camera of a stereo pair: in whose frame its locations are."""

from __future__ import annotations

import math

from xsam.errors import InvalidImageError
from xsam.media.messages.fields import RosCameraInfo

_MIN_BASELINE_M = 1e-4


def stereo_notes(info: RosCameraInfo, frame_id: str, remedy: str) -> list[str]:
    """Return a note on the second camera of a stereo pair, whose images may name the frame of the first.

    P projects points of the first camera's frame: its last column is -f times the way to the second one.
    Locations are in the frame of the images, which should be the second camera's own, with the origin at its
    optical center: there the column has no part in them. In the first camera's frame they would be off by the
    baseline.

    Args:
        info: of the camera.
        frame_id: of its images, in which locations are given.
        remedy: what to do if that is the first camera's, as a sentence.

    Raises:
        InvalidImageError: the name of the frame is that of the first camera.

    Source: `sensor_msgs/CameraInfo` on `header.frame_id` and P.
    """
    fx, fy, tx, ty = (float(info.p[index]) for index in (0, 5, 3, 7))
    if not all(map(math.isfinite, (fx, fy, tx, ty))) or fx <= 0 or fy <= 0:
        return []
    right_m, down_m = -tx / fx, -ty / fy
    if max(abs(right_m), abs(down_m)) < _MIN_BASELINE_M:
        return []
    sides = [
        f"{abs(way_m):.3g} m {after if way_m > 0 else before}"
        for way_m, before, after in (
            (right_m, "to the left of", "to the right of"),
            (down_m, "above", "below"),
        )
        if abs(way_m) >= _MIN_BASELINE_M
    ]
    second = (
        f"matrix P of the camera info has Tx = {tx:g} and Ty = {ty:g}: the camera is the second of a stereo "
        f"pair, {' and '.join(sides)} the first"
    )
    first = "" if abs(right_m) < _MIN_BASELINE_M else "left" if right_m > 0 else "right"
    own = {"left": "right", "right": "left"}.get(first, "")
    if first and first in frame_id.lower() and own not in frame_id.lower():
        raise InvalidImageError(
            f"{second}, but by its name the frame of the images, {frame_id!r}, is that of the first",
            hint=remedy,
        )
    return [
        f"{second}. Locations are in its own frame; if {frame_id!r} is the frame of the first, they are off "
        f"by as much: {remedy}"
    ]
