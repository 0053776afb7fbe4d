"""Random textures for the table, the floor and the wall."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

TEXTURE_SIZE_PX = 256

_KINDS = ("wood", "planks", "marble", "cloth", "checker", "plain", "stripes")
_KIND_PROBABILITIES = (0.25, 0.15, 0.15, 0.10, 0.10, 0.15, 0.10)

Texture = NDArray[np.float32]
"""(TEXTURE_SIZE_PX, TEXTURE_SIZE_PX, 3) float32, linear RGB in 0..1, read-only; meant to be tiled."""


def _value_noise(rng: np.random.Generator, grids: tuple[tuple[int, int], ...]) -> NDArray[np.float32]:
    """Return tileable (S, S) noise in 0..1: the mean of random (rows, columns) grids, smoothly upsampled."""
    total = np.zeros((TEXTURE_SIZE_PX, TEXTURE_SIZE_PX), np.float32)
    step = np.arange(TEXTURE_SIZE_PX, dtype=np.float32) / np.float32(TEXTURE_SIZE_PX)
    for rows, columns in grids:
        grid = rng.random((rows, columns), dtype=np.float32)
        map_x, map_y = np.meshgrid(step * np.float32(columns), step * np.float32(rows))
        total += cv2.remap(grid, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return total / np.float32(len(grids))


def sample_texture(rng: np.random.Generator, kind: str | None = None) -> Texture:
    """Sample a texture; `kind` is wood, planks, marble, cloth, checker, plain, stripes, or None for any."""
    chosen = kind or str(rng.choice(_KINDS, p=_KIND_PROBABILITIES))
    index = np.arange(TEXTURE_SIZE_PX)
    neutral = rng.uniform(0.25, 0.9) * np.array([1.0, rng.uniform(0.85, 1.0), rng.uniform(0.7, 1.0)])
    tint = rng.uniform(0.15, 0.9, 3)
    if chosen in ("wood", "planks"):
        red = rng.uniform(0.35, 0.8)
        green = red * rng.uniform(0.6, 0.8)
        base = np.array([red, green, green * rng.uniform(0.5, 0.8)])
        image = base * (0.65 + 0.7 * _value_noise(rng, ((2, 40), (4, 90), (3, 16)))[..., None])
        if chosen == "planks":
            count = int(rng.integers(3, 7))
            image *= rng.uniform(0.85, 1.1, count)[index * count // TEXTURE_SIZE_PX][None, :, None]
            image[:, index * count % TEXTURE_SIZE_PX < count] *= 0.55
    elif chosen == "marble":
        image = neutral * (0.75 + 0.5 * _value_noise(rng, ((4, 4), (9, 9), (30, 30)))[..., None])
    elif chosen == "cloth":
        weave = 0.92 + 0.08 * ((index[:, None] // 2 + index // 2) % 2)
        folds = 0.9 + 0.2 * _value_noise(rng, ((6, 6),))
        image = (0.6 * neutral + 0.4 * tint) * (weave * folds)[..., None]
    elif chosen == "checker":
        cell = index * int(rng.integers(8, 24)) // TEXTURE_SIZE_PX
        image = np.where(((cell[:, None] + cell) % 2)[..., None] > 0, neutral, 0.6 * neutral + 0.35 * tint)
    elif chosen == "stripes":
        cell = index * int(rng.integers(10, 24)) // TEXTURE_SIZE_PX
        row = np.where((cell % 2)[:, None] > 0, 0.5 * neutral + 0.5 * tint, neutral)
        image = np.repeat(row[None], TEXTURE_SIZE_PX, axis=0)
    elif chosen == "plain":
        image = neutral * (0.95 + 0.1 * _value_noise(rng, ((60, 60),))[..., None])
    else:
        raise ValueError(f"unknown kind of texture {chosen!r}, expected one of {_KINDS}")
    texture: Texture = np.clip(image, 0.0, 1.0).astype(np.float32)
    texture.flags.writeable = False
    return texture


def look_up(texture: Texture, u: NDArray[np.float32], v: NDArray[np.float32]) -> NDArray[np.float32]:
    """Read a tiled texture with bilinear interpolation.

    Args:
        texture: (S, S, 3) float32.
        u: (N,) horizontal coordinate, 1.0 = one tile.
        v: (N,) vertical coordinate.

    Returns:
        (N, 3) float32.
    """
    count = len(u)
    if count == 0:
        return np.zeros((0, 3), np.float32)
    columns = min(count, 1024)  # OpenCV's remap cannot produce images with a side above 32767
    padding = -count % columns
    size = np.float32(len(texture))
    map_x = np.pad((u - np.floor(u)) * size, (0, padding)).reshape(-1, columns)
    map_y = np.pad((v - np.floor(v)) * size, (0, padding)).reshape(-1, columns)
    colors = cv2.remap(texture, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return colors.reshape(-1, 3)[:count].astype(np.float32, copy=False)
