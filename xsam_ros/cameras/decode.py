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
from xsam.media.messages.compressed_images import is_plain_jpeg, rgb_from_compressed
from xsam.media.messages.depth_images import (
    depth_from_compressed,
    depth_from_image,
    range_notes,
    resize_depth,
)
from xsam.media.messages.intrinsics import (
    intrinsics_for,
    lens_for,
    optical_notes,
    rectified_notes,
)
from xsam.media.messages.stereo import stereo_notes
from xsam.spatial.registration import DepthView
from xsam.types.checks import frame_id_problem
from xsam.types.lens import LensDistortion
from xsam.types.requests import Frame
from xsam_ros.cameras.buffer import BufferedMessage
from xsam_ros.cameras.parameters import CameraParameters
from xsam_ros.cameras.registration import (
    DepthRegistration,
    TransformLookup,
    TransformLookupError,
    no_transforms,
)
from xsam_ros.messages.frames import stamp_ns
from xsam_ros.messages.image_messages import rgb_from_image

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
    depth_view: DepthView | None = None  # the depth image before it was registered; None = it always was
    provisional: bool = False  # a transform is missing that may still arrive


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameDecoder:
    """Decodes the messages of one camera."""

    camera: str
    image_topic: str
    parameters: CameraParameters
    on_error: Callable[[str], None]  # receives why depth or camera info cannot be used
    look_up: TransformLookup = no_transforms

    def decode(
        self,
        image: BufferedMessage,
        depth: BufferedMessage | None,
        info: BufferedMessage | None,
        depth_info: BufferedMessage | None = None,
        *,
        no_depth_reason: str,
        no_info_reason: str,
        no_depth_info_reason: str = "",
        max_side_px: int,
    ) -> CameraFrame:
        """Decode an image with the depth and camera info paired with it.

        Args:
            image: the color image.
            depth: its depth image.
            info: its camera info.
            depth_info: the depth camera's info.
            no_depth_reason: why `depth` is None.
            no_info_reason: why `info` is None.
            no_depth_info_reason: why `depth_info` is None.
            max_side_px: larger images are refused before they are decoded.

        Raises:
            InvalidImageError: the color image cannot be decoded.
        """
        notes = self._stamp_notes(image)
        message, rgb, encoded = self._decode_image(image, max_side_px, notes)
        image_frame = message.header.frame_id
        header = Header(stamp=message.header.stamp, frame_id=self.parameters.frame_override or image_frame)
        color_frames = (image_frame, header.frame_id)
        measured: tuple[NDArray[np.float32], Header] | None = None
        frame_problem = frame_id_problem(header.frame_id)
        if depth is not None:
            try:
                if frame_problem:
                    raise InvalidImageError(
                        f"the frame_id of the images {frame_problem}",
                        hint=f"correct the driver, or set {self.camera}.frame_override",
                    )
                measured = self._decode_depth(depth, max_side_px, notes)
            except InvalidImageError as error:
                no_depth_reason = self._unusable(f"the depth image cannot be used: {error}")
        intrinsics = lens = None
        if info is not None:
            try:
                intrinsics, lens = self._decode_info(
                    info, rgb.shape[:2], color_frames, measured is not None, notes
                )
                no_info_reason = ""
            except InvalidImageError as error:
                no_info_reason = self._unusable(f"the camera info cannot be used: {error}")
        depth_m = view = None
        provisional = False
        if measured is not None:
            try:
                view = self._depth_view(
                    *measured, header, color_frames, depth_info, no_depth_info_reason, notes
                )
                depth_m = _registered(view, measured[0], rgb.shape[:2], intrinsics, lens, notes)
                no_depth_reason = ""
            except TransformLookupError as error:
                no_depth_reason, provisional = str(error), True
            except InvalidImageError as error:
                no_depth_reason = self._unusable(f"the depth image cannot be used: {error}")
        if depth_m is not None and not self.parameters.frame_override:
            remedy = f"set {self.camera}.frame_override to the optical frame"
            notes += optical_notes(image_frame, remedy)
        frame = Frame(
            rgb=rgb,
            camera=self.camera,
            frame_id=header.frame_id,
            stamp_ns=stamp_ns(header.stamp),
            depth_m=depth_m,
            intrinsics=intrinsics,
            lens=lens,
            encoded=encoded,
        )
        return CameraFrame(
            frame=frame,
            header=header,
            sequence=image.sequence,
            no_depth_reason=no_depth_reason,
            no_intrinsics_reason=no_info_reason,
            notes=tuple(notes),
            depth_view=view,
            provisional=provisional,
        )

    def _unusable(self, reason: str) -> str:
        self.on_error(reason)
        return reason

    def _stamp_notes(self, image: BufferedMessage) -> list[str]:
        if self.parameters.stamp_clock == "other":
            return [f"the image's age counts from its arrival ({self.camera}.stamp_clock is other)"]
        if image.stamp_ns == 0:
            return ["the image has no stamp: its age counts from its arrival"]
        return []

    def _decode_image(
        self, image: BufferedMessage, max_side_px: int, notes: list[str]
    ) -> tuple[Any, NDArray[np.uint8], bytes | None]:
        """Return message, pixels, and the file of exactly these pixels, if there is one."""
        bit_depth = self.parameters.bit_depth
        if self.parameters.compressed:
            compressed = _deserialize(image, CompressedImage)
            rgb = rgb_from_compressed(
                compressed,
                max_side_px=max_side_px,
                bit_depth=bit_depth,
                swap_red_blue=self.parameters.swap_red_blue,
                notes=notes,
            )
            is_plain = is_plain_jpeg(compressed) and not (bit_depth or self.parameters.swap_red_blue)
            return compressed, rgb, bytes(compressed.data) if is_plain else None
        raw = _deserialize(image, Image)
        return raw, rgb_from_image(raw, max_side_px=max_side_px, bit_depth=bit_depth, notes=notes), None

    def _decode_depth(
        self, depth: BufferedMessage, max_side_px: int, notes: list[str]
    ) -> tuple[NDArray[np.float32], Header]:
        message: Any
        scale = self.parameters.depth_scale
        if self.parameters.depth_compressed:
            message = _deserialize(depth, CompressedImage)
            depth_m = depth_from_compressed(message, max_side_px=max_side_px, scale=scale)
        else:
            message = _deserialize(depth, Image)
            depth_m = depth_from_image(message, max_side_px=max_side_px, scale=scale)
        if problem := frame_id_problem(message.header.frame_id):
            raise InvalidImageError(f"its frame_id {problem}")
        notes += range_notes(depth_m, f"set {self.camera}.depth_scale")
        return depth_m, message.header

    def _depth_view(
        self,
        depth_m: NDArray[np.float32],
        depth: Header,
        color: Header,
        color_frames: tuple[str, ...],
        info: BufferedMessage | None,
        no_info_reason: str,
        notes: list[str],
    ) -> DepthView | None:
        """Return depth as its own camera sees it; None = it is registered to color already."""
        registration = DepthRegistration(camera=self.camera, parameters=self.parameters, look_up=self.look_up)
        return registration.view(
            depth_m,
            depth,
            None if info is None else _deserialize(info, CameraInfo),
            color,
            color_frames=color_frames,
            no_info_reason=no_info_reason,
            notes=notes,
        )

    def _decode_info(
        self,
        info: BufferedMessage,
        image_hw: tuple[int, int],
        color_frames: tuple[str, ...],
        has_depth: bool,
        notes: list[str],
    ) -> tuple[NDArray[np.float64], LensDistortion | None]:
        """Return the matrix and, where depth is measured, the distortion of the lens."""
        message = _deserialize(info, CameraInfo)
        rectified = self.parameters.rectified
        if has_depth and message.header.frame_id not in ("", *color_frames):
            notes.append(
                f"the camera info is of frame {message.header.frame_id!r:.80}, the image of "
                f"{color_frames[0]!r}: check {self.camera}.info_topic"
            )
        matrix = intrinsics_for(message, image_hw, rectified=rectified, notes=notes)
        if has_depth and not self.parameters.frame_override:
            notes += stereo_notes(
                message,
                color_frames[0],
                f"set {self.camera}.frame_override to the camera's own optical frame",
            )
        lens = lens_for(message) if has_depth and not rectified else None
        if lens is None:
            return matrix, None
        notes.append(f"the lens distortion ({lens.model}) is corrected in locations, not in masks")
        notes += rectified_notes(self.image_topic, f"{self.camera}.rectified")
        return matrix, lens


def _registered(
    view: DepthView | None,
    depth_m: NDArray[np.float32],
    image_hw: tuple[int, int],
    intrinsics: NDArray[np.float64] | None,
    lens: LensDistortion | None,
    notes: list[str],
) -> NDArray[np.float32]:
    """Return depth for the pixels of the color image."""
    if view is None:
        resized_m = resize_depth(depth_m, image_hw)
        if resized_m.shape != depth_m.shape:
            notes.append(f"depth is {depth_m.shape[1]}×{depth_m.shape[0]} px and was resized to color")
        return resized_m
    if intrinsics is None:
        raise InvalidImageError("registering it needs the camera matrix of the color image")
    return view.registered(image_hw, intrinsics, lens)


def _deserialize(buffered: BufferedMessage, message_type: type[T]) -> T:
    try:
        message: T = deserialize_message(buffered.serialized, message_type)
    except Exception as error:  # rclpy exports no name for RMWError, and middlewares raise others
        raise InvalidImageError(
            f"a message of {len(buffered.serialized)} bytes cannot be deserialized: {error}"
        ) from error
    return message
