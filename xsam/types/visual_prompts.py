"""Visual prompts: points, boxes, scribbles and masks that say what is meant, or what is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.errors import InvalidQueryError
from xsam.types.arrays import Rebuilt, owned
from xsam.types.checks import enum_member, flag, float_array, real_number
from xsam.types.masks import BoolMask

MAX_SCRIBBLE_POINTS = 10_000


class PromptKind(str, Enum):
    """Kinds of visual prompts."""

    POINT = "point"
    BOX = "box"
    SCRIBBLE = "scribble"
    MASK = "mask"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VisualPrompt(Rebuilt):
    """A point, box, scribble or mask in original pixels. Use the class methods to make one."""

    kind: PromptKind
    points_xy: NDArray[np.float32] | None = None  # (N, 2): POINT N = 1, SCRIBBLE N ≥ 2
    box_xyxy: tuple[float, float, float, float] | None = None
    mask: BoolMask | None = None  # (H, W)
    positive: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", enum_member(PromptKind, "kind", self.kind))
        object.__setattr__(self, "positive", flag("positive", self.positive))
        given = (self.points_xy is not None, self.box_xyxy is not None, self.mask is not None)
        wanted = {
            PromptKind.POINT: (True, False, False),
            PromptKind.SCRIBBLE: (True, False, False),
            PromptKind.BOX: (False, True, False),
            PromptKind.MASK: (False, False, True),
        }[self.kind]
        if given != wanted:
            raise InvalidQueryError(f"a {self.kind.value} prompt needs its own field and no other")
        if self.points_xy is not None:
            points = float_array("prompt points", self.points_xy)
            one = self.kind is PromptKind.POINT
            count = "N = 1" if one else f"2 ≤ N ≤ {MAX_SCRIBBLE_POINTS}"
            most = 1 if one else MAX_SCRIBBLE_POINTS
            if points.ndim != 2 or points.shape[1] != 2 or not (1 if one else 2) <= len(points) <= most:
                raise InvalidQueryError(
                    f"a {self.kind.value} prompt needs points (N, 2) with {count}, got shape {points.shape}"
                )
            if not np.isfinite(points).all():
                raise InvalidQueryError("prompt points must be finite numbers")
            object.__setattr__(self, "points_xy", owned(points))
        if self.box_xyxy is not None:
            if np.shape(self.box_xyxy) != (4,):
                raise InvalidQueryError(f"a box prompt needs 4 numbers, got {self.box_xyxy!r:.80}")
            x_min, y_min, x_max, y_max = (real_number("box_xyxy", v) for v in self.box_xyxy)
            if not np.isfinite([x_min, y_min, x_max, y_max]).all() or x_max <= x_min or y_max <= y_min:
                raise InvalidQueryError(
                    f"a box prompt needs x_min < x_max and y_min < y_max, got {self.box_xyxy}"
                )
            object.__setattr__(self, "box_xyxy", (x_min, y_min, x_max, y_max))
        if self.mask is not None:
            mask: Any = self.mask
            if not isinstance(mask, np.ndarray) or mask.ndim != 2 or mask.dtype != np.bool_ or not mask.any():
                raise InvalidQueryError(
                    "a mask prompt must be a bool (H, W) array with at least one pixel set"
                )
            object.__setattr__(self, "mask", owned(self.mask))

    @classmethod
    def point(cls, x_px: float, y_px: float, *, positive: bool = True) -> VisualPrompt:
        points = float_array("prompt points", [[x_px, y_px]])
        return cls(kind=PromptKind.POINT, points_xy=points, positive=positive)

    @classmethod
    def box(
        cls, x_min: float, y_min: float, x_max: float, y_max: float, *, positive: bool = True
    ) -> VisualPrompt:
        return cls(kind=PromptKind.BOX, box_xyxy=(x_min, y_min, x_max, y_max), positive=positive)

    @classmethod
    def scribble(cls, points_xy: Sequence[tuple[float, float]], *, positive: bool = True) -> VisualPrompt:
        points = float_array("prompt points", points_xy)
        return cls(kind=PromptKind.SCRIBBLE, points_xy=points, positive=positive)

    @classmethod
    def from_mask(cls, mask: BoolMask, *, positive: bool = True) -> VisualPrompt:
        return cls(kind=PromptKind.MASK, mask=mask, positive=positive)

    def check_inside(self, image_hw: tuple[int, int]) -> None:
        """Raise `InvalidQueryError` unless the prompt lies in an image of (H, W) pixels.

        A box may extend past the border as long as it overlaps the image; a point may not.
        """
        height, width = image_hw
        if self.points_xy is not None:
            x_px, y_px = self.points_xy[:, 0], self.points_xy[:, 1]
            if (x_px < 0).any() or (y_px < 0).any() or (x_px >= width).any() or (y_px >= height).any():
                raise InvalidQueryError(f"{self.kind.value} prompt lies outside the {width}×{height} image")
        if self.box_xyxy is not None:
            x_min, y_min, x_max, y_max = self.box_xyxy
            if x_min >= width or y_min >= height or x_max <= 0 or y_max <= 0:
                raise InvalidQueryError(f"box prompt {self.box_xyxy} lies outside the {width}×{height} image")
        if self.mask is not None and self.mask.shape != (height, width):
            raise InvalidQueryError(f"mask prompt is {self.mask.shape}, the image is {(height, width)}")
