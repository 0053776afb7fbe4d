"""Overlays for people and for vision models: numbered masks with labels, visual prompts, depth.

Every function returns a new array and never draws into the caller's. Sizes follow the image, so a
640×480 and a 4K overlay look alike. Number n is the segment with index n - 1. OpenCV is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from xsam.draw.labels import Floor, draw_chip, draw_leader, place_chips
from xsam.draw.raster import (
    INK,
    PAPER,
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
from xsam.draw.shapes import (
    NEGATIVE,
    PALETTE,
    POSITIVE,
    XY,
    Piece,
    Rect,
    Sizes,
    anchor_of,
    color_of,
    deepest,
    draw_disc,
    nearest_pixel,
    outline,
    part_at,
    pieces_of,
)
from xsam.errors import InvalidImageError
from xsam.types.masks import BoolMask, MaskCrop
from xsam.types.requests import Segments, VisualPrompt, check_rgb

_DISC_SHARE = 6  # an outlined object that is smaller than so many number discs has its number beside it

__all__ = ["NEGATIVE", "PALETTE", "POSITIVE", "draw_depth", "draw_outline", "draw_overlay", "draw_prompts"]


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
    """The image with every segment colored, outlined, numbered and labeled.

    Args:
        rgb: uint8 (H, W, 3).
        segments: of the same (H, W). A smaller segment is painted over a larger one.
        style: "outline" leaves the object itself visible: the line runs around it, and the number stands on
            objects that are much larger than it, else beside them.
        title: the request's words for a bar along the top, with "not found" when there are no segments.
        alpha: opacity of the fill in [0, 1].
        numbered: put a numbered disc on each object that has room for it, and the number on its label.
        show_scores: write the score behind the label.
        numbers: (N,) numbers to show instead of index + 1; each has a color of its own.

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
    numbers = range(1, len(segments) + 1) if numbers is None else numbers
    shown = [str(n) for n in numbers]
    colors = [color_of(n - 1) for n in numbers]  # a number keeps its color from picture to picture
    sizes = Sizes.for_image(image_hw)
    canvas = np.array(rgb, order="C")
    pieces = pieces_of(segments)
    owner = np.zeros(image_hw, np.uint16)  # index + 1 of the segment that is on top
    for piece in pieces:
        owner[piece.window][piece.crop] = piece.index + 1
    if style == "fill":
        for piece in pieces:
            window = canvas[piece.window]
            tint = np.full_like(window, colors[piece.index])
            blend = cv2.addWeighted(window, 1 - alpha, tint, alpha, 0)
            np.copyto(window, blend, where=(owner[piece.window] == piece.index + 1)[..., None])
    for piece in pieces:
        outline(canvas, piece, colors[piece.index], sizes, around=style == "outline")

    bar_px = draw_title(canvas, title, len(segments), sizes) if title is not None else 0
    taken: list[Rect] = [(0, 0, image_hw[1], bar_px)] if bar_px else []
    anchors: dict[int, XY] = {}
    discs: list[tuple[int, XY]] = []
    least_area = _DISC_SHARE * math.pi * (sizes.radius + sizes.halo) ** 2 if style == "outline" else 0.0
    for piece in pieces[::-1]:  # small ones choose first
        anchor, depth_px = anchor_of(piece, owner, taken)
        anchors[piece.index] = anchor
        roomy = depth_px >= 0.8 * sizes.radius and piece.area >= least_area
        if numbered and roomy:
            discs.append((piece.index, anchor))
            reach = sizes.radius + sizes.halo + 1
            x_px, y_px = round(anchor[0]), round(anchor[1])
            taken.append((x_px - reach, y_px - reach, x_px + reach + 1, y_px + reach + 1))
        elif not roomy:  # too small to carry a number: at least no label shall hide it
            x_min, y_min, x_max, y_max = piece.rect
            reach = sizes.line + sizes.halo
            taken.append((x_min - reach, y_min - reach, x_max + reach, y_max + reach))
    badges = shown if numbered else [""] * len(segments)
    floor = Floor.of(pieces, owner, taken, sizes)
    scores = segments.scores if show_scores else np.full(len(segments), np.nan, np.float32)
    boxes = {piece.index: part_at(piece, anchors[piece.index]) for piece in pieces}
    chips = place_chips(pieces, badges, segments.labels, scores, floor, {index for index, _ in discs}, boxes)
    if numbered:  # where no label found room, the number goes on the object after all
        known = {chip.index for chip in chips} | {index for index, _ in discs}
        discs += [(p.index, anchors[p.index]) for p in pieces if p.index not in known]
    numbers_on = {index for index, _ in discs}
    by_index = {piece.index: piece for piece in pieces}
    for chip in chips:
        left, top, right, bottom = chip.rect
        middle = ((left + right) / 2, (top + bottom) / 2)
        inside = chip.index in numbers_on or style == "fill"
        end = anchors[chip.index] if inside else nearest_pixel(by_index[chip.index], middle)
        draw_leader(canvas, chip, end, colors[chip.index], sizes)
    for index, anchor in discs:
        draw_disc(canvas, anchor, shown[index], colors[index], sizes)
    for chip in chips:
        draw_chip(canvas, chip, badges[chip.index], colors[chip.index], sizes)
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
    sizes = Sizes.for_image((rgb.shape[0], rgb.shape[1]))
    canvas = np.array(rgb, order="C")
    for prompt in sorted(prompts, key=lambda p: p.mask is None):  # masks lie under the rest
        color, sign = (POSITIVE, "+") if prompt.positive else (NEGATIVE, "-")
        if prompt.mask is not None:
            if prompt.mask.shape != canvas.shape[:2]:
                raise InvalidImageError(f"mask prompt {prompt.mask.shape} on an image {canvas.shape[:2]}")
            piece = Piece.of(0, MaskCrop.of(prompt.mask))
            window = canvas[piece.window]
            blend = cv2.addWeighted(window, 0.6, np.full_like(window, color), 0.4, 0)
            np.copyto(window, blend, where=piece.crop[..., None])
            outline(canvas, piece, color, sizes)
            draw_disc(canvas, deepest(piece.crop, piece.left, piece.top)[0], sign, color, sizes)
        elif prompt.box_xyxy is not None:
            x_min_f, y_min_f, x_max, y_max = prompt.box_xyxy
            corners = [(x_min_f, y_min_f), (x_max - 1, y_min_f), (x_max - 1, y_max - 1), (x_min_f, y_max - 1)]
            stroke(canvas, [np.array(corners, np.float64)], color, sizes.line, sizes.halo, closed=True)
            draw_disc(canvas, corners[0], sign, color, sizes)
        elif prompt.points_xy is not None:
            points = prompt.points_xy.astype(np.float64)
            if len(points) > 1:
                stroke(canvas, [points], color, 2 * sizes.line, sizes.halo, closed=False)
            draw_disc(canvas, (points[0, 0], points[0, 1]), sign, color, sizes)
    return canvas


