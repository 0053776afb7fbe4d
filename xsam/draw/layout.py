"""Layout of an overlay: where title, numbers and labels go, decided before anything is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from xsam.draw.labels import LabelBox, LabelCostMap, place_labels
from xsam.draw.raster import Color, ascii_text, fit_text, text_width
from xsam.draw.shapes import (
    DOUBTFUL,
    NEGATIVE,
    POSITIVE,
    XY,
    DrawnMask,
    DrawSizes,
    Rect,
    component_box_at,
    find_number_anchor,
    masks_to_draw,
    nearest_pixel,
)
from xsam.types.segments import Segments

_MIN_AREA_IN_DISCS = 6  # an outlined object that is smaller than this many discs has its number beside it

Style = Literal["fill", "outline"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TitleBar:
    """Bar along the top with the request and the number of results."""

    text: str
    status: str
    status_width_px: int
    color: Color
    height_px: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberDisc:
    """Disc with the number of a segment, on its object."""

    index: int  # of the segment
    text: str
    center: XY


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlayLayout:
    """Everything on an overlay, in pixels of the image."""

    sizes: DrawSizes
    masks: tuple[DrawnMask, ...]  # largest first
    topmost: NDArray[np.uint16]  # (H, W) index + 1 of the segment that is visible at each pixel, 0 = none
    title: TitleBar | None
    discs: tuple[NumberDisc, ...]
    labels: tuple[LabelBox, ...]
    leader_ends: Mapping[int, XY]  # index of a labeled segment → where its leader line touches the object


def lay_out_overlay(
    segments: Segments,
    *,
    style: Style = "fill",
    title: str | None = None,
    numbered: bool = True,
    show_scores: bool = True,
    numbers: Sequence[int] | None = None,
) -> OverlayLayout:
    """Decide what `draw_overlay` draws where; the arguments are the same.

    Raises:
        ValueError: `numbers` has another length than `segments`.
    """
    if numbers is not None and len(numbers) != len(segments):
        raise ValueError(f"{len(numbers)} numbers for {len(segments)} segments")
    texts = [str(n) for n in (range(1, len(segments) + 1) if numbers is None else numbers)]
    sizes = DrawSizes.for_image(segments.image_hw)
    masks = masks_to_draw(segments)
    topmost = np.zeros(segments.image_hw, np.uint16)
    for mask in masks:
        topmost[mask.crop.window][mask.crop.pixels] = mask.index + 1
    bar = None if title is None else _lay_out_title(title, segments, sizes)
    occupied: list[Rect] = [(0, 0, segments.image_hw[1], bar.height_px)] if bar else []

    anchors: dict[int, XY] = {}
    disc_centers: dict[int, XY] = {}
    min_area = _MIN_AREA_IN_DISCS * math.pi * (sizes.radius + sizes.halo) ** 2 if style == "outline" else 0.0
    for mask in masks[::-1]:  # small ones choose first
        anchor, distance_px = find_number_anchor(mask, topmost, occupied)
        anchors[mask.index] = anchor
        roomy = distance_px >= 0.8 * sizes.radius and mask.area >= min_area
        if numbered and roomy:
            disc_centers[mask.index] = anchor
            reach = sizes.radius + sizes.halo + 1
            x_px, y_px = round(anchor[0]), round(anchor[1])
            occupied.append((x_px - reach, y_px - reach, x_px + reach + 1, y_px + reach + 1))
        elif not roomy:  # too small to carry a number: at least keep labels off it
            x_min, y_min, x_max, y_max = mask.crop.box_xyxy
            reach = sizes.line + sizes.halo
            occupied.append((x_min - reach, y_min - reach, x_max + reach, y_max + reach))

    labels = place_labels(
        masks,
        texts if numbered else [""] * len(segments),
        [
            f"{name} ?" if doubt else name
            for name, doubt in zip(segments.labels, segments.doubts, strict=True)
        ],
        segments.scores if show_scores else np.full(len(segments), np.nan, np.float32),
        LabelCostMap.of(masks, topmost, occupied, sizes),
        disc_centers.keys(),
        {mask.index: component_box_at(mask, anchors[mask.index]) for mask in masks},
    )
    leader_ends: dict[int, XY] = {}
    mask_by_index = {mask.index: mask for mask in masks}
    for label in labels:
        left, top, right, bottom = label.rect
        middle = ((left + right) / 2, (top + bottom) / 2)
        ends_inside = label.index in disc_centers or style == "fill"
        leader_ends[label.index] = (
            anchors[label.index] if ends_inside else nearest_pixel(mask_by_index[label.index], middle)
        )
    if numbered:  # an object whose label found no room gets its number after all
        without_number = anchors.keys() - disc_centers.keys() - {label.index for label in labels}
        disc_centers |= {m.index: anchors[m.index] for m in masks if m.index in without_number}
    return OverlayLayout(
        sizes=sizes,
        masks=tuple(masks),
        topmost=topmost,
        title=bar,
        discs=tuple(
            NumberDisc(index=index, text=texts[index], center=center)
            for index, center in disc_centers.items()
        ),
        labels=tuple(labels),
        leader_ends=leader_ends,
    )


def _lay_out_title(title: str, segments: Segments, sizes: DrawSizes) -> TitleBar | None:
    """Shorten the title to the width of the image; return None if the image has no room for a bar."""
    height, width = segments.image_hw
    bar_px = 3 * sizes.text
    unsure = sum(map(bool, segments.doubts))
    sure = len(segments) - unsure
    counted = [f"{sure} found"] * bool(sure) + [f"{unsure} unsure"] * bool(unsure)
    status, color = ", ".join(counted) or "not found", POSITIVE if sure else DOUBTFUL if unsure else NEGATIVE
    status_px = text_width(status, sizes.text) + 2 * sizes.pad
    if bar_px > height // 3 or status_px + 2 * sizes.pad > width:
        return None
    text = fit_text(ascii_text(title), sizes.text, width - status_px - 4 * sizes.pad)
    return TitleBar(text=text, status=status, status_width_px=status_px, color=color, height_px=bar_px)
