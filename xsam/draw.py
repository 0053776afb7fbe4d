"""Overlays for people and for vision models: numbered masks with labels, visual prompts, depth.

Every function returns a new array and never draws into the caller's. Sizes follow the image, so a
640×480 and a 4K overlay look alike. Number n is the segment with index n - 1. OpenCV is needed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from xsam.draw_ink import (
    INK,
    PAPER,
    Colour,
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
from xsam.errors import InvalidImageError
from xsam.masks import BoolMask, box_of_mask
from xsam.structures import Segments, VisualPrompt, check_rgb

Rect = tuple[int, int, int, int]  # xyxy, max exclusive
XY = tuple[float, float]

# From Okabe and Ito's colours; in this order neighbours also differ for colour-blind eyes.
PALETTE: tuple[Colour, ...] = (
    (255, 170, 20),  # orange
    (255, 140, 205),  # pink
    (165, 80, 200),  # purple
    (225, 225, 225),  # light grey
    (64, 176, 255),  # sky blue
    (0, 190, 140),  # bluish green
    (70, 100, 240),  # blue
    (240, 80, 40),  # vermillion
    (250, 235, 70),  # yellow
    (170, 110, 60),  # brown
    (180, 220, 80),  # lime
    (150, 225, 245),  # ice
)
POSITIVE: Colour = (0, 190, 140)
NEGATIVE: Colour = (240, 80, 40)


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Pixel sizes that follow the image."""

    text: int  # height of a capital letter
    line: int
    halo: int  # dark rim on each side of a line
    radius: int  # of a number disc
    pad: int

    @classmethod
    def for_image(cls, image_hw: tuple[int, int]) -> _Sizes:
        unit = float(np.clip(min(image_hw) / 480, 0.75, 20))
        text, line, halo = round(9 * unit), max(1, round(2 * unit)), max(1, round(unit))
        return cls(text=text, line=line, halo=halo, radius=round(1.05 * text), pad=round(0.5 * text))


@dataclass(frozen=True, slots=True)
class _Piece:
    """One mask cut out to its box."""

    index: int
    crop: BoolMask  # (h, w)
    left: int
    top: int
    area: int

    @classmethod
    def of(cls, index: int, mask: BoolMask) -> _Piece:
        x_min, y_min, x_max, y_max = box_of_mask(mask)
        crop = mask[y_min:y_max, x_min:x_max].copy()
        return cls(index, crop, x_min, y_min, int(crop.sum()))

    @property
    def rect(self) -> Rect:
        return (self.left, self.top, self.left + self.crop.shape[1], self.top + self.crop.shape[0])

    @property
    def window(self) -> tuple[slice, slice]:
        x_min, y_min, x_max, y_max = self.rect
        return (slice(y_min, y_max), slice(x_min, x_max))


@dataclass(frozen=True, slots=True)
class _Chip:
    index: int
    box: Rect  # of the object
    text: str
    detail: str
    rect: Rect