def draw_depth(depth_m: NDArray[np.float32], *, near_m: float = 0.3, far_m: float = 3.0) -> Image:
    """Depth (H, W) in meters as colors: red = near, blue = far, dark gray = no measurement (0 or NaN)."""
    valid = np.isfinite(depth_m) & (depth_m > 0)
    scaled = (far_m - np.where(valid, depth_m, far_m)) / max(far_m - near_m, 1e-6)
    colors = cv2.applyColorMap((np.clip(scaled, 0, 1) * 255).astype(np.uint8), cv2.COLORMAP_TURBO)
    image: Image = np.ascontiguousarray(colors[..., ::-1])
    image[~valid] = (45, 45, 45)
    return image


def draw_outline(rgb: Image, mask: BoolMask) -> Image:
    """The image with the thin outline of one mask, without number or label.

    Args:
        rgb: uint8 (H, W, 3).
        mask: bool (H, W).

    Returns:
        New uint8 (H, W, 3).

    Raises:
        InvalidImageError: the image is unusable, or its size is not that of the mask.
    """
    check_rgb(rgb)
    if mask.shape != rgb.shape[:2]:
        raise InvalidImageError(f"the mask is {mask.shape}, the image {rgb.shape[:2]}")
    canvas = np.array(rgb, order="C")
    if mask.any():
        outline(
            canvas, Piece.of(0, MaskCrop.of(mask)), color_of(0), Sizes.for_image((rgb.shape[0], rgb.shape[1]))
        )
    return canvas


def draw_title(canvas: Image, title: str, count: int, sizes: Sizes) -> int:
    """A bar along the top with the request and how it ended; its height in pixels (0 = no room)."""
    height, width = canvas.shape[:2]
    bar_px = 3 * sizes.text
    status, color = (f"{count} found", POSITIVE) if count else ("not found", NEGATIVE)
    pill_w = text_width(status, sizes.text) + 2 * sizes.pad
    if bar_px > height // 3 or pill_w + 2 * sizes.pad > width:
        return 0
    paint(canvas, np.full((bar_px, width), 255, np.uint8), 0, 0, INK, 0.8)
    pill_h, left = round(2.1 * sizes.text), width - pill_w - sizes.pad
    top = (bar_px - pill_h) // 2
    paint(canvas, round_cover(pill_w, pill_h, pill_h / 2), left, top, color)
    put_text(canvas, status, (left + sizes.pad, top + pill_h / 2), sizes.text, readable_on(color))
    text = fit_text(ascii_text(title), sizes.text, left - 3 * sizes.pad)
    put_text(canvas, text, (2 * sizes.pad, bar_px / 2), sizes.text, PAPER)
    return bar_px
