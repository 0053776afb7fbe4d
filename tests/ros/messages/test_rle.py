from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from xsam import InvalidImageError, MaskRle
from xsam.types.masks import centroid_of_mask
from xsam_ros.messages.rle import area_and_centroid, check_counts, run_lengths

_MASKS = hnp.arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40)))


def _runs(mask: np.ndarray) -> list[int]:
    """Run lengths the slow way: column by column, background first."""
    runs, value = [0], False
    for pixel in mask.T.ravel():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


@given(_MASKS)
def test_run_lengths_are_those_of_the_mask(mask: np.ndarray) -> None:
    assert run_lengths(MaskRle.encode(mask).counts).tolist() == _runs(mask)


@given(_MASKS)
def test_area_and_centroid_without_decoding(mask: np.ndarray) -> None:
    area, centroid = area_and_centroid(MaskRle.encode(mask))
    assert area == mask.sum()
    np.testing.assert_allclose(centroid, centroid_of_mask(mask), rtol=1e-12)


def test_large_runs() -> None:
    mask = np.zeros((4000, 3000), np.bool_)
    mask[1000:, 1] = True
    mask[:, 2:] = True
    rle = MaskRle.encode(mask)
    assert check_counts(4000, 3000, rle.counts).decode().sum() == mask.sum()
    np.testing.assert_allclose(area_and_centroid(rle)[1], centroid_of_mask(mask), rtol=1e-12)


@given(counts=st.binary(max_size=60), height=st.integers(0, 50), width=st.integers(0, 50))
def test_hostile_bytes_are_refused_or_fill_the_image_exactly(counts: bytes, height: int, width: int) -> None:
    try:
        mask = check_counts(height, width, counts)
    except InvalidImageError:
        return
    assert coco_mask.area({"size": [height, width], "counts": counts}) <= height * width
    assert mask.decode().shape == (height, width)


@pytest.mark.parametrize("counts", [b"", b"0", b"00", b"\xff", b"PPPP", b"`", b"o" * 40 + b"0", b"11111111"])
def test_codes_that_do_not_fill_the_image(counts: bytes) -> None:
    """pycocotools would make a mask of the empty code from memory that nobody wrote."""
    with pytest.raises(InvalidImageError):
        check_counts(4, 4, counts)


@pytest.mark.parametrize(("height", "width"), [(0, 4), (4, 0), (2**32 - 1, 2**32 - 1), (20_000, 1)])
def test_sizes_are_bounded(height: int, width: int) -> None:
    with pytest.raises(InvalidImageError, match="sides"):
        check_counts(height, width, b"@")
