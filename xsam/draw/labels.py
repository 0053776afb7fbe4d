"""Labels of an overlay: positioned inside the image, apart from each other and clear of small objects."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xsam.draw.raster import (
    DARK,
    LIGHT,
    Color,
    Image,
    ascii_text,
    blend_color,
    contrasting_color,
    draw_polylines,
    draw_text,
    fit_text,
    rounded_rect_coverage,
    text_width,
)
from xsam.draw.shapes import XY, DrawnMask, DrawSizes, Rect

_MAX_COST_OF_NUMBERED = 4.0  # an object with a number on it needs no label far away


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelBox:
    """The label of one segment and its position."""

    index: int  # of the segment
    object_rect: Rect  # what it labels
    badge: str  # the number at its left end; empty = not shown
    text: str
    score: str  # as written; empty = not shown
    rect: Rect


def _badge_width(badge: str, sizes: DrawSizes) -> int:
    """Return the width of the colored left end of a label, which holds the number."""
    return max(2 * sizes.text, text_width(badge, sizes.text) + sizes.text) if badge else sizes.text


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCostMap:
    """Where labels may go, and what each position costs in hidden object pixels."""

    image_hw: tuple[int, int]
    sizes: DrawSizes
    hidden_cost: NDArray[np.float64]  # summed-area table over every `step`-th pixel
    step: int
    occupied: list[Rect]  # no label may overlap these

    @classmethod
    def of(
        cls,
        masks: Sequence[DrawnMask],
        topmost: NDArray[np.uint16],
        occupied: Sequence[Rect],
        sizes: DrawSizes,
    ) -> LabelCostMap:
        """Build the map of an image.

        Args:
            masks: all masks.
            topmost: (H, W) index + 1 of the segment that is visible at each pixel, 0 = none.
            occupied: boxes that no label may overlap.
            sizes: of text and lines.
        """
        height, width = topmost.shape
        step = max(1, max(height, width) // 400)
        pixel_cost = np.zeros(1 + max((mask.index + 1 for mask in masks), default=0))
        for mask in masks:  # a pixel of a small object costs more
            pixel_cost[mask.index + 1] = 1 + min(6.0, 80 * sizes.text**2 / mask.area)
        summed = pixel_cost[topmost[::step, ::step]].cumsum(0).cumsum(1)
        return cls(
            image_hw=(height, width),
            sizes=sizes,
            hidden_cost=np.pad(summed, ((1, 0), (1, 0))),
            step=step,
            occupied=list(occupied),
        )

    def best_rect(self, object_rect: Rect, label_wh: tuple[int, int], max_cost: float) -> Rect | None:
        """Find the cheapest free position: close to the object, over as few object pixels as possible.

        Returns:
            The box of the label, or None when none is free or the cheapest costs more than `max_cost`.
        """
        (label_w, label_h), (height, width) = label_wh, self.image_hw
        x_min, y_min, x_max, y_max = object_rect
        gap = 2 * (self.sizes.line + self.sizes.halo)  # leaves room for an outline around the object
        near_x = [x_min, (x_min + x_max - label_w) // 2, x_max - label_w, x_min - label_w - gap, x_max + gap]
        near_y = [y_min - label_h - gap, y_max + gap, y_min, (y_min + y_max - label_h) // 2, y_max - label_h]
        grid_x = np.concatenate([near_x, np.linspace(0, width - label_w, max(2, 2 * width // label_w))])
        grid_y = np.concatenate([near_y, np.linspace(0, height - label_h, max(2, 2 * height // label_h))])
        left = np.clip(np.rint(np.tile(grid_x, len(grid_y))), 0, width - label_w).astype(np.intp)
        top = np.clip(np.rint(np.repeat(grid_y, len(grid_x))), 0, height - label_h).astype(np.intp)
        right, bottom = left + label_w, top + label_h

        free = np.ones(len(left), np.bool_)
        for x_0, y_0, x_1, y_1 in self.occupied:
            free &= (right + 2 <= x_0) | (left >= x_1 + 2) | (bottom + 2 <= y_0) | (top >= y_1 + 2)
        l_s, t_s, r_s, b_s = (edge // self.step for edge in (left, top, right, bottom))
        sums = self.hidden_cost
        hidden = (sums[b_s, r_s] - sums[t_s, r_s] - sums[b_s, l_s] + sums[t_s, l_s]) * self.step**2
        apart_x = np.maximum(0, np.maximum(x_min - right, left - x_max))
        apart_y = np.maximum(0, np.maximum(y_min - bottom, top - y_max))
        cost = np.maximum(0, np.hypot(apart_x, apart_y) - gap) / label_h
        cost += 2.5 * hidden / (label_w * label_h)
        cost += 0.15 * (top + bottom > y_min + y_max) + 0.15 * np.abs(left + right - x_min - x_max) / label_w
        cost[~free] = np.inf
        best = int(np.argmin(cost))
        if not free[best] or cost[best] > max_cost:
            return None
        return (int(left[best]), int(top[best]), int(right[best]), int(bottom[best]))


def place_labels(
    masks: Sequence[DrawnMask],
    badges: Sequence[str],
    labels: Sequence[str],
    scores: NDArray[np.float32],
    cost_map: LabelCostMap,
    numbered: Collection[int],
    object_rects: Mapping[int, Rect],
) -> list[LabelBox]:
    """Position the labels inside the image and clear of each other; the best score chooses first.

    A label without room is left out. So is a label that would land far from an object with a number on it.

    Args:
        masks: of the segments to label.
        badges: (N,) number to write on each segment's label, or "".
        labels: (N,) texts.
        scores: (N,) scores; NaN = not shown.
        cost_map: where labels may go; the labels are added to its occupied boxes.
        numbered: indices of segments that have a number on the object itself.
        object_rects: segment index → box that the label goes to, that of one component of the mask.
    """
    height, width = cost_map.image_hw
    text_px, pad = cost_map.sizes.text, cost_map.sizes.pad
    label_h = 2 * text_px
    placed: list[LabelBox] = []
    for mask in sorted(masks, key=lambda m: m.index):
        badge, label, score = badges[mask.index], ascii_text(labels[mask.index]), scores[mask.index]
        score_text = f"{score:.2f}" if label and np.isfinite(score) else ""
        if not (badge or label):
            continue
        badge_w = _badge_width(badge, cost_map.sizes)
        score_w = text_width(score_text, text_px) + pad if score_text else 0
        text = fit_text(label, text_px, min(width, 40 * text_px) - badge_w - score_w - 2 * pad)
        label_w = badge_w + (pad + text_width(text, text_px) + score_w + pad if text else 0)
        if label_w > width or label_h > height:
            continue
        object_rect = object_rects[mask.index]
        max_cost = _MAX_COST_OF_NUMBERED if mask.index in numbered else np.inf
        rect = cost_map.best_rect(object_rect, (label_w, label_h), max_cost)
        if rect is not None:
            placed.append(
                LabelBox(
                    index=mask.index,
                    object_rect=object_rect,
                    badge=badge,
                    text=text,
                    score=score_text if text else "",
                    rect=rect,
                )
            )
            cost_map.occupied.append(rect)
    return placed


def draw_leader_line(canvas: Image, label: LabelBox, anchor: XY, color: Color, sizes: DrawSizes) -> None:
    """Draw a line from a label to its object, unless the two are side by side."""
    x_min, y_min, x_max, y_max = label.object_rect
    left, top, right, bottom = label.rect
    apart_x = max(0, x_min - right, left - x_max)
    apart_y = max(0, y_min - bottom, top - y_max)
    if max(apart_x, apart_y) <= 2 * (sizes.line + sizes.halo):
        return
    start = (min(max(anchor[0], left), right), min(max(anchor[1], top), bottom))
    ends = np.array([start, anchor], np.float64)
    line, halo = max(1, sizes.line // 2), max(1, sizes.halo // 2)
    draw_polylines(canvas, [ends], color, line, halo, closed=False)


def draw_label(canvas: Image, label: LabelBox, color: Color, sizes: DrawSizes) -> None:
    """Draw a label: its number on the object's color, its text on a dark background."""
    left, top, right, bottom = label.rect
    coverage = rounded_rect_coverage(right - left, bottom - top, sizes.text * 0.55)
    middle = (top + bottom) / 2
    blend_color(canvas, coverage, left, top, DARK, 0.86)
    badge_w = _badge_width(label.badge, sizes)
    blend_color(canvas, coverage[:, :badge_w], left, top, color)
    if label.badge:
        x_px = left + (badge_w - text_width(label.badge, sizes.text)) // 2
        draw_text(canvas, label.badge, (x_px, middle), sizes.text, contrasting_color(color))
    x_px = left + badge_w + sizes.pad
    draw_text(canvas, label.text, (x_px, middle), sizes.text, LIGHT)
    x_px += text_width(label.text, sizes.text) + sizes.pad
    draw_text(canvas, label.score, (x_px, middle), sizes.text, LIGHT, 0.65)
