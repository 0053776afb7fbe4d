"""Masks as polygons and as Label Studio's brush code, decoded again by other means."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from xsam.types.masks import BoolMask, MaskRle, mask_iou

pytest.importorskip("fastapi", reason="fastapi is not installed")

from xsam_server.dialects.brush import brush_code
from xsam_server.dialects.outlines import MAX_PARTS, Outlines, outlines_of

HW = (60, 90)
ROWS, COLUMNS = np.mgrid[: HW[0], : HW[1]]
MASKS = arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def disk(x: int, y: int, radius: int) -> BoolMask:
    return np.asarray((COLUMNS - x) ** 2 + (ROWS - y) ** 2 <= radius**2)


def outlined(mask: BoolMask, tolerance_px: float = 0.0) -> Outlines:
    return outlines_of(MaskRle.encode(mask), lambda _: tolerance_px)


def filled(outlines: Outlines, hw: tuple[int, int] = HW, scale: int = 16) -> BoolMask:
    """Return the pixels whose middle is inside one of the polygons."""
    canvas = np.zeros((hw[0] * scale, hw[1] * scale), np.uint8)
    for polygon in outlines.polygons_xy:
        cv2.fillPoly(canvas, [np.round(polygon * scale - 0.5).astype(np.int32)], (1,))
    return canvas[scale // 2 :: scale, scale // 2 :: scale].astype(np.bool_)


def test_a_rectangle_has_the_corners_of_its_pixels() -> None:
    mask = np.zeros(HW, np.bool_)
    mask[10:20, 30:50] = True
    (polygon,) = outlined(mask).polygons_xy
    assert {tuple(corner) for corner in polygon.tolist()} == {(30, 10), (50, 10), (50, 20), (30, 20)}
    one = np.zeros((1, 1), np.bool_)
    one[0, 0] = True
    (polygon,) = outlined(one).polygons_xy
    assert {tuple(corner) for corner in polygon.tolist()} == {(0, 0), (1, 0), (1, 1), (0, 1)}


def test_an_empty_mask_has_no_outline() -> None:
    assert outlined(np.zeros(HW, np.bool_)) == Outlines(polygons_xy=())


@pytest.mark.parametrize(("tolerance_px", "at_least"), [(0.0, 1.0), (0.75, 0.95)])
def test_a_disk_at_the_border_keeps_its_shape_with_few_corners(tolerance_px: float, at_least: float) -> None:
    mask = disk(85, 5, 20)
    outlines = outlined(mask, tolerance_px)
    assert mask_iou(filled(outlines), mask) >= at_least
    if tolerance_px:
        assert len(outlines.polygons_xy[0]) < 25


@given(MASKS)
def test_any_mask_without_holes_is_filled_exactly(mask: BoolMask) -> None:
    whole = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    cv2.floodFill(whole, None, (0, 0), (2,), flags=4)
    outside = whole[1:-1, 1:-1] == 2
    outlines = outlined(mask)
    if len(outlines.polygons_xy) <= MAX_PARTS and "left out" not in outlines.missing:
        shown = filled(outlines, mask.shape)
        assert (shown & outside).sum() == 0, "outside of the object"
        assert (mask & ~shown).sum() == 0, "a part of the object is missing"


def test_what_polygons_cannot_show_is_said() -> None:
    ring = disk(45, 30, 20) & ~disk(45, 30, 10)
    outlines = outlined(ring)
    assert "holes" in outlines.missing
    assert mask_iou(filled(outlines), disk(45, 30, 20)) == 1.0
    dots = disk(20, 30, 15)
    dots[2, 80] = True
    assert outlined(dots).missing == "1 small parts are left out"
    assert len(outlined(disk(20, 30, 12) | disk(70, 30, 12)).polygons_xy) == 2


def test_touching_corners_are_one_part() -> None:
    mask = np.eye(4, dtype=np.bool_)
    (polygon,) = outlined(mask).polygons_xy
    assert len(polygon) >= 8


def decoded(code: list[int]) -> NDArray[np.uint8]:
    """Decode thi.ng/rle-pack, as its README describes it, bit by bit."""
    bits = "".join(f"{byte:08b}" for byte in code)
    at = 0

    def read(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    size, word = read(32), read(5) + 1
    counts = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < size:
        is_run = read(1)
        count = read(counts[read(2)]) + 1
        values += [read(word)] * count if is_run else [read(word) for _ in range(count)]
    assert len(values) == size
    return np.array(values, np.uint8)


@given(MASKS)
def test_the_brush_code_has_every_pixel(mask: BoolMask) -> None:
    rgba = decoded(brush_code(MaskRle.encode(mask))).reshape(*mask.shape, 4)
    assert np.array_equal(rgba, np.repeat(mask[..., None], 4, axis=2) * np.uint8(255))


@pytest.mark.parametrize("area", [0, 1, 16384, 16385, 40000])
def test_long_runs_are_split(area: int) -> None:
    mask = np.zeros((200, 200), np.bool_)
    mask.reshape(-1)[:area] = True
    code = brush_code(MaskRle.encode(mask))
    assert np.array_equal(decoded(code).reshape(200, 200, 4)[..., 3] > 0, mask)
    assert len(code) < 60


def test_label_studio_decodes_the_brush_code() -> None:
    brush = pytest.importorskip(
        "label_studio_sdk.converter.brush", reason="label-studio-sdk is not installed"
    )
    mask = disk(45, 30, 20) & ~disk(45, 30, 10)
    rgba = brush.decode_rle(brush_code(MaskRle.encode(mask))).reshape(*HW, 4)
    assert np.array_equal(rgba[..., 3] > 0, mask)
