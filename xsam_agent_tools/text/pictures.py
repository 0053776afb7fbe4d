"""Pictures for models with vision: what they show, and how large they may be.

A provider refuses or silently shrinks a picture that is too large, so every picture keeps a bound on its
bytes, and says which part of the image it shows at which size: coordinates are pixels of the image, whatever
the size of the picture.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from xsam.errors import ModelError
from xsam.types.requests import Frame, Segments
from xsam_agent_tools.memory.scene_store import SceneObject

Rgb = NDArray[np.uint8]
PictureFormat = Literal["jpeg", "png"]

MAX_PICTURE_BYTES = 1_000_000  # as base64, which is what a provider counts
_MIN_PICTURE_BYTES = 4_000
_MIN_SIDE_PX = 32
_QUALITIES = (90, 80, 70, 60, 50)  # lower ones blur outlines and small text more than a smaller picture would

_CROP_SIDE_PX = 480  # a smaller crop is enlarged to this, at most four times
_CROP_MARGIN = 0.25  # of the object's box, on each side


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSettings:
    """Size and format of the pictures that models get.

    Attributes:
        format: "png" for frameworks that announce every picture as PNG, such as RAI.
        max_bytes: bound on the picture as base64, which is a third longer than the encoded file.
        scale: of the camera's image; 0.5 halves both sides.
        max_side_px: bound on the longer side, after scaling.
    """

    format: PictureFormat = "jpeg"
    max_bytes: int = 200_000
    scale: float = 1.0
    max_side_px: int = 1024

    def __post_init__(self) -> None:
        if self.format not in get_args(PictureFormat):
            raise ValueError(f"the picture format must be 'jpeg' or 'png', got {self.format!r}")
        if not _MIN_PICTURE_BYTES <= self.max_bytes <= MAX_PICTURE_BYTES:
            raise ValueError(
                f"max_bytes must be from {_MIN_PICTURE_BYTES} to {MAX_PICTURE_BYTES}, got {self.max_bytes}"
            )
        if not 0 < self.scale <= 1:
            raise ValueError(f"scale must be above 0 and at most 1, got {self.scale}")
        if self.max_side_px < _MIN_SIDE_PX:
            raise ValueError(f"max_side_px must be at least {_MIN_SIDE_PX}, got {self.max_side_px}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An encoded picture of a part of an image."""

    base64: str
    size: tuple[int, int]  # (width, height) of the picture
    shows_xyxy: tuple[int, int, int, int]  # the part of the image that it shows, max exclusive

    def payload(self) -> dict[str, Any]:
        """Describe for a model how pixels of the picture and of the image belong together."""
        return {"size": list(self.size), "shows_xyxy": list(self.shows_xyxy)}

    @property
    def is_pixel_for_pixel(self) -> bool:
        """Whether a pixel of the picture has the coordinates of the same pixel of the image."""
        return self.shows_xyxy == (0, 0, *self.size)


def overlay_picture(
    frame: Frame, objects: Sequence[SceneObject], title: str, settings: PictureSettings
) -> Picture:
    """Draw numbered outlines on the frame."""
    from xsam.draw.overlay import draw_overlay

    segments = Segments(
        image_hw=frame.image_hw,
        masks=tuple(item.mask.compact() for item in objects),  # the store keeps no decoded crops
        labels=tuple(item.label for item in objects),
        label_indices=np.zeros(len(objects), np.int32),
        scores=np.array([np.nan if item.score is None else item.score for item in objects], np.float32),
        boxes_xyxy=np.array([item.box_xyxy for item in objects], np.float32).reshape(-1, 4),
    )
    marks = [item.mark for item in objects]
    drawn = draw_overlay(frame.rgb, segments, style="outline", title=title, numbers=marks, show_scores=False)
    return encode_picture(drawn, settings)


