"""Overlays for people and for vision models: numbered masks with labels, visual prompts, depth.

Every function returns a new array and never draws into the caller's. Sizes are proportional to the image, so
a 640×480 and a 4K overlay look alike. Number n is the segment with index n - 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from xsam.draw.labels import LabelCostMap, draw_label, draw_leader_line, place_labels
from xsam.draw.raster import (
    DARK,
    LIGHT,
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
from xsam.draw.shapes import (
    NEGATIVE,
    PALETTE,
    POSITIVE,
    XY,
    DrawnMask,
    DrawSizes,
    Rect,
    color_of,
    component_box_at,
    draw_contours,
    draw_disc,
    find_number_anchor,
    innermost_pixel,
    masks_to_draw,
    nearest_pixel,
)
from xsam.errors import InvalidImageError
from xsam.types.masks import BoolMask, MaskCrop
from xsam.types.requests import Segments, VisualPrompt, check_rgb

_MIN_AREA_IN_DISCS = 6  # an outlined object that is smaller than this many discs has its number beside it

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
    """Draw every segment on a copy of the image: colored, outlined, numbered and labeled.

    Args:
        rgb: uint8 (H, W, 3).
        segments: of the same (H, W). A smaller segment is painted over a larger one.
        style: "outline" leaves the object itself visible: the line runs around it, and the number is on
            objects that are much larger than it, and beside all others.
        title: text of the request for a bar along the top, which also shows how many segments were found.
        alpha: opacity of the fill in [0, 1].
        numbered: put a numbered disc on each object that has room for it, and the number on its label.
        show_scores: write the score after the label.
        numbers: (N,) numbers to show instead of index + 1; each number has its own color.

    Returns:
        New uint8 (H, W, 3).

    Raises:
        InvalidImageError: the image is unusable, or its size is not that of the segments.
        ValueError: `numbers` has another length than `segments`.
    """
    check_rgb(rgb)
    image_hw = (rgb.shape[0], rgb.shape[1])
    if segments.image_hw != image_hw:
        raise InvalidImageError(f"the segments are for (H, W) {segments.image_hw}, the image is {image_hw}")
    if numbers is not None and len(numbers) != len(segments):
        raise ValueError(f"{len(numbers)} numbers for {len(segments)} segments")
    numbers = range(1, len(segments) + 1) if numbers is None else numbers
    shown = [str(n) for n in numbers]
    colors = [color_of(n - 1) for n in numbers]  # a number keeps its color from image to image
    sizes = DrawSizes.for_image(image_hw)
    canvas = np.array(rgb, order="C")
    masks = masks_to_draw(segments)
    topmost = np.zeros(image_hw, np.uint16)  # index + 1 of the segment that is visible
    for mask in masks:
        topmost[mask.window][mask.crop] = mask.index + 1
    if style == "fill":
        for mask in masks:
            window = canvas[mask.window]
            tint = np.full_like(window, colors[mask.index])
            blend = cv2.addWeighted(window, 1 - alpha, tint, alpha, 0)
            np.copyto(window, blend, where=(topmost[mask.window] == mask.index + 1)[..., None])
    for mask in masks:
        draw_contours(canvas, mask, colors[mask.index], sizes, around=style == "outline")

    bar_px = _draw_title(canvas, title, len(segments), sizes) if title is not None else 0
    occupied: list[Rect] = [(0, 0, image_hw[1], bar_px)] if bar_px else []
    anchors: dict[int, XY] = {}
    discs: list[tuple[int, XY]] = []
    min_area = _MIN_AREA_IN_DISCS * math.pi * (sizes.radius + sizes.halo) ** 2 if style == "outline" else 0.0
    for mask in masks[::-1]:  # small ones choose first
        anchor, distance_px = find_number_anchor(mask, topmost, occupied)
        anchors[mask.index] = anchor
        roomy = distance_px >= 0.8 * sizes.radius and mask.area >= min_area
        if numbered and roomy:
            discs.append((mask.index, anchor))
            reach = sizes.radius + sizes.halo + 1
            x_px, y_px = round(anchor[0]), round(anchor[1])
            occupied.append((x_px - reach, y_px - reach, x_px + reach + 1, y_px + reach + 1))
        elif not roomy:  # too small to carry a number: at least keep labels off it
            x_min, y_min, x_max, y_max = mask.rect
            reach = sizes.line + sizes.halo
            occupied.append((x_min - reach, y_min - reach, x_max + reach, y_max + reach))
    badges = shown if numbered else [""] * len(segments)
    scores = segments.scores if show_scores else np.full(len(segments), np.nan, np.float32)
    labels = place_labels(
        masks,
        badges,
        segments.labels,
        scores,
        LabelCostMap.of(masks, topmost, occupied, sizes),
        {index for index, _ in discs},
        {mask.index: component_box_at(mask, anchors[mask.index]) for mask in masks},
    )
    if numbered:  # an object whose label found no room gets its number after all
        has_number = {label.index for label in labels} | {index for index, _ in discs}
        discs += [(mask.index, anchors[mask.index]) for mask in masks if mask.index not in has_number]
    with_disc = {index for index, _ in discs}
    mask_by_index = {mask.index: mask for mask in masks}
    for label in labels:
        left, top, right, bottom = label.rect
        middle = ((left + right) / 2, (top + bottom) / 2)
        inside = label.index in with_disc or style == "fill"
        end = anchors[label.index] if inside else nearest_pixel(mask_by_index[label.index], middle)
        draw_leader_line(canvas, label, end, colors[label.index], sizes)
    for index, anchor in discs:
        draw_disc(canvas, anchor, shown[index], colors[index], sizes)
    for label in labels:
        draw_label(canvas, label, badges[label.index], colors[label.index], sizes)
    return canvas


def draw_prompts(rgb: Image, prompts: Sequence[VisualPrompt]) -> Image:
    """Draw visual prompts on a copy of the image: positive ones green with "+", negative ones red with "-".

    Args:
        rgb: uint8 (H, W, 3).
        prompts: in pixels of this image; parts outside it are cut off.

    Returns:
        New uint8 (H, W, 3).

    Raises:
        InvalidImageError: the image is unusable, or the size of a mask prompt is not that of the image.
    """
    check_rgb(rgb)
    sizes = DrawSizes.for_image((rgb.shape[0], rgb.shape[1]))
    canvas = np.array(rgb, order="C")
    for prompt in sorted(prompts, key=lambda p: p.mask is None):  # masks go below the rest
        color, sign = (POSITIVE, "+") if prompt.positive else (NEGATIVE, "-")
        if prompt.mask is not None:
            if prompt.mask.shape != canvas.shape[:2]:
                raise InvalidImageError(f"mask prompt {prompt.mask.shape} on an image {canvas.shape[:2]}")
            drawn = DrawnMask.of(0, MaskCrop.of(prompt.mask))
            window = canvas[drawn.window]
            blend = cv2.addWeighted(window, 0.6, np.full_like(window, color), 0.4, 0)
            np.copyto(window, blend, where=drawn.crop[..., None])
            draw_contours(canvas, drawn, color, sizes)
            draw_disc(canvas, innermost_pixel(drawn.crop, drawn.left, drawn.top)[0], sign, color, sizes)
        elif prompt.box_xyxy is not None:
            x_min_f, y_min_f, x_max, y_max = prompt.box_xyxy
            corners = [(x_min_f, y_min_f), (x_max - 1, y_min_f), (x_max - 1, y_max - 1), (x_min_f, y_max - 1)]
            draw_polylines(
                canvas, [np.array(corners, np.float64)], color, sizes.line, sizes.halo, closed=True
            )
            draw_disc(canvas, corners[0], sign, color, sizes)
        elif prompt.points_xy is not None:
            points = prompt.points_xy.astype(np.float64)
            if len(points) > 1:
                draw_polylines(canvas, [points], color, 2 * sizes.line, sizes.halo, closed=False)
            draw_disc(canvas, (points[0, 0], points[0, 1]), sign, color, sizes)
    return canvas


def draw_depth(depth_m: NDArray[np.float32], *, near_m: float = 0.3, far_m: float = 3.0) -> Image:
    """Color a depth image (H, W) in meters: red = near, blue = far, dark gray = no measurement."""
    valid = np.isfinite(depth_m) & (depth_m > 0)
    scaled = (far_m - np.where(valid, depth_m, far_m)) / max(far_m - near_m, 1e-6)
    colors = cv2.applyColorMap((np.clip(scaled, 0, 1) * 255).astype(np.uint8), cv2.COLORMAP_TURBO)
    image: Image = np.ascontiguousarray(colors[..., ::-1])
    image[~valid] = (45, 45, 45)
    return image


def draw_outline(rgb: Image, mask: BoolMask) -> Image:
    """Draw the thin outline of one mask on a copy of the image, without number or label.

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
        sizes = DrawSizes.for_image((rgb.shape[0], rgb.shape[1]))
        draw_contours(canvas, DrawnMask.of(0, MaskCrop.of(mask)), color_of(0), sizes)
    return canvas


def _draw_title(canvas: Image, title: str, count: int, sizes: DrawSizes) -> int:
    """Draw a bar along the top with the request and the number of results.

    Returns:
        The height of the bar in pixels; 0 when the image has no room for it.
    """
    height, width = canvas.shape[:2]
    bar_px = 3 * sizes.text
    status, color = (f"{count} found", POSITIVE) if count else ("not found", NEGATIVE)
    pill_w = text_width(status, sizes.text) + 2 * sizes.pad
    if bar_px > height // 3 or pill_w + 2 * sizes.pad > width:
        return 0
    blend_color(canvas, np.full((bar_px, width), 255, np.uint8), 0, 0, DARK, 0.8)
    pill_h, left = round(2.1 * sizes.text), width - pill_w - sizes.pad
    top = (bar_px - pill_h) // 2
    blend_color(canvas, rounded_rect_coverage(pill_w, pill_h, pill_h / 2), left, top, color)
    draw_text(canvas, status, (left + sizes.pad, top + pill_h / 2), sizes.text, contrasting_color(color))
    text = fit_text(ascii_text(title), sizes.text, left - 3 * sizes.pad)
    draw_text(canvas, text, (2 * sizes.pad, bar_px / 2), sizes.text, LIGHT)
    return bar_px
