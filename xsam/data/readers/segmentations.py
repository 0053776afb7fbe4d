"""COCO segmentations → masks: polygons, run-length codes, or lists of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from xsam.errors import InvalidImageError, RecordError
from xsam.types.masks import BoolMask, MaskRle, run_lengths

_MAX_IMAGE_SIZES = 16  # coordinates farther out than this many image sizes are considered damaged
_MAX_OUTLINE_PX = 4_000_000  # pycocotools takes about 40 bytes per pixel of a polygon's outline


def decode_segmentation(segmentation: Any, image_hw: tuple[int, int], where: str) -> BoolMask:
    """Decode a segmentation to the union of its parts, clipped to the image.

    Polygons of one or two points enclose nothing and are skipped; COCO has a few.

    Args:
        segmentation: polygons `[[x, y, x, y, …], …]` in pixels; a run-length code `{"size": [H, W],
            "counts": …}`, compressed or not; or a list of such codes.
        image_hw: (H, W) in pixels.
        where: file and record, for error messages.

    Returns:
        (H, W) bool; all False if the segmentation covers no pixel.

    Raises:
        RecordError: the segmentation is none of these, or a code does not match the image.

    Source: pycocotools, which checks neither that a code is complete (the rest would be uninitialized
    memory) nor that coordinates are sane. Run-length codes go through `MaskRle`, as those of messages do.
    """
    if isinstance(segmentation, dict):
        return _decode_rle(segmentation, image_hw, where)
    if not isinstance(segmentation, list):
        raise RecordError(f"{where}: a segmentation must be polygons or a run-length code")
    if segmentation and all(isinstance(part, dict) for part in segmentation):
        return np.logical_or.reduce([_decode_rle(part, image_hw, where) for part in segmentation])
    polygons = [check_polygon(part, image_hw, where) for part in segmentation]
    polygons = [polygon for polygon in polygons if len(polygon) >= 6]
    if sum(_outline_px(polygon) for polygon in polygons) > _MAX_OUTLINE_PX:
        raise RecordError(f"{where}: the outline of the polygons is longer than {_MAX_OUTLINE_PX} px")
    if not polygons:
        return np.zeros(image_hw, np.bool_)
    code = coco_mask.merge(coco_mask.frPyObjects(polygons, *image_hw))
    mask: BoolMask = coco_mask.decode(code).astype(np.bool_)
    return mask


def stack_masks(masks: Sequence[BoolMask], image_hw: tuple[int, int]) -> BoolMask:
    """Stack masks to (N, H, W) bool, even if there are none."""
    return np.stack(masks) if masks else np.zeros((0, *image_hw), np.bool_)


def rle_area(code: Any, where: str) -> int:
    """Count the object pixels of a compressed run-length code without decoding it."""
    return int(_compressed_runs(code, where)[1::2].sum())


def check_polygon(part: Any, image_hw: tuple[int, int], where: str) -> list[float]:
    """Return a polygon x, y, x, y, … if it is one.

    Raises:
        RecordError: it is not a list of pairs of numbers, or lies far outside the image.
    """
    if not isinstance(part, list) or not all(type(value) in (int, float) for value in part):
        raise RecordError(f"{where}: a polygon must be a list of numbers x, y, x, y, …")
    bound = _MAX_IMAGE_SIZES * max(image_hw)
    if len(part) % 2:
        raise RecordError(f"{where}: a polygon has an odd number of values: {len(part)}")
    if not all(-bound < value < bound for value in part):  # NaN is not, either
        raise RecordError(f"{where}: a polygon has coordinates far outside the image")
    return part


def _outline_px(polygon: list[float]) -> float:
    corners = np.array(polygon, np.float64).reshape(-1, 2)
    return float(np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1).sum())


def _decode_rle(code: dict[str, Any], image_hw: tuple[int, int], where: str) -> BoolMask:
    if code.get("size") != list(image_hw):
        raise RecordError(
            f"{where}: a run-length code is for an image of {str(code.get('size'))[:60]} (height, width), "
            f"not {list(image_hw)}"
        )
    height, width = image_hw
    counts = code.get("counts")
    try:
        if isinstance(counts, list) and all(type(count) in (int, float) for count in counts):
            return MaskRle.from_runs(height, width, counts).decode()
        if isinstance(counts, str) and counts:
            return MaskRle.from_counts(height, width, _ascii(counts, where)).decode()
    except InvalidImageError as error:
        raise RecordError(f"{where}: {error.message}") from None
    raise RecordError(f"{where}: a run-length code has no counts")


def _ascii(counts: str, where: str) -> bytes:
    for character in counts:
        if not "0" <= character <= "o":
            raise RecordError(f"{where}: a run-length code has the character {character!r}")
    return counts.encode()


def _compressed_runs(code: Any, where: str) -> NDArray[np.int64]:
    counts = code.get("counts") if isinstance(code, dict) else None
    if not isinstance(counts, str) or not counts:
        raise RecordError(f"{where}: a run-length code has no counts")
    try:
        return run_lengths(_ascii(counts, where))
    except InvalidImageError as error:
        raise RecordError(f"{where}: {error.message}") from None
