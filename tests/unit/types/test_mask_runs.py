"""Run-length codes: parsed, checked, cropped and measured without decoding the whole mask."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from xsam import InvalidImageError, MaskRle
from xsam.types.masks import box_of_mask, centroid_of_mask, run_lengths

_MASKS = hnp.arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40)))


def _runs(mask: np.ndarray) -> list[int]:
    """Compute run lengths the slow way: column by column, background first."""
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
    area, centroid = MaskRle.encode(mask).area_and_centroid()
    assert area == mask.sum()
    np.testing.assert_allclose(centroid, centroid_of_mask(mask), rtol=1e-12)


def test_large_runs() -> None:
    mask = np.zeros((4000, 3000), np.bool_)
    mask[1000:, 1] = True
    mask[:, 2:] = True
    rle = MaskRle.encode(mask)
    assert MaskRle.from_counts(4000, 3000, rle.counts).decode().sum() == mask.sum()
    np.testing.assert_allclose(rle.area_and_centroid()[1], centroid_of_mask(mask), rtol=1e-12)


@given(counts=st.binary(max_size=60), height=st.integers(0, 50), width=st.integers(0, 50))
def test_hostile_bytes_are_refused_or_fill_the_image_exactly(counts: bytes, height: int, width: int) -> None:
    try:
        mask = MaskRle.from_counts(height, width, counts)
    except InvalidImageError:
        return
    assert coco_mask.area({"size": [height, width], "counts": counts}) <= height * width
    assert mask.decode().shape == (height, width)


@pytest.mark.parametrize("counts", [b"", b"0", b"00", b"\xff", b"PPPP", b"`", b"o" * 40 + b"0", b"11111111"])
def test_codes_that_do_not_fill_the_image(counts: bytes) -> None:
    """pycocotools would decode the empty code from uninitialized memory."""
    with pytest.raises(InvalidImageError):
        MaskRle.from_counts(4, 4, counts)


def _code(runs: list[int]) -> bytes:
    """Encode run lengths, whatever they are."""
    characters = []
    for index, run in enumerate(runs):
        value = run - runs[index - 2] if index > 2 else run
        while True:
            bits, value = value & 0x1F, value >> 5
            more = value != (-1 if bits & 0x10 else 0)
            characters.append(48 + bits + 0x20 * more)
            if not more:
                break
    return bytes(characters)


def _runs_that_overflow(total: int) -> list[int]:
    """Return run lengths that add up to `total`, each at most 2²⁹ more than the one two before."""
    step, runs, left = 2**29 - 1, [], total
    while len(runs) < 4 or left > runs[-1] ** 2 // step:
        runs.append(step + (runs[-2] if len(runs) > 2 else 0))
        left -= runs[-1]
    count = round(left / runs[-1])
    return runs + [left // count + (index < left % count) for index in range(count)]


@pytest.mark.parametrize("pixels", [16, 16 + 2**64])
def test_a_sum_that_overflows_is_not_the_size_of_the_image(pixels: int) -> None:
    runs = _runs_that_overflow(pixels) if pixels > 16 else [6, 4, 6]
    assert sum(runs) == pixels
    if pixels == 16:
        assert MaskRle.from_counts(4, 4, _code(runs)).decode().sum() == 4
        return
    with pytest.raises(InvalidImageError, match="a run of the mask"):
        MaskRle.from_counts(4, 4, _code(runs))


@pytest.mark.parametrize("counts", [b"0", b"4", b"99", _code([6, 4]), _code([6, 4, 7]), _code([6, 2**27])])
def test_a_mask_that_was_not_checked_is_checked_before_it_is_decoded(counts: bytes) -> None:
    """pycocotools decodes what a code leaves out from memory that nobody wrote."""
    mask, whole = MaskRle(height=4, width=4, counts=counts), MaskRle.encode(np.ones((4, 4), np.bool_))
    uses = (
        mask.decode,
        mask.crop,
        mask.area_and_centroid,
        lambda: mask.area,
        lambda: mask.iou(whole),
        lambda: MaskRle.iou_matrix([whole], [mask]),
        lambda: MaskRle.inside_matrix([mask], [whole]),
    )
    for use in uses:
        with pytest.raises(InvalidImageError):
            use()


def test_runs_are_checked_like_codes() -> None:
    mask = MaskRle.from_runs(3, 4, [2, 1, 9])
    assert np.argwhere(mask.decode()).tolist() == [[2, 0]]
    for runs in ([], [2, 1], [2, 1, 10], [-1, 13], [11.5, 0.5], [2**64, 1], [float("nan")], [float("inf")]):
        with pytest.raises(InvalidImageError):
            MaskRle.from_runs(3, 4, runs)


def test_the_largest_mask_comes_back() -> None:
    """Its runs need six characters, the most that pycocotools reads rightly."""
    pixels = 16384 * 16384
    code = MaskRle.from_runs(16384, 16384, [0, pixels - 1, 1])
    assert MaskRle.from_counts(16384, 16384, code.counts).area == pixels - 1


@pytest.mark.parametrize(("height", "width"), [(0, 4), (4, 0), (2**32 - 1, 2**32 - 1), (20_000, 1)])
def test_sizes_are_bounded(height: int, width: int) -> None:
    with pytest.raises(InvalidImageError, match="sides"):
        MaskRle.from_counts(height, width, b"@")


@given(_MASKS)
def test_crop_is_the_part_inside_the_tight_box(mask: np.ndarray) -> None:
    rle = MaskRle.encode(mask)
    crop = rle.crop()
    assert crop.box_xyxy == box_of_mask(mask)
    whole = np.zeros_like(mask)
    whole[crop.window] = crop.pixels
    assert (whole == mask).all()
    assert (rle.decode() == mask).all()  # now from the crop


def test_crop_is_decoded_once_and_cannot_be_written() -> None:
    rle = MaskRle.encode(np.eye(5, dtype=np.bool_))
    assert rle.crop() is rle.crop()
    with pytest.raises(ValueError, match="read-only"):
        rle.crop().pixels[0, 0] = False


def test_a_crop_is_no_part_of_what_a_mask_is() -> None:
    first, second = (MaskRle.encode(np.eye(5, dtype=np.bool_)) for _ in range(2))
    first.crop()
    assert first == second
    assert hash(first) == hash(second)
    assert first.nbytes > second.nbytes  # the cached crop counts


def test_runs_that_do_not_fill_the_image_have_no_crop() -> None:
    with pytest.raises(InvalidImageError, match="add up"):
        MaskRle(height=50, width=50, counts=MaskRle.encode(np.eye(5, dtype=np.bool_)).counts).crop()
