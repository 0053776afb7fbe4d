"""The connected pieces of a mask: boxes and relations are about the largest, for a speck moves a box far."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xsam.types.masks import BoolMask, centroid_of_mask

_SPECKS_SHARE = 0.1  # of the largest piece


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MainPiece:
    """The largest connected piece of a mask.

    Attributes:
        mask: bool (H, W), of that piece alone.
        box_xyxy: its box in pixels, max exclusive.
        center_xy: the pixel of the piece nearest to its centroid, which may lie outside a ring.
        pieces: number of pieces of the whole mask, specks included.
        is_broken: the other pieces are too large for specks: together over 10 % of this one.
    """

    mask: BoolMask
    box_xyxy: tuple[int, int, int, int]
    center_xy: tuple[int, int]
    pieces: int
    is_broken: bool


def main_piece(mask: BoolMask) -> MainPiece:
    """Find the largest piece of a mask (H, W) with at least one pixel; diagonal neighbors are connected."""
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    largest = 1 + int(np.argmax(areas))
    x_min, y_min, width, height = (int(value) for value in stats[largest, : cv2.CC_STAT_AREA])
    piece: BoolMask = mask if count == 2 else labels == largest
    return MainPiece(
        mask=piece,
        box_xyxy=(x_min, y_min, x_min + width, y_min + height),
        center_xy=_center_pixel(piece),
        pieces=count - 1,
        is_broken=bool(areas.sum() > (1 + _SPECKS_SHARE) * areas.max()),
    )


def _center_pixel(mask: BoolMask) -> tuple[int, int]:
    """Return the mask pixel (x, y) nearest to the centroid."""
    x_px, y_px = centroid_of_mask(mask)
    column, row = round(x_px), round(y_px)
    if not mask[row, column]:
        rows, columns = np.nonzero(mask)
        nearest = np.argmin((columns - x_px) ** 2 + (rows - y_px) ** 2)
        column, row = int(columns[nearest]), int(rows[nearest])
    return column, row
