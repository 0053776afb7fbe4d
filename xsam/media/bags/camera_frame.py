"""Messages of a bag → one frame, with depth and the camera's matrix where the bag has them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.errors import InvalidImageError
from xsam.media.bags.cdr import decode
from xsam.media.bags.storage import RawMessage
from xsam.media.bags.transforms import StaticTransforms
from xsam.media.messages.compressed_images import rgb_from_compressed
from xsam.media.messages.depth_images import (
    depth_from_compressed,
    depth_from_image,
    range_notes,
    resize_depth,
)
from xsam.media.messages.images import rgb_from_image
from xsam.media.messages.intrinsics import (
    intrinsics_for,
    lens_for,
    optical_notes,
    sounds_rectified,
)
from xsam.media.messages.stereo import stereo_notes
from xsam.spatial.localize import locate_masks
from xsam.spatial.registration import DepthView
from xsam.types.lens import LensDistortion
from xsam.types.location import Location3D
from xsam.types.requests import Frame, Segments

IMAGE_TYPES = frozenset({"sensor_msgs/msg/Image", "sensor_msgs/Image"})
COMPRESSED_TYPES = frozenset({"sensor_msgs/msg/CompressedImage", "sensor_msgs/CompressedImage"})
INFO_TYPES = frozenset({"sensor_msgs/msg/CameraInfo", "sensor_msgs/CameraInfo"})


@dataclass(slots=True, kw_only=True)
class BagFrame:
    """The messages that belong to one color image. They are decoded when the frame is used."""

    camera: str  # topic
    color: RawMessage
    stamp_ns: int
    frame_id: str
    depth: RawMessage | None = None
    info: Any = None  # sensor_msgs/CameraInfo, decoded
    depth_info: Any = None
    transforms: StaticTransforms | None = None  # None = locations are not asked for
    notes: tuple[str, ...] = ()
    _no_location: str = field(default="", init=False)  # why there are no locations
    _view: DepthView | None = field(default=None, init=False)

    def load(self, notes: list[str]) -> Frame:
        """Decode the messages; depth that cannot be used is left out, and the notes say why.

        Raises:
            InvalidImageError: the color image cannot be decoded.
        """
        notes += self.notes
        rgb = _rgb(self.color, notes)
        image_hw = (rgb.shape[0], rgb.shape[1])
        intrinsics = lens = depth_m = None
        try:
            if self.info is not None:
                rectified = sounds_rectified(self.camera)
                intrinsics = intrinsics_for(self.info, image_hw, rectified=rectified, notes=notes)
                lens = None if rectified else lens_for(self.info)
                if self.transforms is not None:
                    notes += stereo_notes(
                        self.info, self.frame_id, "its driver must name its own optical frame"
                    )
            if self.transforms is not None:
                depth_m = self._depth(image_hw, intrinsics, lens, notes)
        except InvalidImageError as error:
            self._no_location = error.message
            if self.transforms is not None:
                notes.append(f"there are no locations: {error.message}")
        return Frame(
            rgb=rgb,
            camera=self.camera,
            frame_id=self.frame_id,
            stamp_ns=self.stamp_ns,
            depth_m=depth_m,
            intrinsics=intrinsics,
            lens=lens,
        )

    def locate(self, frame: Frame, segments: Segments) -> Segments:
        """Add locations in the frame of the image, or the reason why there are none."""
        if self.transforms is None:
            return segments
        try:
            if frame.depth_m is None or frame.intrinsics is None:
                raise InvalidImageError(self._no_location or "there is no camera matrix")
            places = locate_masks(
                segments.masks,
                frame.depth_m,
                frame.intrinsics,
                calibrated_hw=frame.image_hw,
                lens=frame.lens,
                doubt=None if self._view is None else self._view.doubt,
            )
        except InvalidImageError as error:
            places = (Location3D.unknown(error.message),) * len(segments)
        return replace(segments, locations=tuple(replace(place, frame_id=self.frame_id) for place in places))

    def _depth(
        self,
        image_hw: tuple[int, int],
        intrinsics: NDArray[np.float64] | None,
        lens: LensDistortion | None,
        notes: list[str],
    ) -> NDArray[np.float32]:
        """Return depth for the pixels of the color image."""
        if self.depth is None:
            raise InvalidImageError("no depth image has a stamp near that of the color image")
        depth_m, depth_frame = _depth_m(self.depth)
        notes += range_notes(depth_m, "use a bag of a driver that follows REP 118")
        notes += optical_notes(self.frame_id, "turn the locations into it")
        if depth_frame in ("", self.frame_id):
            if depth_m.shape != image_hw:
                notes.append(f"depth is {depth_m.shape[1]}×{depth_m.shape[0]} px and was resized to color")
            return resize_depth(depth_m, image_hw)
        assert self.transforms is not None
        if intrinsics is None or self.depth_info is None:
            raise InvalidImageError(
                f"depth is in frame {depth_frame!r} and color in {self.frame_id!r}; registering it needs the "
                "camera info of both"
            )
        rectified = sounds_rectified(self.depth.topic.name)
        own_hw = (depth_m.shape[0], depth_m.shape[1])
        self._view = DepthView(
            depth_m=depth_m,
            intrinsics=intrinsics_for(self.depth_info, own_hw, rectified=rectified, notes=notes),
            lens=None if rectified else lens_for(self.depth_info),
            color_from_depth=self.transforms.look_up(self.frame_id, depth_frame),
        )
        notes.append(
            f"depth of frame {depth_frame!r} was registered to color: what only the color camera sees has no "
            "depth"
        )
        return self._view.registered(image_hw, intrinsics, lens)


def _rgb(message: RawMessage, notes: list[str]) -> NDArray[np.uint8]:
    decoded = decode(message)
    if message.topic.type in IMAGE_TYPES:
        return rgb_from_image(decoded, notes=notes)
    if message.topic.type in COMPRESSED_TYPES:
        return rgb_from_compressed(decoded, notes=notes)
    raise InvalidImageError(f"a message on {message.topic.name} is a {message.topic.type}, not an image")


def _depth_m(message: RawMessage) -> tuple[NDArray[np.float32], str]:
    decoded = decode(message)
    if message.topic.type in COMPRESSED_TYPES:
        return depth_from_compressed(decoded), decoded.header.frame_id
    return depth_from_image(decoded), decoded.header.frame_id
