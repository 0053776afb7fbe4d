"""Depth of another camera: what registers it to color, and what is missing if nothing does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from xsam.errors import InvalidImageError
from xsam.media.messages.intrinsics import intrinsics_for, lens_for, rectified_notes
from xsam.media.messages.stereo import stereo_notes
from xsam.spatial.registration import DepthView
from xsam.types.lens import LensDistortion
from xsam_ros.cameras.parameters import CameraParameters

_RECTIFIED = "depth_rectified"

TransformLookup = Callable[[Header, str], NDArray[np.float64]]
"""Gets a header and a target frame; returns the (4, 4) transform of points from the header's frame to the
target frame at the header's stamp, or raises `TransformLookupError`."""


class TransformLookupError(Exception):
    """No transform is available; the message says why."""


def no_transforms(header: Header, target_frame: str) -> NDArray[np.float64]:
    """Raise `TransformLookupError`: the `TransformLookup` of cameras without TF."""
    raise TransformLookupError(f"no transform from {header.frame_id!r} to {target_frame!r}: there is no TF")


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthRegistration:
    """Decides for each depth image of a camera whether it is registered, and finds out how to register it."""

    camera: str
    parameters: CameraParameters
    look_up: TransformLookup

    def view(
        self,
        depth_m: NDArray[np.float32],
        depth: Header,
        info: CameraInfo | None,
        color: Header,
        *,
        color_frames: tuple[str, ...],
        no_info_reason: str,
        notes: list[str],
    ) -> DepthView | None:
        """Return depth as its own camera sees it, None if it is registered to color already.

        Args:
            depth_m: (h, w) meters.
            depth: header of the depth image.
            info: the depth camera's.
            color: header of the color image, with the frame of the locations.
            color_frames: names of that frame.
            no_info_reason: why `info` is None.
            notes: receives what limits the accuracy.

        Raises:
            InvalidImageError: it is not registered, and something that registering needs is missing.
            TransformLookupError: the transform is not there, or not there yet.
        """
        same_frame = depth.frame_id in color_frames
        wanted = bool(self.parameters.depth_info_topic)
        if self.parameters.depth_registered or (same_frame and not wanted):
            return None
        apart = f"depth is in frame {depth.frame_id!r} and color in {color.frame_id!r}"
        if not wanted:
            raise InvalidImageError(
                f"{apart}: they are not registered",
                hint="use the depth topic that the driver registers (aligns) to color; or set "
                f"{self.camera}.depth_info_topic to the camera info of the depth camera, so that the node "
                "registers it by TF; if it is registered whatever its frame says, set "
                f"{self.camera}.depth_registered",
            )
        if info is None:
            raise InvalidImageError(
                f"{apart}; registering it needs the depth camera's info: {no_info_reason}"
            )
        if info.header.frame_id and info.header.frame_id != depth.frame_id:
            raise InvalidImageError(
                f"the depth image is in frame {depth.frame_id!r}, the depth camera info in "
                f"{info.header.frame_id!r:.80}",
                hint=f"set {self.camera}.depth_info_topic to the camera info of the depth camera",
            )
        transform = np.eye(4)
        if not same_frame:
            try:
                transform = self.look_up(Header(stamp=color.stamp, frame_id=depth.frame_id), color.frame_id)
            except TransformLookupError as error:
                raise TransformLookupError(f"{apart}; registering it needs TF: {error}") from error
            if "optical" not in depth.frame_id:
                notes.append(
                    f"the frame of the depth images, {depth.frame_id!r}, is not marked as optical (REP 103): "
                    "depth is in the wrong place if TF has other axes there than x right, y down, z forward"
                )
        view = DepthView(
            depth_m=depth_m,
            intrinsics=self._matrix(info, depth.frame_id, (depth_m.shape[0], depth_m.shape[1]), notes),
            lens=self._lens(info, notes),
            color_from_depth=transform,
            nearest_m=self.parameters.depth_nearest_m,
        )
        notes.append(
            f"depth of frame {depth.frame_id!r} ({depth_m.shape[1]}×{depth_m.shape[0]} px) was registered to "
            "color: what only the color camera sees has no depth"
        )
        return view

    def _matrix(
        self, info: CameraInfo, frame_id: str, depth_hw: tuple[int, int], notes: list[str]
    ) -> NDArray[np.float64]:
        ours: list[str] = []
        matrix = intrinsics_for(
            info, depth_hw, rectified=self.parameters.depth_rectified, parameter=_RECTIFIED, notes=ours
        )
        ours += stereo_notes(info, frame_id, "correct the frame_id of the driver's depth images")
        notes += [f"depth camera: {note}" for note in ours]
        return matrix

    def _lens(self, info: CameraInfo, notes: list[str]) -> LensDistortion | None:
        if self.parameters.depth_rectified:
            return None
        lens = lens_for(info, parameter=_RECTIFIED)
        if lens is not None:
            notes += rectified_notes(self.parameters.depth_topic, f"{self.camera}.{_RECTIFIED}")
        return lens
