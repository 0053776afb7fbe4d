"""Anti-aliased strokes, text and rounded shapes, mixed into an RGB canvas in place. OpenCV is needed."""

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

INK: Color = (22, 24, 29)
PAPER: Color = (250, 250, 250)

_FONT = cv2.FONT_HERSHEY_DUPLEX
_FINE = 4  # text and discs are drawn this many times larger, then averaged down
_SUB = 4  # fractional bits of line coordinates


def stroke(
    canvas: Image, lines: Sequence[NDArray[np.float64]], color: Color, line: int, halo: int, *, closed: bool
) -> None:
    """Polylines (n, 2) in pixels with a dark rim."""
    fixed = [np.round(points * (1 << _SUB)).astype(np.int32) for points in lines]
    for ink, width in ((INK, line + 2 * halo), (color, line)):
        cv2.polylines(canvas, fixed, closed, ink, width, cv2.LINE_AA, _SUB)


def paint(canvas: Image, cover: Image, left: int, top: int, color: Color, opacity: float = 1.0) -> None:
    """Mix `color` into the canvas where `cover` (h, w) is, cut off at the border."""
    height, width = canvas.shape[:2]
    x_min, y_min = max(0, left), max(0, top)
    x_max, y_max = min(width, left + cover.shape[1]), min(height, top + cover.shape[0])
    if x_max <= x_min or y_max <= y_min:
        return
    window = canvas[y_min:y_max, x_min:x_max]
    part = cover[y_min - top : y_max - top, x_min - left : x_max - left, None].astype(np.float32)
    weight = part * (opacity / 255)
    window[:] = np.rint(window + (np.array(color, np.float32) - window) * weight).astype(np.uint8)


@lru_cache(maxsize=512)
def _text_cover(text: str, cap_px: int) -> Image:
    """Coverage (h, w) of a line of text whose capitals are `cap_px` high; h leaves room for descenders."""
    scale = cv2.getFontScaleFromHeight(_FONT, cap_px * _FINE, 1)
    thick = max(1, round(cap_px * _FINE / 9))
    words = text.split(" ")
    space = round(0.6 * cap_px * _FINE)  # the font's own is far too wide
    starts = np.cumsum([0] + [cv2.getTextSize(word, _FONT, scale, thick)[0][0] + space for word in words])
    height, width = round(1.8 * cap_px), -(-int(starts[-1] - space) // _FINE) + 1
    cover = np.zeros((height * _FINE, width * _FINE), np.uint8)
    base = round(1.2 * cap_px) * _FINE
    for word, start in zip(words, starts[:-1], strict=True):
        cv2.putText(cover, word, (int(start), base), _FONT, scale, (255,), thick, cv2.LINE_AA)
    return _averaged(cover, width, height)


@lru_cache(maxsize=512)
def round_cover(width: int, height: int, radius: float) -> Image:
    """Coverage (h, w) of a rectangle with round corners."""
    y_px, x_px = np.mgrid[0 : height * _FINE, 0 : width * _FINE] / _FINE + 0.5 / _FINE
    x_out = np.maximum(np.abs(x_px - width / 2) - (width / 2 - radius), 0)
    y_out = np.maximum(np.abs(y_px - height / 2) - (height / 2 - radius), 0)
    inside = np.hypot(x_out, y_out) <= radius
    return _averaged(np.where(inside, 255, 0).astype(np.uint8), width, height)


def _averaged(cover: Image, width: int, height: int) -> Image:
    small: Any = cv2.resize(cover, (width, height), interpolation=cv2.INTER_AREA)
    small.flags.writeable = False
    return np.asarray(small)


def text_width(text: str, cap_px: int) -> int:
    """Pixels that a line of text takes; 0 for an empty one."""
    return int(_text_cover(text, cap_px).shape[1]) if text else 0


def put_text(
    canvas: Image, text: str, left_middle: tuple[int, float], cap_px: int, color: Color, dim: float = 1.0
) -> None:
    """Text that starts at a pixel column, its capitals centered on a row."""
    if text:
        left, middle = left_middle
        paint(canvas, _text_cover(text, cap_px), left, round(middle - 0.7 * cap_px), color, dim)


def ascii_text(text: str) -> str:
    """What the line font can write: accents fall away, other scripts give an empty string."""
    plain = unicodedata.normalize("NFKD", " ".join(text.split()))
    kept = "".join(char for char in plain if " " <= char <= "~")
    return kept if 2 * len(kept) >= len(plain) else ""


def fit_text(text: str, cap_px: int, room_px: int) -> str:
    """The text, or its beginning with dots when it is wider than the room; empty when nothing fits."""
    if text_width(text, cap_px) <= room_px:
        return text
    for end in range(min(len(text), max(0, room_px // max(1, cap_px // 3))), 0, -1):
        short = text[:end].rstrip() + "..."
        if text_width(short, cap_px) <= room_px:
            return short
    return ""


def readable_on(color: Color) -> Color:
    """Dark or light, whichever stands out on `color`."""
    red, green, blue = color
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 125 else PAPER
