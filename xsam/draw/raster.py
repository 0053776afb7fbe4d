"""Anti-aliased lines, text and rounded shapes, blended into an RGB canvas in place."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Color = tuple[int, int, int]

DARK: Color = (22, 24, 29)
LIGHT: Color = (250, 250, 250)

_FONT = cv2.FONT_HERSHEY_DUPLEX
_SUPERSAMPLING = 4  # text and discs are drawn this many times larger, then averaged down
_FRACTION_BITS = 4  # of line coordinates


def draw_polylines(
    canvas: Image, lines: Sequence[NDArray[np.float64]], color: Color, line: int, halo: int, *, closed: bool
) -> None:
    """Draw polylines of (n, 2) pixel coordinates, `line` pixels wide, with a dark rim of `halo` pixels."""
    fixed = [np.round(points * (1 << _FRACTION_BITS)).astype(np.int32) for points in lines]
    for line_color, width in ((DARK, line + 2 * halo), (color, line)):
        cv2.polylines(canvas, fixed, closed, line_color, width, cv2.LINE_AA, _FRACTION_BITS)


def blend_color(
    canvas: Image, coverage: Image, left: int, top: int, color: Color, opacity: float = 1.0
) -> None:
    """Blend `color` into the canvas by `coverage` (h, w) in 0 to 255, clipped at the border."""
    height, width = canvas.shape[:2]
    x_min, y_min = max(0, left), max(0, top)
    x_max, y_max = min(width, left + coverage.shape[1]), min(height, top + coverage.shape[0])
    if x_max <= x_min or y_max <= y_min:
        return
    window = canvas[y_min:y_max, x_min:x_max]
    visible = coverage[y_min - top : y_max - top, x_min - left : x_max - left, None].astype(np.float32)
    weight = visible * (opacity / 255)
    window[:] = np.rint(window + (np.array(color, np.float32) - window) * weight).astype(np.uint8)


@lru_cache(maxsize=512)
def _text_coverage(text: str, cap_px: int) -> Image:
    """Return the coverage (h, w) of a line of text with capitals `cap_px` high and room for descenders."""
    scale = cv2.getFontScaleFromHeight(_FONT, cap_px * _SUPERSAMPLING, 1)
    thickness = max(1, round(cap_px * _SUPERSAMPLING / 9))
    words = text.split(" ")
    space = round(0.6 * cap_px * _SUPERSAMPLING)  # the font's own space is far too wide
    starts = np.cumsum([0] + [cv2.getTextSize(word, _FONT, scale, thickness)[0][0] + space for word in words])
    height, width = round(1.8 * cap_px), -(-int(starts[-1] - space) // _SUPERSAMPLING) + 1
    coverage = np.zeros((height * _SUPERSAMPLING, width * _SUPERSAMPLING), np.uint8)
    baseline = round(1.2 * cap_px) * _SUPERSAMPLING
    for word, start in zip(words, starts[:-1], strict=True):
        cv2.putText(coverage, word, (int(start), baseline), _FONT, scale, (255,), thickness, cv2.LINE_AA)
    return _downsample(coverage, width, height)


@lru_cache(maxsize=512)
def rounded_rect_coverage(width: int, height: int, radius: float) -> Image:
    """Return the coverage (h, w) of a rectangle with rounded corners."""
    y_px, x_px = np.mgrid[0 : height * _SUPERSAMPLING, 0 : width * _SUPERSAMPLING] / _SUPERSAMPLING
    y_px, x_px = y_px + 0.5 / _SUPERSAMPLING, x_px + 0.5 / _SUPERSAMPLING
    x_out = np.maximum(np.abs(x_px - width / 2) - (width / 2 - radius), 0)
    y_out = np.maximum(np.abs(y_px - height / 2) - (height / 2 - radius), 0)
    inside = np.hypot(x_out, y_out) <= radius
    return _downsample(np.where(inside, 255, 0).astype(np.uint8), width, height)


def _downsample(coverage: Image, width: int, height: int) -> Image:
    small: Any = cv2.resize(coverage, (width, height), interpolation=cv2.INTER_AREA)
    small.flags.writeable = False
    return np.asarray(small)


def text_width(text: str, cap_px: int) -> int:
    """Return the width of a line of text in pixels; 0 for an empty one."""
    return int(_text_coverage(text, cap_px).shape[1]) if text else 0


def draw_text(
    canvas: Image, text: str, left_middle: tuple[int, float], cap_px: int, color: Color, opacity: float = 1.0
) -> None:
    """Draw text that starts at a pixel column, with its capitals centered on a row."""
    if text:
        left, middle = left_middle
        blend_color(canvas, _text_coverage(text, cap_px), left, round(middle - 0.7 * cap_px), color, opacity)


def ascii_text(text: str) -> str:
    """Reduce text to what the line font can draw.

    Accents are dropped. Text of which less than half survives (another script) becomes an empty string.
    """
    plain = unicodedata.normalize("NFKD", " ".join(text.split()))
    kept = "".join(char for char in plain if " " <= char <= "~")
    return kept if 2 * len(kept) >= len(plain) else ""


def fit_text(text: str, cap_px: int, max_width_px: int) -> str:
    """Shorten text with an ellipsis until it fits the width; return "" when not even that fits."""
    if text_width(text, cap_px) <= max_width_px:
        return text
    for end in range(min(len(text), max(0, max_width_px // max(1, cap_px // 3))), 0, -1):
        short = text[:end].rstrip() + "..."
        if text_width(short, cap_px) <= max_width_px:
            return short
    return ""


def contrasting_color(background: Color) -> Color:
    """Return `DARK` or `LIGHT`, whichever is readable on the background."""
    red, green, blue = background
    return DARK if 0.299 * red + 0.587 * green + 0.114 * blue > 125 else LIGHT