def draw_overlay(
    rgb: Image,
    segments: Segments,
    *,
    style: Literal["fill", "outline"] = "fill",
    title: str | None = None,
    alpha: float = 0.42,
    numbered: bool = True,
    show_scores: bool = True,
    numbers: Sequence[int] | None = None,
) -> Image:
    """The image with every segment coloured, outlined, numbered and labelled.

    Args:
        rgb: uint8 (H, W, 3).
        segments: of the same (H, W). A smaller segment is painted over a larger one.
        style: "outline" leaves the object's own colours visible.
        title: the request's words for a bar along the top, with "not found" when there are no segments.
        alpha: opacity of the fill in [0, 1].
        numbered: put a numbered disc on each object and the number on its label.
        show_scores: write the score behind the label.
        numbers: (N,) numbers to show instead of index + 1.

    Returns:
        New uint8 (H, W, 3).

    Raises:
        InvalidImageError: the image is unusable, or its size is not that of the segments.
    """
    check_rgb(rgb)
    image_hw = (rgb.shape[0], rgb.shape[1])
    if segments.image_hw != image_hw:
        raise InvalidImageError(f"the segments are for (H, W) {segments.image_hw}, the image is {image_hw}")
    if numbers is not None and len(numbers) != len(segments):
        raise ValueError(f"{len(numbers)} numbers for {len(segments)} segments")
    shown = [str(n) for n in (numbers if numbers is not None else range(1, len(segments) + 1))]
    sizes = _Sizes.for_image(image_hw)
    canvas = np.array(rgb, order="C")
    pieces = _pieces(segments)
    owner = np.zeros(image_hw, np.uint16)  # index + 1 of the segment that is on top
    for piece in pieces:
        owner[piece.window][piece.crop] = piece.index + 1
    if style == "fill":
        for piece in pieces:
            window = canvas[piece.window]
            tint = np.full_like(window, _colour(piece.index))
            blend = cv2.addWeighted(window, 1 - alpha, tint, alpha, 0)
            np.copyto(window, blend, where=(owner[piece.window] == piece.index + 1)[..., None])
    for piece in pieces:
        _outline(canvas, piece, _colour(piece.index), sizes, bold=style == "outline")

    bar_px = _draw_title(canvas, title, len(segments), sizes) if title is not None else 0
    taken: list[Rect] = [(0, 0, image_hw[1], bar_px)] if bar_px else []
    anchors: dict[int, XY] = {}
    discs: list[tuple[int, XY]] = []
    for piece in pieces[::-1]:  # small ones choose first
        anchor, depth_px = _anchor(piece, owner, taken)
        anchors[piece.index] = anchor
        if numbered and depth_px >= 0.8 * sizes.radius:
            discs.append((piece.index, anchor))
            reach = sizes.radius + sizes.halo + 1
            x_px, y_px = round(anchor[0]), round(anchor[1])
            taken.append((x_px - reach, y_px - reach, x_px + reach + 1, y_px + reach + 1))
        elif depth_px < 0.8 * sizes.radius:  # too small to carry a number: at least no label shall hide it
            x_min, y_min, x_max, y_max = piece.rect
            reach = sizes.line + sizes.halo
            taken.append((x_min - reach, y_min - reach, x_max + reach, y_max + reach))
    badges = shown if numbered else [""] * len(segments)
    floor = _Floor.of(pieces, owner, taken, sizes)
    scores = segments.scores if show_scores else np.full(len(segments), np.nan, np.float32)
    chips = _place_chips(pieces, badges, segments.labels, scores, floor, {index for index, _ in discs})
    for chip in chips:
        _draw_leader(canvas, chip, anchors[chip.index], sizes)
    for index, anchor in discs:
        _draw_disc(canvas, anchor, shown[index], _colour(index), sizes)
    for chip in chips:
        _draw_chip(canvas, chip, badges[chip.index], sizes)
    return canvas


def draw_prompts(rgb: Image, prompts: Sequence[VisualPrompt]) -> Image:
    """The image with visual prompts on it: positive ones green with "+", negative ones red with "-".

    Args:
        rgb: uint8 (H, W, 3).
        prompts: in pixels of this image; parts outside it are cut off.

    Returns:
        New uint8 (H, W, 3).
    """
    check_rgb(rgb)
    sizes = _Sizes.for_image((rgb.shape[0], rgb.shape[1]))
    canvas = np.array(rgb, order="C")
    for prompt in sorted(prompts, key=lambda p: p.mask is None):  # masks lie under the rest
        colour, sign = (POSITIVE, "+") if prompt.positive else (NEGATIVE, "-")
        if prompt.mask is not None:
            if prompt.mask.shape != canvas.shape[:2]:
                raise InvalidImageError(f"mask prompt {prompt.mask.shape} on an image {canvas.shape[:2]}")
            piece = _Piece.of(0, prompt.mask)
            window = canvas[piece.window]
            blend = cv2.addWeighted(window, 0.6, np.full_like(window, colour), 0.4, 0)
            np.copyto(window, blend, where=piece.crop[..., None])
            _outline(canvas, piece, colour, sizes)
            _draw_disc(canvas, _deepest(piece.crop, piece.left, piece.top)[0], sign, colour, sizes)
        elif prompt.box_xyxy is not None:
            x_min_f, y_min_f, x_max, y_max = prompt.box_xyxy
            corners = [(x_min_f, y_min_f), (x_max - 1, y_min_f), (x_max - 1, y_max - 1), (x_min_f, y_max - 1)]
            stroke(canvas, [np.array(corners, np.float64)], colour, sizes.line, sizes.halo, closed=True)
            _draw_disc(canvas, corners[0], sign, colour, sizes)
        elif prompt.points_xy is not None:
            points = prompt.points_xy.astype(np.float64)
            if len(points) > 1:
                stroke(canvas, [points], colour, 2 * sizes.line, sizes.halo, closed=False)
            _draw_disc(canvas, (points[0, 0], points[0, 1]), sign, colour, sizes)
    return canvas


