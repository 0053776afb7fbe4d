"""A coordinate grid on an image, so that a reader can name pixels."""

from __future__ import annotations

import numpy as np

from xsam.draw.raster import LIGHT, Image, draw_text, text_width
from xsam.draw.shapes import DrawSizes

_STEPS_PX = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
_MAX_LINES = 10  # along the longer side
_LINE_OPACITY = 0.45


def grid_step(image_hw: tuple[int, int]) -> int:
    """Return the distance of the lines in pixels of the image: a round number with at most 10 lines."""
    longest = max(image_hw)
    return next((step for step in _STEPS_PX if longest / step <= _MAX_LINES), _STEPS_PX[-1])


def draw_grid(rgb: Image, image_hw: tuple[int, int]) -> Image:
    """Draw lines at round coordinates on a copy of a picture, labeled in pixels of the image.

    Args:
        rgb: uint8 (h, w, 3), the whole image at any scale.
        image_hw: (H, W) of the image whose pixels the labels count.

    Returns:
        New uint8 (h, w, 3).
    """
    canvas = np.array(rgb, order="C")
    height, width = canvas.shape[:2]
    step, sizes = grid_step(image_hw), DrawSizes.for_image((height, width))
    cap_px = max(7, round(0.9 * sizes.text))
    columns = [(x, round(x * width / image_hw[1])) for x in range(step, image_hw[1], step)]
    rows = [(y, round(y * height / image_hw[0])) for y in range(step, image_hw[0], step)]
    for _, column in columns:
        _shade(canvas[:, column : column + 1], 255)
        _shade(canvas[:, column + 1 : column + 2], 0)
    for _, row in rows:
        _shade(canvas[row : row + 1], 255)
        _shade(canvas[row + 1 : row + 2], 0)
    for x, column in columns:
        _label(canvas, str(x), column - text_width(str(x), cap_px) // 2, cap_px, cap_px)
    for y, row in rows:
        _label(canvas, str(y), 4, row, cap_px)
    unit = "x,y px"
    if not columns or text_width(unit, cap_px) + 2 * cap_px < columns[0][1]:
        _label(canvas, unit, 4, cap_px, cap_px)
    return canvas


def _shade(window: Image, level: int) -> None:
    window[...] = np.round((1 - _LINE_OPACITY) * window + _LINE_OPACITY * level).astype(np.uint8)


def _label(canvas: Image, text: str, left: int, middle: int, cap_px: int) -> None:
    """Draw text on a dark ground, moved inside the picture."""
    height, width = canvas.shape[:2]
    text_px, pad = text_width(text, cap_px), max(2, cap_px // 3)
    left = min(max(pad, left), max(pad, width - text_px - pad))
    half = cap_px // 2 + pad
    middle = min(max(half, middle), max(half, height - half))
    ground = canvas[middle - half : middle + half, left - pad : left + text_px + pad]
    ground[...] = ground // 4
    draw_text(canvas, text, (left, middle), cap_px, LIGHT)
