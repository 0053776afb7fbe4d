"""Time stamps, and color images as `Frame`s."""

from __future__ import annotations

from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from xsam.errors import InvalidImageError
from xsam.types.checks import frame_id_problem
from xsam.types.requests import MAX_IMAGE_SIDE_PX, Frame
from xsam_ros.messages.image_messages import image_from_array, rgb_from_image
from xsam_ros.messages.text import require_sendable


def stamp_ns(stamp: Time) -> int:
    """Convert a stamp to nanoseconds."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def stamp_from_ns(nanoseconds: int) -> Time:
    """Convert nanoseconds to a stamp.

    Raises:
        InvalidImageError: the seconds do not fit into 32 bits.
    """
    seconds, rest = divmod(int(nanoseconds), 1_000_000_000)
    if not -(2**31) <= seconds < 2**31:
        raise InvalidImageError(f"a stamp of {nanoseconds} ns does not fit into a ROS message")
    return Time(sec=seconds, nanosec=rest)


def copied_header(header: Header, *, frame_id: str | None = None) -> Header:
    """Return a header that shares nothing with the given one, by default with the same frame."""
    stamp = Time(sec=header.stamp.sec, nanosec=header.stamp.nanosec)
    return Header(stamp=stamp, frame_id=header.frame_id if frame_id is None else frame_id)


def frame_from_image(
    image: Image,
    *,
    camera: str = "",
    max_side_px: int = MAX_IMAGE_SIDE_PX,
    notes: list[str] | None = None,
) -> Frame:
    """Convert an image message of any supported encoding to a frame.

    Args:
        image: the message.
        camera: name of the camera.
        max_side_px: larger images are refused.
        notes: receives what is unusual, but possible.

    Raises:
        InvalidImageError: the message cannot be read, or a side exceeds `max_side_px`.
    """
    problem = frame_id_problem(image.header.frame_id)
    if problem and notes is not None:
        notes.append(f"the frame_id of the image {problem}")
    return Frame(
        rgb=rgb_from_image(image, max_side_px=max_side_px, notes=notes),
        camera=camera,
        frame_id=image.header.frame_id,
        stamp_ns=stamp_ns(image.header.stamp),
    )


def image_from_frame(frame: Frame) -> Image:
    """Convert a frame's color image to an rgb8 message with its stamp and frame_id."""
    frame_id = require_sendable("frame_id", frame.frame_id)
    return image_from_array(frame.rgb, "rgb8", Header(stamp=stamp_from_ns(frame.stamp_ns), frame_id=frame_id))
