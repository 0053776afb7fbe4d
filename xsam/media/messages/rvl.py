"""RVL, the lossless coding of 16-bit depth images that `compressedDepth` offers beside PNG.

Source: A. Wilson, "Fast Lossless Depth Image Compression", ISS 2017, and `rvl_codec` of
ros-perception/image_transport_plugins.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from xsam.errors import InvalidImageError
from xsam.types.requests import MAX_IMAGE_SIDE_PX

_SIZE = struct.Struct("<II")  # width, height
_MAX_RUNS = 1_000_000  # far more than noise makes; each takes microseconds
_MAX_NIBBLES = 11  # of a 32-bit number, three bits each


def decode_rvl(data: memoryview | bytes, *, max_side_px: int = MAX_IMAGE_SIDE_PX) -> NDArray[np.uint16]:
    """Decode width, height and RVL code to uint16 (H, W).

    The code is a row of numbers: how many zeros, how many other values, their differences, and again. Each
    number is in nibbles of three bits, lowest first, and a bit that says whether more follow.

    Raises:
        InvalidImageError: a side is 0 or over `max_side_px`, or the code does not fill the image exactly.
    """
    if len(data) < _SIZE.size:
        raise InvalidImageError(f"an RVL depth image has only {len(data)} bytes, less than its size")
    width, height = _SIZE.unpack_from(data)
    if not (0 < width <= max_side_px and 0 < height <= max_side_px):
        raise InvalidImageError(
            f"the RVL depth image is {width}×{height}, sides of 1 to {max_side_px} px are allowed"
        )
    code = bytes(data[_SIZE.size :])
    if len(code) > 8 * (width * height + 16):  # three bytes a value in the worst case, and the run lengths
        raise InvalidImageError(f"an RVL depth image of {width}×{height} px cannot have {len(code)} bytes")
    numbers = _numbers(code)
    pixels = np.zeros(width * height, np.int64)
    filled = index = value = 0
    for _ in range(_MAX_RUNS):
        if filled == len(pixels):
            break
        if index + 2 > len(numbers):
            raise _truncated(filled, width, height)
        zeros, others = int(numbers[index]), int(numbers[index + 1])
        index += 2
        filled += zeros
        if filled + others > len(pixels) or zeros + others == 0:
            raise InvalidImageError(f"the RVL depth image does not fit into {width}×{height} px")
        if index + others > len(numbers):
            raise _truncated(filled, width, height)
        folded = numbers[index : index + others]
        values = value + np.cumsum((folded >> 1) ^ -(folded & 1))
        pixels[filled : filled + others] = values
        if others:
            value = int(values[-1])
        filled += others
        index += others
    else:
        raise InvalidImageError(f"the RVL depth image has more than {_MAX_RUNS} holes")
    if pixels.min() < 0 or pixels.max() > 0xFFFF:
        raise InvalidImageError("the RVL depth image has values that do not fit into 16 bits")
    return pixels.reshape(height, width).astype(np.uint16)


def _numbers(code: bytes) -> NDArray[np.int64]:
    """Return all complete numbers of the code."""
    words = np.frombuffer(code[: len(code) // 4 * 4], "<u4")
    shifts = np.arange(28, -1, -4, dtype=np.uint32)  # the first nibble is the highest
    nibbles = ((words[:, None] >> shifts) & 0xF).ravel()
    ends = np.flatnonzero(nibbles < 8) + 1
    if not len(ends):
        return np.empty(0, np.int64)
    nibbles = nibbles[: ends[-1]]
    starts = np.concatenate(([0], ends[:-1]))
    lengths = ends - starts
    if lengths.max() > _MAX_NIBBLES:
        raise InvalidImageError("the RVL depth image has a number of more than 32 bits")
    position = np.arange(len(nibbles)) - np.repeat(starts, lengths)
    numbers: NDArray[np.int64] = np.add.reduceat((nibbles & 7).astype(np.int64) << (3 * position), starts)
    return numbers


def _truncated(filled: int, width: int, height: int) -> InvalidImageError:
    return InvalidImageError(
        f"the RVL depth image ends after {filled} of {width}×{height} px: it is truncated"
    )
