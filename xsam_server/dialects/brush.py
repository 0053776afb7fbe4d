"""Masks → the run-length code of Label Studio's brush: that of thi.ng/rle-pack, over RGBA pixels.

A stream of bits: 32 for the number of values, 5 for the bits of a value less 1, 4 × 4 for the bits of the
four kinds of counts less 1; then, for each run, 1 bit (1 = one value, repeated), 2 for its kind of count, the
count less 1, and the value. The values are the bytes of all pixels, row by row: four a pixel, all the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xsam.types.masks import MaskRle

_CHANNELS = 4
_COUNT_BITS = (3, 6, 11, 16)
_MOST = 1 << _COUNT_BITS[-1]
_SET = 255


def brush_code(mask: MaskRle) -> list[int]:
    """Return the code of a mask as bytes."""
    bits = [f"{mask.height * mask.width * _CHANNELS:032b}", f"{8 - 1:05b}"]
    bits += [f"{count - 1:04b}" for count in _COUNT_BITS]
    for is_object, pixels in _runs(mask.decode()):
        left = int(pixels) * _CHANNELS
        value = f"{_SET if is_object else 0:08b}"
        while left:
            count = min(left, _MOST)
            kind = next(i for i, size in enumerate(_COUNT_BITS) if count <= 1 << size)
            bits.append(f"1{kind:02b}{count - 1:0{_COUNT_BITS[kind]}b}{value}")
            left -= count
    stream = "".join(bits)
    stream += "0" * (-len(stream) % 8)
    return list(int(stream, 2).to_bytes(len(stream) // 8, "big"))


def _runs(mask: NDArray[np.bool_]) -> list[tuple[bool, int]]:
    """Return (object or not, length) of the runs of a mask, row by row."""
    flat = mask.reshape(-1)
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(starts, append=flat.size)
    return [(bool(flat[start]), int(length)) for start, length in zip(starts, lengths, strict=True)]
