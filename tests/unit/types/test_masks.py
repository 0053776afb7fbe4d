"""Masks against COCO run-length codes, and their geometry against pixel counting."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from xsam import InvalidImageError, MaskRle
from xsam.types.masks import BoolMask, box_of_mask, centroid_of_mask, mask_iou

FEW = settings(max_examples=40)
SIZES = st.tuples(st.integers(1, 12), st.integers(1, 12))


def _masks_of(size: tuple[int, int]) -> st.SearchStrategy[BoolMask]:
    # Odd bytes are object pixels; several times faster than drawing pixel by pixel.
    pixels = st.binary(min_size=size[0] * size[1], max_size=size[0] * size[1])
    return pixels.map(lambda data: (np.frombuffer(data, np.uint8) & 1).astype(np.bool_).reshape(size))


MASKS = SIZES.flatmap(_masks_of)
PAIRS = SIZES.flatmap(lambda size: st.tuples(_masks_of(size), _masks_of(size)))


def _runs(counts: bytes) -> list[int]:
    """Decode COCO's compressed counts as in `maskApi.c`: 5 bits per byte, deltas from the third on."""
    runs: list[int] = []
    value, shift = 0, 0
    for byte in counts:
        bits = byte - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value, shift = 0, 0
    return runs


def _painted(rle: MaskRle) -> BoolMask:
    """Paint alternating runs of background and object, down the columns."""
    runs = _runs(rle.counts)
    flat: NDArray[np.bool_] = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(rle.width, rle.height).T


@FEW
@given(MASKS)
def test_masks_survive_the_code(mask: BoolMask) -> None:
    rle = MaskRle.encode(mask)
    assert (rle.height, rle.width) == mask.shape
    as_it_is = coco_mask.decode({"size": [rle.height, rle.width], "counts": rle.counts})
    for decoded in (rle.decode(), _painted(rle), as_it_is.astype(np.bool_)):
        assert decoded.dtype == np.bool_
        assert np.array_equal(decoded, mask)
    assert rle.area == sum(mask.ravel().tolist())


def test_a_view_with_other_strides_is_encoded_right() -> None:
    base = np.random.default_rng(0).random((9, 14)) < 0.4
    for view in (base.T, base[::-1, ::2], np.asfortranarray(base)):
        np.testing.assert_array_equal(MaskRle.encode(view).decode(), view)


@pytest.mark.parametrize(
    "mask",
    [
        np.zeros((3, 4), np.uint8),
        np.zeros((3, 4), np.float32),
        np.zeros((1, 3, 4), np.bool_),
        np.zeros(4, np.bool_),
        np.zeros((0, 4), np.bool_),
        np.zeros((3, 0), np.bool_),
    ],
)
def test_only_bool_pictures_are_masks(mask: BoolMask) -> None:
    with pytest.raises(InvalidImageError):
        MaskRle.encode(mask)


@pytest.mark.parametrize("size", [(0, 4), (3, 0), (-3, 4)])
def test_a_code_needs_a_size(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidImageError):
        MaskRle(height=size[0], width=size[1], counts=b"")


@FEW
@given(MASKS)
def test_boxes_are_tight(mask: BoolMask) -> None:
    height, width = mask.shape
    pixels = [(x, y) for y in range(height) for x in range(width) if mask[y, x]]
    if not pixels:
        assert box_of_mask(mask) == (0, 0, 0, 0)
        return
    xs, ys = [p[0] for p in pixels], [p[1] for p in pixels]
    assert box_of_mask(mask) == (min(xs), min(ys), max(xs) + 1, max(ys) + 1)


@FEW
@given(MASKS)
def test_centroids_are_means_of_pixels(mask: BoolMask) -> None:
    x_px, y_px = centroid_of_mask(mask)
    pixels = [(x, y) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x]]
    if not pixels:
        assert math.isnan(x_px)
        assert math.isnan(y_px)
        return
    assert x_px == pytest.approx(sum(x for x, _ in pixels) / len(pixels))
    assert y_px == pytest.approx(sum(y for _, y in pixels) / len(pixels))


@FEW
@given(PAIRS)
def test_overlap_counts_pixels(pair: tuple[BoolMask, BoolMask]) -> None:
    first, second = pair
    both = either = 0
    for a, b in zip(first.ravel().tolist(), second.ravel().tolist(), strict=True):
        both, either = both + (a and b), either + (a or b)
    expected = both / either if either else 0.0
    assert mask_iou(first, second) == pytest.approx(expected)
    assert MaskRle.encode(first).iou(MaskRle.encode(second)) == pytest.approx(expected)


def test_codes_of_other_sizes_do_not_overlap() -> None:
    """Both have 24 pixels but different shapes: COCO's own function reads past the end."""
    with pytest.raises(InvalidImageError, match="size"):
        MaskRle.encode(np.ones((4, 6), np.bool_)).iou(MaskRle.encode(np.ones((6, 4), np.bool_)))


# ---------------------------------------------------------------------------------------- crops


@FEW
@given(
    crop=st.tuples(st.integers(0, 6), st.integers(0, 6)).flatmap(_masks_of),
    margins=st.tuples(*[st.integers(0, 3)] * 4),
)
def test_a_crop_is_coded_like_the_whole_mask(crop: BoolMask, margins: tuple[int, int, int, int]) -> None:
    """Byte by byte, even where a run continues from the bottom of a column at the top of the next."""
    top, bottom, left, right = margins
    whole = np.pad(crop, ((top, bottom), (left, right)))
    if 0 in whole.shape:
        return
    coded = MaskRle.encode_crop(crop, top=top, left=left, image_hw=whole.shape)
    assert coded == MaskRle.encode(whole)


@pytest.mark.parametrize(("top", "left"), [(-1, 0), (0, -1), (2, 0), (0, 3)])
def test_a_crop_must_lie_inside_its_image(top: int, left: int) -> None:
    with pytest.raises(InvalidImageError, match="not inside"):
        MaskRle.encode_crop(np.ones((2, 2), np.bool_), top=top, left=left, image_hw=(3, 4))


@FEW
@given(pair=PAIRS)
def test_overlaps_of_all_with_all(pair: tuple[BoolMask, BoolMask]) -> None:
    codes = [MaskRle.encode(mask) for mask in pair]
    expected = [[mask_iou(first, second) for second in pair] for first in pair]
    np.testing.assert_allclose(MaskRle.iou_matrix(codes, codes), expected)
    assert MaskRle.iou_matrix([], codes).shape == (0, 2)
    other = MaskRle.encode(np.ones((5, 7), np.bool_))
    for matrix in (MaskRle.iou_matrix, MaskRle.inside_matrix):
        with pytest.raises(InvalidImageError, match="masks differ in size"):
            matrix(codes, [other])


@FEW
@given(pair=PAIRS)
def test_shares_inside_of_all_with_all(pair: tuple[BoolMask, BoolMask]) -> None:
    codes = [MaskRle.encode(mask) for mask in pair]
    expected = [[(a & b).sum() / max(1, a.sum()) for b in pair] for a in pair]
    np.testing.assert_allclose(MaskRle.inside_matrix(codes, codes), expected)
    assert MaskRle.inside_matrix([], codes).shape == (0, 2)
