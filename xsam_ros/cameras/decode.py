"""Serialized color, depth and camera info → one `Frame`, with the reasons for anything missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from xsam.errors import InvalidImageError
from xsam.types.requests import Frame
from xsam_ros.cameras.buffer import BufferedMessage
from xsam_ros.cameras.intrinsics import intrinsics_for, is_distorted
from xsam_ros.messages.compressed_images import rgb_from_compressed
from xsam_ros.messages.depth_images import depth_from_compressed, depth_from_image, resize_depth
from xsam_ros.messages.frames import stamp_ns
from xsam_ros.messages.images import rgb_from_image

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraFrame:
    """A decoded frame, the header of its image, and why depth or intrinsics are missing."""

    frame: Frame
    header: Header
    sequence: int = 0  # of the color image on its topic: 1, 2, ...; 0 = not from a topic
    no_depth_reason: str = ""  # "" = the frame has depth
    no_intrinsics_reason: str = ""  # "" = the frame has intrinsics
    notes: tuple[str, ...] = ()  # what limits the accuracy of 3D locations


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameDecoder:
    """Decodes the messages of one camera."""

    camera: str
    compressed: bool  # color is a CompressedImage
    depth_compressed: bool
    rectified: bool  # color is rectified: matrix P applies, not K
    on_error: Callable[[str], None]  # receives why depth or camera info cannot be used

    def decode(
        self,
        image: BufferedMessage,
        depth: BufferedMessage | None,
        info: BufferedMessage | None,
        *,
        no_depth_reason: str,
        no_info_reason: str,
        max_side_px: int,
    ) -> CameraFrame:
        """Decode an image with the depth and camera info paired with it.

        Args:
            image: the color image.
            depth: its depth image.
            info: its camera info.
            no_depth_reason: why `depth` is None.
            no_info_reason: why `info` is None.
            max_side_px: larger images are refused before they are decoded.

        Raises:
            InvalidImageError: the color image cannot be decoded.
        """
        message, rgb = self._decode_image(image, max_side_px)
        header = message.header
        notes: list[str] = []
        depth_m = None
        if depth is not None:
            try:
                depth_m = self._decode_depth(depth, rgb.shape[:2], header, max_side_px, notes)
                no_depth_reason = ""
            except InvalidImageError as error:
                no_depth_reason = f"the depth image cannot be used: {error}"
                self.on_error(no_depth_reason)
        intrinsics = None
        if info is not None:
            try:
                intrinsics = self._decode_intrinsics(info, rgb.shape[:2], notes)
                no_info_reason = ""
            except InvalidImageError as error:
                no_info_reason = f"the camera info cannot be used: {error}"
                self.on_error(no_info_reason)
        frame = Frame(
            rgb=rgb,
            camera=self.camera,
            frame_id=header.frame_id,
            stamp_ns=stamp_ns(header.stamp),
            depth_m=depth_m,
            intrinsics=intrinsics,
        )
        return CameraFrame(
            frame=frame,
            header=header,
            sequence=image.sequence,
            no_depth_reason=no_depth_reason,
            no_intrinsics_reason=no_info_reason,
            notes=tuple(notes),
        )

    def _decode_image(self, image: BufferedMessage, max_side_px: int) -> tuple[Any, NDArray[np.uint8]]:
        if self.compressed:
            compressed = _deserialize(image, CompressedImage)
            return compressed, rgb_from_compressed(compressed, max_side_px=max_side_px)
        raw = _deserialize(image, Image)
        return raw, rgb_from_image(raw, max_side_px=max_side_px)

    def _decode_depth(
        self,
        depth: BufferedMessage,
        image_hw: tuple[int, int],
        color_header: Header,
        max_side_px: int,
        notes: list[str],
    ) -> NDArray[np.float32]:
        message: Any
        if self.depth_compressed:
            message = _deserialize(depth, CompressedImage)
            depth_m = depth_from_compressed(message, max_side_px=max_side_px)
        else:
            message = _deserialize(depth, Image)
            depth_m = depth_from_image(message, max_side_px=max_side_px)
        resized_m = resize_depth(depth_m, image_hw)
        if resized_m.shape != depth_m.shape:
            notes.append(f"depth is {depth_m.shape[1]}×{depth_m.shape[0]} px and was resized to color")
        if message.header.frame_id != color_header.frame_id:
            notes.append(
                f"depth is in frame {message.header.frame_id!r} and color in {color_header.frame_id!r}: "
                "check that depth is registered to color"
            )
        return resized_m

    def _decode_intrinsics(
        self, info: BufferedMessage, image_hw: tuple[int, int], notes: list[str]
    ) -> NDArray[np.float64]:
        message = _deserialize(info, CameraInfo)
        matrix = intrinsics_for(message, image_hw, rectified=self.rectified, notes=notes)
        if not self.rectified and is_distorted(message):
            notes.append("the lens distortion of the camera info is not corrected; use rectified images")
        return matrix


def _deserialize(buffered: BufferedMessage, message_type: type[T]) -> T:
    try:
        message: T = deserialize_message(buffered.serialized, message_type)
    except Exception as error:  # rclpy exports no name for RMWError, and middlewares raise others
        raise InvalidImageError(
            f"a message of {len(buffered.serialized)} bytes cannot be deserialized: {error}"
        ) from error
    return message
