"""A z-buffer rasterizer in plain NumPy that processes all triangles at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fragments:
    """The nearest triangle of every covered pixel.

    Attributes:
        pixel: (M,) int64, row-major index of the pixel.
        triangle: (M,) int64, index of the triangle.
        b1, b2: (M,) float32, barycentric weights of the second and third corner in the image plane.
        key: (M,) float32, the interpolated key; the largest one wins.
        group_px: (G,) int64, number of pixels each group would cover if it were alone.
    """

    pixel: NDArray[np.int64]
    triangle: NDArray[np.int64]
    b1: NDArray[np.float32]
    b2: NDArray[np.float32]
    key: NDArray[np.float32]
    group_px: NDArray[np.int64]


def rasterize(
    points_px: NDArray[np.float32],
    key: NDArray[np.float32],
    size_wh: tuple[int, int],
    group: NDArray[np.int64] | None = None,
    group_count: int = 0,
) -> Fragments:
    """Rasterize triangles.

    Args:
        points_px: (T, 3, 2) corners as (x, y); the center of pixel i is at i + 0.5.
        key: (T, 3) value at the corners that is linear in the image and larger in front, such as 1 / depth.
        size_wh: (W, H) of the image.
        group: (T,) index of the group of each triangle in 0..group_count - 1; None skips counting.
        group_count: number of groups.
    """
    width, height = size_wh
    x, y = points_px[:, :, 0], points_px[:, :, 1]
    left = np.maximum(np.floor(x.min(axis=1) - 0.5), 0).astype(np.int32)
    top = np.maximum(np.floor(y.min(axis=1) - 0.5), 0).astype(np.int32)
    right = np.minimum(np.ceil(x.max(axis=1) - 0.5), width - 1).astype(np.int32)
    bottom = np.minimum(np.ceil(y.max(axis=1) - 0.5), height - 1).astype(np.int32)
    columns, rows = np.maximum(right - left + 1, 0), np.maximum(bottom - top + 1, 0)
    x0, y0 = x[:, 0], y[:, 0]
    abx, aby, acx, acy = x[:, 1] - x0, y[:, 1] - y0, x[:, 2] - x0, y[:, 2] - y0
    area = abx * acy - aby * acx
    flat = np.abs(area) < 1e-9
    scale = 1.0 / np.where(flat, 1.0, area)
    count = np.where(flat, 0, columns * rows)

    # Every (triangle, pixel of its bounding box) pair becomes one entry of flat arrays.
    triangle = np.repeat(np.arange(len(points_px)), count)
    step = np.arange(len(triangle), dtype=np.int32) - np.repeat(np.cumsum(count) - count, count).astype(
        np.int32
    )
    step_row = step // np.repeat(columns, count)
    column = np.repeat(left, count) + step - step_row * np.repeat(columns, count)
    row = np.repeat(top, count) + step_row
    dx = column.astype(np.float32) + np.float32(0.5) - np.repeat(x0, count)
    dy = row.astype(np.float32) + np.float32(0.5) - np.repeat(y0, count)
    b1 = np.repeat(acy * scale, count) * dx - np.repeat(acx * scale, count) * dy
    b2 = np.repeat(abx * scale, count) * dy - np.repeat(aby * scale, count) * dx
    inside = np.flatnonzero((b1 >= 0) & (b2 >= 0) & (b1 + b2 <= 1))
    triangle, b1, b2 = triangle[inside], b1[inside], b2[inside]
    pixel = row[inside].astype(np.int64) * width + column[inside]
    k0, k1, k2 = key[triangle, 0], key[triangle, 1], key[triangle, 2]
    value = k0 + (k1 - k0) * b1 + (k2 - k0) * b2

    group_px = np.zeros(group_count, np.int64)
    if group is not None and group_count:
        covered = np.zeros((group_count, height * width), bool)
        covered[group[triangle], pixel] = True
        group_px = np.count_nonzero(covered, axis=1)

    nearest = np.full(height * width, -np.inf, np.float32)
    np.maximum.at(nearest, pixel, value)
    candidates = np.flatnonzero(value == nearest[pixel])
    winner = np.full(height * width, -1, np.int64)
    winner[pixel[candidates]] = candidates  # among equal keys the last one wins, on every machine
    seen = np.flatnonzero(winner >= 0)
    best = winner[seen]
    return Fragments(
        pixel=seen, triangle=triangle[best], b1=b1[best], b2=b2[best], key=value[best], group_px=group_px
    )
