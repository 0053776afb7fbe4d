"""What overlays are made of: colors, sizes, cut-out masks, outlines and number discs. OpenCV is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from xsam.draw.raster import (
    PAPER,
    Color,
    Image,
    paint,
    put_text,
    readable_on,
    round_cover,
    stroke,
    text_width,
)
from xsam.types.masks import BoolMask, MaskCrop, box_of_mask
from xsam.types.segments import Segments

Rect = tuple[int, int, int, int]  # xyxy, max exclusive
XY = tuple[float, float]

# From Okabe and Ito's colors; in this order neighbors also differ for color-blind eyes.
PALETTE: tuple[Color, ...] = (
    (255, 170, 20),  # orange
    (255, 140, 205),  # pink
    (165, 80, 200),  # purple
    (225, 225, 225),  # light gray
    (64, 176, 255),  # sky blue
    (0, 190, 140),  # bluish green
    (70, 100, 240),  # blue
    (240, 80, 40),  # vermillion
    (250, 235, 70),  # yellow
    (170, 110, 60),  # brown
    (180, 220, 80),  # lime
    (150, 225, 245),  # ice
)
POSITIVE: Color = (0, 190, 140)
NEGATIVE: Color = (240, 80, 40)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Pixel sizes that follow the image."""

    text: int  # height of a capital letter
    line: int
    halo: int  # dark rim on each side of a line
    radius: int  # of a number disc
    pad: int

    @classmethod
    def for_image(cls, image_hw: tuple[int, int]) -> Sizes:
        unit = float(np.clip(min(image_hw) / 480, 0.75, 20))
        text, line, halo = round(9 * unit), max(1, round(2 * unit)), max(1, round(unit))
        return cls(text=text, line=line, halo=halo, radius=round(1.05 * text), pad=round(0.5 * text))


@dataclass(frozen=True, slots=True)
class Piece:
    """One mask cut out to its box."""

    index: int
    crop: BoolMask  # (h, w)
    left: int
    top: int
    area: int

    @classmethod
    def of(cls, index: int, mask: MaskCrop) -> Piece:
        return cls(index, mask.pixels, mask.left, mask.top, int(np.count_nonzero(mask.pixels)))

    @property
    def rect(self) -> Rect:
        return (self.left, self.top, self.left + self.crop.shape[1], self.top + self.crop.shape[0])

    @property
    def window(self) -> tuple[slice, slice]:
        x_min, y_min, x_max, y_max = self.rect
        return (slice(y_min, y_max), slice(x_min, x_max))


def part_at(piece: Piece, point: XY) -> Rect:
    """The box of the connected part of a mask that a pixel lies in; of the whole mask when in none."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(piece.crop.astype(np.uint8), connectivity=8)
    height, width = piece.crop.shape
    column, row = round(point[0]) - piece.left, round(point[1]) - piece.top
    inside = 0 <= row < height and 0 <= column < width
    if count <= 2 or not inside or not piece.crop[row, column]:
        return piece.rect
    left, top, part_w, part_h = (int(value) for value in stats[parts[row, column], :4])
    return (
        piece.left + left,
        piece.top + top,
        piece.left + left + part_w,
        piece.top + top + part_h,
    )


def color_of(index: int) -> Color:
    """The color of segment `index`."""
    return PALETTE[index % len(PALETTE)]


def pieces_of(segments: Segments) -> list[Piece]:
    """The masks that have pixels, largest first."""
    pieces = [Piece.of(index, rle.crop()) for index, rle in enumerate(segments.masks)]
    return sorted((p for p in pieces if p.area), key=lambda piece: (-piece.area, -piece.index))


def deepest(mask: BoolMask, left: int, top: int) -> tuple[XY, float]:
    """A pixel (x, y) well inside a mask and its distance to the edge; near the middle where several are."""
    x_min, y_min, x_max, y_max = box_of_mask(mask)
    padded = np.pad(mask[y_min:y_max, x_min:x_max].astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    depth_px = float(distance.max())
    rows, columns = np.nonzero(distance >= 0.92 * depth_px)
    middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return (float(left + columns[middle]), float(top + rows[middle])), depth_px


def anchor_of(piece: Piece, owner: NDArray[np.uint16], taken: Sequence[Rect]) -> tuple[XY, float]:
    """Where the number goes: inside the visible part of the mask, off what is drawn already."""
    free = piece.crop & (owner[piece.window] == piece.index + 1)
    for x_min, y_min, x_max, y_max in taken:
        rows = slice(max(0, y_min - piece.top), max(0, y_max - piece.top))
        free[rows, max(0, x_min - piece.left) : max(0, x_max - piece.left)] = False
    mask = free if free.any() else piece.crop
    x_min, y_min, _, _ = box_of_mask(mask)
    point, depth_px = deepest(mask, piece.left + x_min, piece.top + y_min)
    return point, depth_px if mask is free else 0.0


def nearest_pixel(piece: Piece, to: XY) -> XY:
    """The pixel (x, y) of a mask that is nearest to a place."""
    rows, columns = np.nonzero(piece.crop)
    nearest = np.argmin((columns + piece.left - to[0]) ** 2 + (rows + piece.top - to[1]) ** 2)
    return (float(columns[nearest] + piece.left), float(rows[nearest] + piece.top))


def outline(canvas: Image, piece: Piece, color: Color, sizes: Sizes, *, around: bool = False) -> None:
    """The contours of a mask, holes included, with a dark rim.

    `around`: just outside the mask, so that nothing of a small object is hidden.
    """
    line = sizes.line
    reach = (line + 2 * sizes.halo) // 2 + 2 if around else 0  # half the stroke, its soft edge, the smoothing
    shape: Image = np.pad(piece.crop.astype(np.uint8), reach + 1)
    if reach:
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
        shape = np.asarray(cv2.dilate(shape, disc), np.uint8)
    found, _ = cv2.findContours(shape, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    offset = np.array([piece.left - reach - 1, piece.top - reach - 1])
    lines = [_smooth(c[:, 0, :].astype(np.float64)) + offset for c in found]
    stroke(canvas, lines, color, line, sizes.halo, closed=True)


def _smooth(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """A closed pixel contour (n, 2) without its stairs; moves no point by more than about a pixel."""
    if len(points) < 16:
        return points
    padded = np.concatenate([points[-3:], points, points[:3]])
    kernel = np.array([1, 6, 15, 20, 15, 6, 1]) / 64
    return np.stack([np.convolve(padded[:, axis], kernel, "valid") for axis in (0, 1)], axis=1)


def draw_disc(canvas: Image, center: XY, text: str, color: Color, sizes: Sizes) -> None:
    """A disc with up to three characters on it."""
    x_px, y_px = round(center[0]), round(center[1])
    for radius, ink in ((sizes.radius + sizes.halo, PAPER), (sizes.radius, color)):
        side = 2 * radius + 1
        paint(canvas, round_cover(side, side, side / 2), x_px - radius, y_px - radius, ink)
    cap_px = round(sizes.text * (0.95, 0.85, 0.65)[min(len(text), 3) - 1]) if text else 0
    left = x_px - (text_width(text, cap_px) - 1) // 2
    put_text(canvas, text, (left, y_px), cap_px, readable_on(color))
