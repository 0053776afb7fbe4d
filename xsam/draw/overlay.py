"""Overlays for people and for vision models: numbered masks with labels, visual prompts, depth.

Every function returns a new array and never draws into the caller's. Sizes are proportional to the image, so
a 640×480 and a 4K overlay look alike. Number n is the segment with index n - 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from xsam.draw.labels import draw_label, draw_leader_line
from xsam.draw.layout import Style, TitleBar, lay_out_overlay
from xsam.draw.raster import (
    DARK,
    LIGHT,
    Image,
    blend_color,
    contrasting_color,
    draw_polylines,
    draw_text,
    rounded_rect_coverage,
)
from xsam.draw.shapes import (
    NEGATIVE,
    PALETTE,
    POSITIVE,
    DrawnMask,
    DrawSizes,
    color_of,
    draw_contours,
    draw_disc,
    innermost_pixel,
)
from xsam.errors import InvalidImageError
from xsam.types.masks import BoolMask, MaskCrop
from xsam.types.requests import Segments, VisualPrompt, check_rgb

__all__ = ["NEGATIVE", "PALETTE", "POSITIVE", "draw_depth", "draw_outline", "draw_overlay", "draw_prompts"]


def draw_overlay(
    rgb: Image,
    segments: Segments,
    *,
    style: Style = "fill",
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
        title: text of the request for a bar along the top, which also shows how many segments were found, and
            how many of them are in doubt. Their labels have a question mark.
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
    layout = lay_out_overlay(
        segments, style=style, title=title, numbered=numbered, show_scores=show_scores, numbers=numbers
    )
    # A number keeps its color from image to image.
    colors = [color_of(n - 1) for n in (range(1, len(segments) + 1) if numbers is None else numbers)]
    canvas = np.array(rgb, order="C")
    if style == "fill":
        for mask in layout.masks:
            window = canvas[mask.crop.window]
            blend = cv2.addWeighted(window, 1 - alpha, np.full_like(window, colors[mask.index]), alpha, 0)
            np.copyto(window, blend, where=(layout.topmost[mask.crop.window] == mask.index + 1)[..., None])
    for mask in layout.masks:
        draw_contours(canvas, mask, colors[mask.index], layout.sizes, around=style == "outline")
    if layout.title is not None:
        _draw_title(canvas, layout.title, layout.sizes)
    for label in layout.labels:
        end = layout.leader_ends[label.index]
        draw_leader_line(canvas, label, end, colors[label.index], layout.sizes)
    for disc in layout.discs:
        draw_disc(canvas, disc.center, disc.text, colors[disc.index], layout.sizes)
    for label in layout.labels:
        draw_label(canvas, label, colors[label.index], layout.sizes)
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
            crop = MaskCrop.of(prompt.mask)
            window = canvas[crop.window]
            blend = cv2.addWeighted(window, 0.6, np.full_like(window, color), 0.4, 0)
            np.copyto(window, blend, where=crop.pixels[..., None])
            draw_contours(canvas, DrawnMask.of(0, crop), color, sizes)
            draw_disc(
                canvas,
                innermost_pixel(crop.pixels, crop.left, crop.top)[0],
                sign,
                color,
                sizes,
            )
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


def _draw_title(canvas: Image, title: TitleBar, sizes: DrawSizes) -> None:
    width = canvas.shape[1]
    blend_color(canvas, np.full((title.height_px, width), 255, np.uint8), 0, 0, DARK, 0.8)
    pill_w, pill_h = title.status_width_px, round(2.1 * sizes.text)
    left, top = width - pill_w - sizes.pad, (title.height_px - pill_h) // 2
    blend_color(canvas, rounded_rect_coverage(pill_w, pill_h, pill_h / 2), left, top, title.color)
    middle = top + pill_h / 2
    draw_text(canvas, title.status, (left + sizes.pad, middle), sizes.text, contrasting_color(title.color))
    draw_text(canvas, title.text, (2 * sizes.pad, title.height_px / 2), sizes.text, LIGHT)
