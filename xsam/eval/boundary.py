"""Boundary accuracy F of a mask, as DAVIS defines it."""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from xsam.types.masks import BoolMask

_TOLERANCE = 0.008  # of the image's diagonal


def boundary_f(mask: BoolMask, truth: BoolMask) -> float:
    """Return the F measure of the boundaries of two masks (H, W).

    A pixel of one boundary is right if the other has one within 0.8 % of the diagonal, rounded up. Two empty
    masks agree, and an empty one does not agree with any other.

    Source: Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation";
    `f_measure` of davis2017-evaluation, computed inside the box of both masks.
    """
    if mask.shape != truth.shape:
        raise ValueError(f"masks differ in shape: {mask.shape} and {truth.shape}")
    rows, columns = np.flatnonzero((mask | truth).any(axis=1)), np.flatnonzero((mask | truth).any(axis=0))
    if not rows.size:
        return 1.0
    disk = _disk(math.ceil(_TOLERANCE * math.hypot(*mask.shape)))
    margin = disk.shape[0]
    window = (
        slice(max(0, int(rows[0]) - margin), int(rows[-1]) + margin + 1),
        slice(max(0, int(columns[0]) - margin), int(columns[-1]) + margin + 1),
    )
    edges = [boundary(each)[window].view(np.uint8) for each in (mask, truth)]
    found, true = (int(np.count_nonzero(edge)) for edge in edges)
    if not (found and true):
        return float(found == true)
    near = [np.asarray(cv2.dilate(edge, disk), np.uint8) for edge in edges]
    precision = np.count_nonzero(edges[0] & near[1]) / found
    recall = np.count_nonzero(edges[1] & near[0]) / true
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary(mask: BoolMask) -> BoolMask:
    """Return the pixels whose right, lower or lower right neighbor differs, (H, W); `seg2bmap` of DAVIS."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    here, right, below, diagonal = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    edge: BoolMask = (here ^ right) | (here ^ below) | (here ^ diagonal)
    # As in the original, whose last row and column look along themselves only.
    edge[-1] = here[-1] ^ right[-1]
    edge[:, -1] = here[:, -1] ^ below[:, -1]
    edge[-1, -1] = False
    return edge


@lru_cache(maxsize=8)
def _disk(radius: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)
