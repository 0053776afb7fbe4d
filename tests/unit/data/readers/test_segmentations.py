"""Polygons and run-length codes → masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from tests.unit.data.readers.disk import HEIGHT, WIDTH, box, polygon, rle
from xsam.data.readers.segmentations import decode_segmentation, rle_area, stack_masks
from xsam.errors import RecordError

SIZE = (HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        ([polygon(2, 3, 6, 5)], box(2, 3, 6, 5)),
        ([polygon(2, 3, 6, 5), polygon(10, 0, 12, 12)], box(2, 3, 6, 5) | box(10, 0, 12, 12)),
        ([polygon(2, 3, 6, 5), polygon(4, 4, 8, 8)], box(2, 3, 6, 5) | box(4, 4, 8, 8)),
        ([polygon(-4, -3, 4, 5)], box(0, 0, 4, 5)),  # reaches over two borders
        ([polygon(12, 8, 40, 50)], box(12, 8, 16, 12)),
        ([polygon(-9, -9, 90, 90)], box(0, 0, 16, 12)),
        ([polygon(-9, -9, -2, -2)], box(0, 0, 0, 0)),
        ([[2, 3, 6, 5]], box(0, 0, 0, 0)),  # two points; pycocotools would take it for a box
        ([[2, 3, 6, 5], polygon(2, 3, 6, 5)], box(2, 3, 6, 5)),
        ([], box(0, 0, 0, 0)),
        ({"size": [12, 16], "counts": [0, 12, 168, 12]}, box(0, 0, 1, 12) | box(15, 0, 16, 12)),
        ({"size": [12, 16], "counts": [192]}, box(0, 0, 0, 0)),
        ([rle(box(1, 1, 3, 3)), rle(box(2, 2, 5, 5))], box(1, 1, 3, 3) | box(2, 2, 5, 5)),
    ],
)
def test_masks_by_hand(segmentation: Any, expected: NDArray[np.bool_]) -> None:
    mask = decode_segmentation(segmentation, SIZE, "here")
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, expected)


@given(arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_run_length_codes_come_back(mask: NDArray[np.bool_]) -> None:
    code = rle(mask)
    np.testing.assert_array_equal(decode_segmentation(code, mask.shape, "here"), mask)
    assert rle_area(code, "here") == mask.sum()


def test_long_runs_come_back() -> None:
    mask = np.zeros((300, 400), np.bool_)
    mask[:, 5:320] = True  # a run of 94,500 takes four characters
    mask[17, 350] = True
    code = rle(mask)
    np.testing.assert_array_equal(decode_segmentation(code, mask.shape, "here"), mask)
    assert rle_area(code, "here") == 94501


GOOD = rle(box(1, 1, 3, 3))


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ("polygon", "polygons or a run-length code"),
        (None, "polygons or a run-length code"),
        ([5], "list of numbers"),
        ([["1", "2", "3", "4", "5", "6"]], "list of numbers"),
        ([[1, 2, 3, 4, 5]], "odd number of values"),
        ([[1, 2, 3, 4, 5, 6, 7]], "odd number of values"),
        ([[1, 2, 3, 4, float("nan"), 6]], "far outside"),
        ([[1, 2, 3, 4, 1e9, 6]], "far outside"),
        ({**GOOD, "size": [16, 12]}, r"for an image of \[16, 12\]"),
        ({"counts": GOOD["counts"]}, "for an image of None"),
        ({"size": [12, 16], "counts": ""}, "no counts"),
        ({"size": [12, 16]}, "no counts"),
        ({"size": [12, 16], "counts": GOOD["counts"][:-2]}, "add up to"),
        ({"size": [12, 16], "counts": GOOD["counts"] + "5"}, "add up to"),
        ({"size": [12, 16], "counts": GOOD["counts"] + "P"}, "cut off"),
        ({"size": [12, 16], "counts": "ä"}, "the character 'ä'"),
        ({"size": [12, 16], "counts": [10, 20]}, "add up to"),
        ({"size": [12, 16], "counts": [200, -8]}, "no whole number"),
        ({"size": [12, 16], "counts": [10, "182"]}, "no counts"),
        ([GOOD, polygon(1, 1, 2, 2)], "list of numbers"),
    ],
)
def test_malformed_ones_say_where(segmentation: Any, message: str) -> None:
    with pytest.raises(RecordError, match=f"file, annotation 9: .*{message}"):
        decode_segmentation(segmentation, SIZE, "file, annotation 9")


def test_no_mask_still_has_a_size() -> None:
    assert stack_masks([], SIZE).shape == (0, 12, 16)
    assert stack_masks([], SIZE).dtype == np.bool_
    np.testing.assert_array_equal(stack_masks([box(0, 0, 1, 1)], SIZE), box(0, 0, 1, 1)[None])
