"""Checks and sums on COCO run-length codes that came over the wire, without making the mask.

`pycocotools` trusts a code: one whose runs do not add up to the image gives pixels from memory that
nobody wrote. So every code from a message passes `check_counts` first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xsam.errors import InvalidImageError
from xsam.types.masks import MaskRle
from xsam.types.requests import MAX_IMAGE_SIDE_PX

_MAX_CHARS_A_RUN = 7  # 5 bits a character


def run_lengths(counts: bytes) -> NDArray[np.int64]:
    """Parse a compressed code into run lengths: background, object, background, … in column-major order.

    Raises:
        InvalidImageError: the bytes are no run-length code.
    """
    chars = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    if chars.size == 0 or chars.min() < 0 or chars.max() > 63 or chars[-1] & 0x20:
        raise InvalidImageError("the mask is not a COCO compressed run-length code")
    ends = np.flatnonzero((chars & 0x20) == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > _MAX_CHARS_A_RUN:
        raise InvalidImageError("the mask has a run that is too long for any image")
    place = np.arange(chars.size) - np.repeat(starts, lengths)
    values = np.add.reduceat((chars & 0x1F) << (5 * place), starts)
    values -= np.where(chars[ends] & 0x10, np.int64(1) << (5 * lengths), 0)
    # From the fourth run on, the code holds the difference to the run before the last one.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def check_counts(height: int, width: int, counts: bytes) -> MaskRle:
    """A mask from the fields of a message, once its runs are known to fill exactly height × width pixels.

    Raises:
        InvalidImageError: a side is 0 or too large, or the code does not fit the size.
    """
    if not (0 < height <= MAX_IMAGE_SIDE_PX and 0 < width <= MAX_IMAGE_SIDE_PX):
        raise InvalidImageError(f"a mask needs sides of 1 to {MAX_IMAGE_SIDE_PX} px, got {width}×{height}")
    runs = run_lengths(counts)
    if runs.min() < 0 or int(runs.sum()) != height * width:
        raise InvalidImageError(
            f"the runs of the mask add up to {int(runs.sum())} px, {width}×{height} needs {height * width}"
        )
    return MaskRle(height=height, width=width, counts=counts)


def area_and_centroid(mask: MaskRle) -> tuple[int, tuple[float, float]]:
    """Number of object pixels and their mean (x, y) in pixels; (nan, nan) for an empty mask.

    Exact, and some hundred times faster than decoding: the sum over a run comes in closed form.
    """
    bounds = np.cumsum(run_lengths(mask.counts))
    starts, stops = bounds[:-1:2], bounds[1::2]
    area = int((stops - starts).sum())
    if area == 0:
        return 0, (float("nan"), float("nan"))

    def sums_before(index: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Sums of x and y over all pixels before each index."""
        column, row = np.divmod(index, mask.height)
        x_sum = mask.height * (column * (column - 1) // 2) + column * row
        y_sum = column * (mask.height * (mask.height - 1) // 2) + row * (row - 1) // 2
        return x_sum, y_sum

    x_stop, y_stop = sums_before(stops)
    x_start, y_start = sums_before(starts)
    return area, (float((x_stop - x_start).sum()) / area, float((y_stop - y_start).sum()) / area)