def draw_depth(depth_m: NDArray[np.float32], *, near_m: float = 0.3, far_m: float = 3.0) -> Image:
    """Depth (H, W) in metres as colours: red = near, blue = far, dark grey = no measurement (0 or NaN)."""
    valid = np.isfinite(depth_m) & (depth_m > 0)
    scaled = (far_m - np.where(valid, depth_m, far_m)) / max(far_m - near_m, 1e-6)
    colours = cv2.applyColorMap((np.clip(scaled, 0, 1) * 255).astype(np.uint8), cv2.COLORMAP_TURBO)
    image: Image = np.ascontiguousarray(colours[..., ::-1])
    image[~valid] = (45, 45, 45)
    return image


def _colour(index: int) -> Colour:
    return PALETTE[index % len(PALETTE)]


def _pieces(segments: Segments) -> list[_Piece]:
    """The masks that have pixels, largest first."""
    pieces = [_Piece.of(index, rle.decode()) for index, rle in enumerate(segments.masks)]
    return sorted((p for p in pieces if p.area), key=lambda piece: (-piece.area, -piece.index))


def _deepest(mask: BoolMask, left: int, top: int) -> tuple[XY, float]:
    """A pixel (x, y) well inside a mask and its distance to the edge; near the middle where several are."""
    x_min, y_min, x_max, y_max = box_of_mask(mask)
    padded = np.pad(mask[y_min:y_max, x_min:x_max].astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    depth_px = float(distance.max())
    rows, columns = np.nonzero(distance >= 0.92 * depth_px)
    middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return (float(left + columns[middle]), float(top + rows[middle])), depth_px


def _anchor(piece: _Piece, owner: NDArray[np.uint16], taken: Sequence[Rect]) -> tuple[XY, float]:
    """Where the number goes: inside the visible part of the mask, off what is drawn already."""
    free = piece.crop & (owner[piece.window] == piece.index + 1)
    for x_min, y_min, x_max, y_max in taken:
        rows = slice(max(0, y_min - piece.top), max(0, y_max - piece.top))
        free[rows, max(0, x_min - piece.left) : max(0, x_max - piece.left)] = False
    mask = free if free.any() else piece.crop
    x_min, y_min, _, _ = box_of_mask(mask)
    point, depth_px = _deepest(mask, piece.left + x_min, piece.top + y_min)
    return point, depth_px if mask is free else 0.0


def _outline(canvas: Image, piece: _Piece, colour: Colour, sizes: _Sizes, *, bold: bool = False) -> None:
    padded = np.pad(piece.crop.astype(np.uint8), 1)
    found, _ = cv2.findContours(padded, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    offset = np.array([piece.left - 1, piece.top - 1])
    lines = [_smooth(c[:, 0, :].astype(np.float64)) + offset for c in found]
    line = sizes.line + (sizes.halo if bold else 0)
    stroke(canvas, lines, colour, line, sizes.halo, closed=True)


def _smooth(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """A closed pixel contour (n, 2) without its stairs; moves no point by more than about a pixel."""
    if len(points) < 16:
        return points
    padded = np.concatenate([points[-3:], points, points[:3]])
    kernel = np.array([1, 6, 15, 20, 15, 6, 1]) / 64
    return np.stack([np.convolve(padded[:, axis], kernel, "valid") for axis in (0, 1)], axis=1)


def _draw_disc(canvas: Image, centre: XY, text: str, colour: Colour, sizes: _Sizes) -> None:
    x_px, y_px = round(centre[0]), round(centre[1])
    for radius, ink in ((sizes.radius + sizes.halo, PAPER), (sizes.radius, colour)):
        side = 2 * radius + 1
        paint(canvas, round_cover(side, side, side / 2), x_px - radius, y_px - radius, ink)
    cap_px = round(sizes.text * (0.95, 0.85, 0.65)[min(len(text), 3) - 1]) if text else 0
    left = x_px - (text_width(text, cap_px) - 1) // 2
    put_text(canvas, text, (left, y_px), cap_px, readable_on(colour))


def _badge_width(badge: str, sizes: _Sizes) -> int:
    """Width of the coloured left end of a chip."""
    return max(2 * sizes.text, text_width(badge, sizes.text) + sizes.text) if badge else sizes.text


@dataclass(frozen=True, slots=True)
class _Floor:
    """Where labels may stand and what it costs."""

    image_hw: tuple[int, int]
    sizes: _Sizes
    covered: NDArray[np.float64]  # summed cost of hidden object pixels, on every `step`-th pixel
    step: int
    blocked: list[Rect]

    @classmethod
    def of(
        cls, pieces: Sequence[_Piece], owner: NDArray[np.uint16], taken: list[Rect], sizes: _Sizes
    ) -> _Floor:
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
        gap = self.sizes.line + self.sizes.halo
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
        cost = np.maximum(0, np.hypot(aside, away) - 2 * gap) / chip_h
        cost += 2.5 * hidden / (chip_w * chip_h)
        cost += 0.15 * (top + bottom > y_min + y_max) + 0.15 * np.abs(left + right - x_min - x_max) / chip_w
        cost[~free] = np.inf
        best = int(np.argmin(cost))
        if not free[best] or cost[best] > limit:
            return None
        return (int(left[best]), int(top[best]), int(right[best]), int(bottom[best]))


def _place_chips(
    pieces: Sequence[_Piece],
    badges: Sequence[str],
    labels: Sequence[str],
    scores: NDArray[np.float32],
    floor: _Floor,
    numbered: Collection[int],
) -> list[_Chip]:
    """A place for each label, inside the image and clear of the others; the best score chooses first.

    A label without room is left out; one whose object is `numbered` already also when it would land far away.
    """
    height, width = floor.image_hw
    text_px, pad = floor.sizes.text, floor.sizes.pad
    chip_h = 2 * text_px
    chips: list[_Chip] = []
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
        rect = floor.best_place(piece.rect, (chip_w, chip_h), 4.0 if piece.index in numbered else np.inf)
        if rect is not None:
            chips.append(_Chip(piece.index, piece.rect, text, detail if text else "", rect))
            floor.blocked.append(rect)
    return chips


def _draw_leader(canvas: Image, chip: _Chip, anchor: XY, sizes: _Sizes) -> None:
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
    stroke(canvas, [ends], _colour(chip.index), line, halo, closed=False)


def _draw_chip(canvas: Image, chip: _Chip, badge: str, sizes: _Sizes) -> None:
    left, top, right, bottom = chip.rect
    cover = round_cover(right - left, bottom - top, sizes.text * 0.55)
    middle = (top + bottom) / 2
    paint(canvas, cover, left, top, INK, 0.86)
    badge_w = _badge_width(badge, sizes)
    colour = _colour(chip.index)
    paint(canvas, cover[:, :badge_w], left, top, colour)
    if badge:
        x_px = left + (badge_w - text_width(badge, sizes.text)) // 2
        put_text(canvas, badge, (x_px, middle), sizes.text, readable_on(colour))
    x_px = left + badge_w + sizes.pad
    put_text(canvas, chip.text, (x_px, middle), sizes.text, PAPER)
    x_px += text_width(chip.text, sizes.text) + sizes.pad
    put_text(canvas, chip.detail, (x_px, middle), sizes.text, PAPER, 0.65)


def _draw_title(canvas: Image, title: str, count: int, sizes: _Sizes) -> int:
    """A bar along the top with the request and how it ended; its height in pixels (0 = no room)."""
    height, width = canvas.shape[:2]
    bar_px = 3 * sizes.text
    status, colour = (f"{count} found", POSITIVE) if count else ("not found", NEGATIVE)
    pill_w = text_width(status, sizes.text) + 2 * sizes.pad
    if bar_px > height // 3 or pill_w + 2 * sizes.pad > width:
        return 0
    paint(canvas, np.full((bar_px, width), 255, np.uint8), 0, 0, INK, 0.8)
    pill_h, left = round(2.1 * sizes.text), width - pill_w - sizes.pad
    top = (bar_px - pill_h) // 2
    paint(canvas, round_cover(pill_w, pill_h, pill_h / 2), left, top, colour)
    put_text(canvas, status, (left + sizes.pad, top + pill_h / 2), sizes.text, readable_on(colour))
    text = fit_text(ascii_text(title), sizes.text, left - 3 * sizes.pad)
    put_text(canvas, text, (2 * sizes.pad, bar_px / 2), sizes.text, PAPER)
    return bar_px