def crop_pictures(frame: Frame, item: SceneObject, settings: PictureSettings) -> list[Picture]:
    """Crop an object and its surroundings; return two pictures, without and with its outline.

    The first is for questions about color and material: nothing is drawn on it.
    """
    from xsam.draw.overlay import draw_outline

    height, width = frame.image_hw
    x_min, y_min, x_max, y_max = item.box_xyxy
    margin = 8 + round(_CROP_MARGIN * max(x_max - x_min, y_max - y_min))
    left, top = max(0, x_min - margin), max(0, y_min - margin)
    right, bottom = min(width, x_max + margin), min(height, y_max + margin)
    crop = np.ascontiguousarray(frame.rgb[top:bottom, left:right])
    mask = np.ascontiguousarray(item.mask.decode()[top:bottom, left:right])
    longest = max(crop.shape[:2])
    enlarged = min(4.0, max(1.0, _CROP_SIDE_PX / longest))
    return [
        encode_picture(rgb, settings, corner_xy=(left, top), enlarged=enlarged)
        for rgb in (crop, draw_outline(crop, mask))
    ]


def camera_picture(frame: Frame, settings: PictureSettings, *, grid: bool) -> Picture:
    """Encode the frame as it is, or with a grid whose lines are labeled in pixels of the frame."""
    if not grid:
        return encode_picture(frame.rgb, settings)
    from xsam.draw.grid import draw_grid

    height, width = frame.image_hw
    shown = _resized(frame.rgb, _target_scale((width, height), settings, 1.0))
    drawn = draw_grid(shown, frame.image_hw)
    return encode_picture(drawn, settings, image_size=(width, height))


def encode_picture(
    rgb: Rgb,
    settings: PictureSettings,
    *,
    corner_xy: tuple[int, int] = (0, 0),
    enlarged: float = 1.0,
    image_size: tuple[int, int] | None = None,
) -> Picture:
    """Scale and encode until the picture keeps its bounds: first with less quality, then smaller.

    Args:
        rgb: uint8 (H, W, 3).
        settings: format and bounds.
        corner_xy: of `rgb` in the image.
        enlarged: factor by which a small crop is enlarged first.
        image_size: (width, height) of the part of the image that `rgb` shows, if it was scaled before.

    Raises:
        ModelError: it cannot be encoded within the bounds.
    """
    height, width = rgb.shape[:2]
    left, top = corner_xy
    shown_width, shown_height = image_size or (width, height)
    scale = 1.0 if image_size else _target_scale((width, height), settings, enlarged)
    while True:
        scaled = _resized(rgb, scale)
        smallest = math.inf
        for quality in _QUALITIES if settings.format == "jpeg" else (0,):
            text = base64.b64encode(_encoded(scaled, settings.format, quality)).decode("ascii")
            smallest = len(text)
            if smallest <= settings.max_bytes:
                return Picture(
                    base64=text,
                    size=(int(scaled.shape[1]), int(scaled.shape[0])),
                    shows_xyxy=(left, top, left + shown_width, top + shown_height),
                )
        if max(scaled.shape[:2]) <= _MIN_SIDE_PX:
            raise ModelError(f"no picture of at most {settings.max_bytes} bytes could be made")
        scale *= min(0.9, 0.95 * math.sqrt(settings.max_bytes / smallest))


def _target_scale(size: tuple[int, int], settings: PictureSettings, enlarged: float) -> float:
    scale = settings.scale * enlarged
    return min(scale, settings.max_side_px / max(size))


def _resized(rgb: Rgb, scale: float) -> Rgb:
    import cv2

    if scale == 1.0:
        return rgb
    height, width = (max(1, round(scale * length)) for length in rgb.shape[:2])
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    resized: Any = cv2.resize(rgb, (width, height), interpolation=interpolation)
    return np.asarray(resized, np.uint8)


def _encoded(rgb: Rgb, picture_format: PictureFormat, quality: int) -> bytes:
    import cv2

    options: list[int] = []
    if picture_format == "jpeg":
        options = [cv2.IMWRITE_JPEG_QUALITY, quality]
        if quality == _QUALITIES[0]:  # full color resolution, for outlines and questions about colors
            options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    done, data = cv2.imencode(f".{picture_format}", rgb[..., ::-1], options)
    if not done:
        raise ModelError(f"a picture of {rgb.shape[1]}×{rgb.shape[0]} px could not be encoded")
    return data.tobytes()
