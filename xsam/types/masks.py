"""Masks as COCO run-length codes, boxes and areas, all in original image pixels.

A mask is a bool array (H, W), True = object. A box is `xyxy`, max exclusive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from xsam.errors import InvalidImageError

BoolMask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskRle:
    """A binary mask as COCO compressed run-length code (what `pycocotools.mask.decode` reads).

    A 1920×1080 mask takes 2 MB raw and about 1–3 kB so.
    """

    height: int
    width: int
    counts: bytes

    def __post_init__(self) -> None:
        if self.height <= 0 or self.width <= 0:
            raise InvalidImageError(f"a mask needs a positive size, got {self.height}×{self.width}")
        if not self.counts:  # pycocotools would decode it to memory that nobody wrote
            raise InvalidImageError("a mask needs run lengths; an empty mask has one run of background")

    @classmethod
    def encode(cls, mask: BoolMask) -> MaskRle:
        """Encode a bool mask (H, W)."""
        if mask.ndim != 2 or mask.dtype != np.bool_:
            raise InvalidImageError(f"a mask must be bool (H, W), got {mask.dtype} {mask.shape}")
        height, width = mask.shape
        if height == 0 or width == 0:
            raise InvalidImageError(f"a mask needs a positive size, got {height}×{width}")
        code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        return cls(height=height, width=width, counts=bytes(code["counts"]))

    @classmethod
    def encode_crop(cls, crop: BoolMask, *, top: int, left: int, image_hw: tuple[int, int]) -> MaskRle:
        """Encode a mask of `image_hw` that is False outside a crop, without ever making it.

        Args:
            crop: bool (h, w), of which (0, 0) is pixel (top, left) of the image.
        """
        height, width = image_hw
        if crop.ndim != 2 or crop.dtype != np.bool_:
            raise InvalidImageError(f"a mask must be bool (H, W), got {crop.dtype} {crop.shape}")
        if top < 0 or left < 0 or top + crop.shape[0] > height or left + crop.shape[1] > width:
            raise InvalidImageError(f"a crop of {crop.shape} at {(top, left)} is not inside {image_hw}")
        # Runs go down the columns. A row of background above and below ends each at the crop's border.
        bordered = np.zeros((crop.shape[1], crop.shape[0] + 2), np.int8)
        bordered[:, 1:-1] = crop.T
        change = np.diff(bordered, axis=1)
        starts, ends = (
            (columns + left) * height + rows + top
            for columns, rows in (np.nonzero(change == step) for step in (1, -1))
        )
        apart = starts[1:] != ends[:-1]  # a run that reaches the bottom may go on at the top
        bounds = np.zeros(2 * int(np.count_nonzero(apart)) + 2 + 2 * (len(starts) > 0), np.int64)
        if len(starts):
            bounds[1:-1:2] = np.concatenate([starts[:1], starts[1:][apart]])
            bounds[2:-1:2] = np.concatenate([ends[:-1][apart], ends[-1:]])
        bounds[-1] = height * width
        counts = np.diff(bounds)
        if counts[-1] == 0:
            counts = counts[:-1]
        code = coco_mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
        return cls(height=height, width=width, counts=bytes(code["counts"]))

    def decode(self) -> BoolMask:
        """The mask as bool (H, W)."""
        decoded: BoolMask = coco_mask.decode(self._coco()).astype(np.bool_)
        return decoded

    @property
    def area(self) -> int:
        """Number of object pixels."""
        return int(coco_mask.area(self._coco()))

    def iou(self, other: MaskRle) -> float:
        """Intersection over union with a mask of the same size; two empty masks give 0."""
        if (self.height, self.width) != (other.height, other.width):
            raise InvalidImageError(
                f"masks differ in size: {self.height}×{self.width} and {other.height}×{other.width}"
            )
        return float(coco_mask.iou([self._coco()], [other._coco()], [0])[0, 0])

    @staticmethod
    def iou_matrix(first: Sequence[MaskRle], second: Sequence[MaskRle]) -> NDArray[np.float64]:
        """Intersection over union of each with each, (N, M); all masks have the same size."""
        return _overlaps(first, second, whole=0)

    @staticmethod
    def inside_matrix(first: Sequence[MaskRle], second: Sequence[MaskRle]) -> NDArray[np.float64]:
        """Share of each of `first` that lies inside each of `second`, (N, M); an empty mask lies nowhere."""
        return _overlaps(first, second, whole=1)

    def _coco(self) -> dict[str, object]:
        return {"size": [self.height, self.width], "counts": self.counts}


def _overlaps(first: Sequence[MaskRle], second: Sequence[MaskRle], *, whole: int) -> NDArray[np.float64]:
    """Intersections over the union (`whole` 0) or over the first mask (1: COCO's rule for crowds)."""
    if not first or not second:
        return np.zeros((len(first), len(second)))
    shares: NDArray[np.float64] = coco_mask.iou(
        [mask._coco() for mask in first], [mask._coco() for mask in second], [whole] * len(second)
    )
    return shares


def box_of_mask(mask: BoolMask) -> tuple[int, int, int, int]:
    """Tight box `xyxy` (max exclusive) of a mask (H, W); an empty mask gives (0, 0, 0, 0)."""
    columns = np.flatnonzero(mask.any(axis=0))
    rows = np.flatnonzero(mask.any(axis=1))
    if columns.size == 0:
        return (0, 0, 0, 0)
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def centroid_of_mask(mask: BoolMask) -> tuple[float, float]:
    """Mean (x, y) of the object pixels, pixel centers at integers; (nan, nan) when empty."""
    area = int(mask.sum())
    if area == 0:
        return (float("nan"), float("nan"))
    x_px = float(mask.sum(axis=0) @ np.arange(mask.shape[1])) / area
    y_px = float(mask.sum(axis=1) @ np.arange(mask.shape[0])) / area
    return (x_px, y_px)


def mask_iou(first: BoolMask, second: BoolMask) -> float:
    """Intersection over union of two masks of one shape; two empty masks give 0."""
    union = int(np.count_nonzero(first | second))
    return int(np.count_nonzero(first & second)) / union if union else 0.0
