"""Parts of an overlay: colors, line and text sizes, cropped masks, contours and number discs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from xsam.draw.raster import (
    LIGHT,
    Color,
    Image,
    blend_color,
    contrasting_color,
    draw_polylines,
    draw_text,
    rounded_rect_coverage,
    text_width,
)
from xsam.types.masks import BoolMask, MaskCrop, box_of_mask
from xsam.types.segments import Segments

Rect = tuple[int, int, int, int]  # xyxy, max exclusive
XY = tuple[float, float]

# Based on Okabe and Ito's palette. Neighbors in this order also differ for color-blind viewers.
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
DOUBTFUL: Color = (240, 180, 30)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawSizes:
    """Text and line sizes in pixels, proportional to the image."""

    text: int  # height of a capital letter
    line: int  # width of a line
    halo: int  # width of the dark rim on each side of a line
    radius: int  # of a number disc
    pad: int  # around text

    @classmethod
    def for_image(cls, image_hw: tuple[int, int]) -> DrawSizes:
        unit = float(np.clip(min(image_hw) / 480, 0.75, 20))
        text, line, halo = round(9 * unit), max(1, round(2 * unit)), max(1, round(unit))
        return cls(text=text, line=line, halo=halo, radius=round(1.05 * text), pad=round(0.5 * text))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DrawnMask:
    """A mask to draw, with the index of its segment."""

    index: int
    crop: MaskCrop
    area: int

    @classmethod
    def of(cls, index: int, crop: MaskCrop) -> DrawnMask:
        return cls(index=index, crop=crop, area=int(np.count_nonzero(crop.pixels)))


def component_box_at(mask: DrawnMask, point: XY) -> Rect:
    """Return the box of the connected component that contains a pixel, or of the whole mask if none does."""
    crop = mask.crop
    count, components, stats, _ = cv2.connectedComponentsWithStats(
        crop.pixels.astype(np.uint8), connectivity=8
    )
    height, width = crop.pixels.shape
    column, row = round(point[0]) - crop.left, round(point[1]) - crop.top
    inside = 0 <= row < height and 0 <= column < width
    if count <= 2 or not inside or not crop.pixels[row, column]:
        return crop.box_xyxy
    left, top, box_w, box_h = (int(value) for value in stats[components[row, column], :4])
    return (
        crop.left + left,
        crop.top + top,
        crop.left + left + box_w,
        crop.top + top + box_h,
    )


def color_of(index: int) -> Color:
    """Return the color of the segment with this index."""
    return PALETTE[index % len(PALETTE)]


def masks_to_draw(segments: Segments) -> list[DrawnMask]:
    """Crop all non-empty masks, largest first."""
    masks = [DrawnMask.of(index, rle.crop()) for index, rle in enumerate(segments.masks)]
    return sorted((m for m in masks if m.area), key=lambda mask: (-mask.area, -mask.index))


def innermost_pixel(pixels: BoolMask, left: int, top: int) -> tuple[XY, float]:
    """Find a pixel (x, y) far from the mask's edge, and its distance to the edge in pixels.

    Of the pixels that are about equally far, the one nearest to their middle is taken.
    """
    x_min, y_min, x_max, y_max = box_of_mask(pixels)
    padded = np.pad(pixels[y_min:y_max, x_min:x_max].astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    largest_px = float(distance.max())
    rows, columns = np.nonzero(distance >= 0.92 * largest_px)
    middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return (float(left + columns[middle]), float(top + rows[middle])), largest_px


def find_number_anchor(
    mask: DrawnMask, topmost: NDArray[np.uint16], occupied: Sequence[Rect]
) -> tuple[XY, float]:
    """Choose where the number goes: on the visible part of the mask, clear of what is already drawn.

    Args:
        mask: the segment's mask.
        topmost: (H, W) index + 1 of the segment that is visible at each pixel, 0 = none.
        occupied: boxes that the number must not cover.

    Returns:
        The pixel (x, y), and how far it is from the edge of the free area; 0 when there is no free area.
    """
    crop = mask.crop
    free = crop.pixels & (topmost[crop.window] == mask.index + 1)
    for x_min, y_min, x_max, y_max in occupied:
        rows = slice(max(0, y_min - crop.top), max(0, y_max - crop.top))
        free[rows, max(0, x_min - crop.left) : max(0, x_max - crop.left)] = False
    area = free if free.any() else crop.pixels
    x_min, y_min, _, _ = box_of_mask(area)
    point, distance_px = innermost_pixel(area, crop.left + x_min, crop.top + y_min)
    return point, distance_px if area is free else 0.0


def nearest_pixel(mask: DrawnMask, point: XY) -> XY:
    """Return the pixel (x, y) of a mask that is nearest to a point."""
    crop = mask.crop
    rows, columns = np.nonzero(crop.pixels)
    nearest = np.argmin((columns + crop.left - point[0]) ** 2 + (rows + crop.top - point[1]) ** 2)
    return (float(columns[nearest] + crop.left), float(rows[nearest] + crop.top))


def draw_contours(
    canvas: Image, mask: DrawnMask, color: Color, sizes: DrawSizes, *, around: bool = False
) -> None:
    """Draw the contours of a mask, holes included, with a dark rim.

    Args:
        canvas: RGB image to draw into.
        mask: the mask.
        color: of the line.
        sizes: line widths.
        around: draw just outside the mask, so that no part of a small object is hidden.
    """
    crop = mask.crop
    line = sizes.line
    reach = (line + 2 * sizes.halo) // 2 + 2 if around else 0  # half the line, its soft edge, the smoothing
    shape: Image = np.pad(crop.pixels.astype(np.uint8), reach + 1)
    if reach:
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
        shape = np.asarray(cv2.dilate(shape, disc), np.uint8)
    contours, _ = cv2.findContours(shape, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    offset = np.array([crop.left - reach - 1, crop.top - reach - 1])
    lines = [_smooth_contour(contour[:, 0, :].astype(np.float64)) + offset for contour in contours]
    draw_polylines(canvas, lines, color, line, sizes.halo, closed=True)


def _smooth_contour(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Remove the pixel stairs from a closed contour (n, 2); no point moves by more than about a pixel."""
    if len(points) < 16:
        return points
    padded = np.concatenate([points[-3:], points, points[:3]])
    kernel = np.array([1, 6, 15, 20, 15, 6, 1]) / 64
    return np.stack([np.convolve(padded[:, axis], kernel, "valid") for axis in (0, 1)], axis=1)


def draw_disc(canvas: Image, center: XY, text: str, color: Color, sizes: DrawSizes) -> None:
    """Draw a disc with up to three characters on it."""
    x_px, y_px = round(center[0]), round(center[1])
    for radius, disc_color in ((sizes.radius + sizes.halo, LIGHT), (sizes.radius, color)):
        side = 2 * radius + 1
        coverage = rounded_rect_coverage(side, side, side / 2)
        blend_color(canvas, coverage, x_px - radius, y_px - radius, disc_color)
    cap_px = round(sizes.text * (0.95, 0.85, 0.65)[min(len(text), 3) - 1]) if text else 0
    left = x_px - (text_width(text, cap_px) - 1) // 2
    draw_text(canvas, text, (left, y_px), cap_px, contrasting_color(color))
