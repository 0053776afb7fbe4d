"""Labels of an overlay: where they stand, inside the image, apart and off small objects. OpenCV is needed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xsam.draw.raster import (
    INK,
    PAPER,
    Color,
    Image,
    ascii_text,
    fit_text,
    paint,
    put_text,
    readable_on,
    round_cover,
    stroke,
    text_width,
)
from xsam.draw.shapes import XY, Piece, Rect, Sizes


@dataclass(frozen=True, slots=True)
class Chip:
    """A label and where it stands."""

    index: int
    box: Rect  # of the object
    text: str
    detail: str
    rect: Rect


def _badge_width(badge: str, sizes: Sizes) -> int:
    """Width of the colored left end of a chip."""
    return max(2 * sizes.text, text_width(badge, sizes.text) + sizes.text) if badge else sizes.text


@dataclass(frozen=True, slots=True)
class Floor:
    """Where labels may stand and what it costs."""

    image_hw: tuple[int, int]
    sizes: Sizes
    covered: NDArray[np.float64]  # summed cost of hidden object pixels, on every `step`-th pixel
    step: int
    blocked: list[Rect]

    @classmethod
    def of(cls, pieces: Sequence[Piece], owner: NDArray[np.uint16], taken: list[Rect], sizes: Sizes) -> Floor:
        height, width = owner.shape
        step = max(1, max(height, width) // 400)
        worth = np.zeros(1 + max((p.index + 1 for p in pieces), default=0))
        for piece in pieces:  # a pixel of a small object is dearer
            worth[piece.index + 1] = 1 + min(6.0, 80 * sizes.text**2 / piece.area)
        summed = worth[owner[::step, ::step]].cumsum(0).cumsum(1)
        return cls((height, width), sizes, np.pad(summed, ((1, 0), (1, 0))), step, taken)

    def best_place(self, box: Rect, chip_wh: tuple[int, int], limit: float) -> Rect | None:
        """The cheapest free spot: close to the box, on as few object pixels as possible."""
        (chip_w, chip_h), (height, width) = chip_wh, self.image_hw
        x_min, y_min, x_max, y_max = box
        gap = 2 * (self.sizes.line + self.sizes.halo)  # an outline around the object fits in
        near_x = [x_min, (x_min + x_max - chip_w) // 2, x_max - chip_w, x_min - chip_w - gap, x_max + gap]
        near_y = [y_min - chip_h - gap, y_max + gap, y_min, (y_min + y_max - chip_h) // 2, y_max - chip_h]
        grid_x = np.concatenate([near_x, np.linspace(0, width - chip_w, max(2, 2 * width // chip_w))])
        grid_y = np.concatenate([near_y, np.linspace(0, height - chip_h, max(2, 2 * height // chip_h))])
        left = np.clip(np.rint(np.tile(grid_x, len(grid_y))), 0, width - chip_w).astype(np.intp)
        top = np.clip(np.rint(np.repeat(grid_y, len(grid_x))), 0, height - chip_h).astype(np.intp)
        right, bottom = left + chip_w, top + chip_h

        free = np.ones(len(left), np.bool_)
        for x_0, y_0, x_1, y_1 in self.blocked:
            free &= (right + 2 <= x_0) | (left >= x_1 + 2) | (bottom + 2 <= y_0) | (top >= y_1 + 2)
        l_s, t_s, r_s, b_s = (edge // self.step for edge in (left, top, right, bottom))
        sums = self.covered
        hidden = (sums[b_s, r_s] - sums[t_s, r_s] - sums[b_s, l_s] + sums[t_s, l_s]) * self.step**2
        aside = np.maximum(0, np.maximum(x_min - right, left - x_max))
        away = np.maximum(0, np.maximum(y_min - bottom, top - y_max))
        cost = np.maximum(0, np.hypot(aside, away) - gap) / chip_h
        cost += 2.5 * hidden / (chip_w * chip_h)
        cost += 0.15 * (top + bottom > y_min + y_max) + 0.15 * np.abs(left + right - x_min - x_max) / chip_w
        cost[~free] = np.inf
        best = int(np.argmin(cost))
        if not free[best] or cost[best] > limit:
            return None
        return (int(left[best]), int(top[best]), int(right[best]), int(bottom[best]))


def place_chips(
    pieces: Sequence[Piece],
    badges: Sequence[str],
    labels: Sequence[str],
    scores: NDArray[np.float32],
    floor: Floor,
    numbered: Collection[int],
    boxes: Mapping[int, Rect],
) -> list[Chip]:
    """A place for each label, inside the image and clear of the others; the best score chooses first.

    It stands at the object's box in `boxes`: of a mask in several parts, that of one part. A label without
    room is left out; one whose object is `numbered` already also when it would land far away.
    """
    height, width = floor.image_hw
    text_px, pad = floor.sizes.text, floor.sizes.pad
    chip_h = 2 * text_px
    chips: list[Chip] = []
    for piece in sorted(pieces, key=lambda p: p.index):
        badge, label, score = badges[piece.index], ascii_text(labels[piece.index]), scores[piece.index]
        detail = f"{score:.2f}" if label and np.isfinite(score) else ""
        if not (badge or label):
            continue
        badge_w = _badge_width(badge, floor.sizes)
        detail_w = text_width(detail, text_px) + pad if detail else 0
        text = fit_text(label, text_px, min(width, 40 * text_px) - badge_w - detail_w - 2 * pad)
        chip_w = badge_w + (pad + text_width(text, text_px) + detail_w + pad if text else 0)
        if chip_w > width or chip_h > height:
            continue
        box = boxes[piece.index]
        rect = floor.best_place(box, (chip_w, chip_h), 4.0 if piece.index in numbered else np.inf)
        if rect is not None:
            chips.append(Chip(piece.index, box, text, detail if text else "", rect))
            floor.blocked.append(rect)
    return chips


def draw_leader(canvas: Image, chip: Chip, anchor: XY, color: Color, sizes: Sizes) -> None:
    """A line from a label to its object, when the two do not touch."""
    x_min, y_min, x_max, y_max = chip.box
    left, top, right, bottom = chip.rect
    aside = max(0, x_min - right, left - x_max)
    away = max(0, y_min - bottom, top - y_max)
    if max(aside, away) <= 2 * (sizes.line + sizes.halo):
        return
    start = (min(max(anchor[0], left), right), min(max(anchor[1], top), bottom))
    ends = np.array([start, anchor], np.float64)
    line, halo = max(1, sizes.line // 2), max(1, sizes.halo // 2)
    stroke(canvas, [ends], color, line, halo, closed=False)


def draw_chip(canvas: Image, chip: Chip, badge: str, color: Color, sizes: Sizes) -> None:
    """The label: its number on the object's color, its words on dark ground."""
    left, top, right, bottom = chip.rect
    cover = round_cover(right - left, bottom - top, sizes.text * 0.55)
    middle = (top + bottom) / 2
    paint(canvas, cover, left, top, INK, 0.86)
    badge_w = _badge_width(badge, sizes)
    paint(canvas, cover[:, :badge_w], left, top, color)
    if badge:
        x_px = left + (badge_w - text_width(badge, sizes.text)) // 2
        put_text(canvas, badge, (x_px, middle), sizes.text, readable_on(color))
    x_px = left + badge_w + sizes.pad
    put_text(canvas, chip.text, (x_px, middle), sizes.text, PAPER)
    x_px += text_width(chip.text, sizes.text) + sizes.pad
    put_text(canvas, chip.detail, (x_px, middle), sizes.text, PAPER, 0.65)
