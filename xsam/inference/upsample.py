"""Upsampling of mask logits from the decoder's grid to the pixels of the camera image."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from xsam.config.square import Square

BAND_BYTES = 32 << 20
MAX_TILES = 64  # along a side of the image
MIN_TILE_PX = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskGeometry:
    """Mapping from the encoder's square input to the camera image.

    Decoder logits are resized to the square, the padding is cut off, and the rest is resized to the camera
    image, both bilinearly and before any threshold. Both steps are linear and work on rows and columns
    separately, so that together they are one matrix for the rows and one for the columns.
    """

    side: int  # S, the encoder's input side
    scaled_hw: tuple[int, int]  # the picture inside the square
    image_hw: tuple[int, int]  # the camera image

    @classmethod
    def for_image(cls, image_hw: tuple[int, int], square: Square) -> MaskGeometry:
        """Build the mapping for an image that was resized into a square."""
        return cls(side=square.side, scaled_hw=square.scaled_hw(image_hw), image_hw=image_hw)

    def upsample(self, mask_logits: Tensor) -> Tensor:
        """Resize (N, h, w) decoder logits to (N, H, W) camera pixels, step by step as the reference does."""
        if len(mask_logits) == 0:
            return mask_logits.new_zeros((0, *self.image_hw))
        square = F.interpolate(
            mask_logits[None].float(), size=(self.side, self.side), mode="bilinear", align_corners=False
        )
        height, width = self.scaled_hw
        return F.interpolate(
            square[..., :height, :width], size=self.image_hw, mode="bilinear", align_corners=False
        )[0]

    def crop(self, mask_logits: Tensor) -> tuple[Tensor, int, int]:
        """Compute only the part of `upsample` that contains everything above 0.

        Args:
            mask_logits: (h, w) of one mask.

        Returns:
            (height, width) logits, which may be empty, and the row and column where they begin.
        """
        positive = mask_logits > 0
        rows, columns = self.axes(mask_logits)
        occupied = torch.cat([positive.any(dim=1), positive.any(dim=0)]).cpu().numpy()  # waits for a GPU once
        spans = []
        for axis, part in ((rows, occupied[: len(positive)]), (columns, occupied[len(positive) :])):
            where = np.flatnonzero(part)
            spans.append(axis.reach(int(where[0]), int(where[-1])) if len(where) else (0, 0))
        (top, bottom), (left, right) = spans
        logits = mask_logits.float()
        if bottom > top and right > left:
            logits = rows.resize(logits, top, bottom)
            logits = columns.resize(logits.T, left, right).T
        else:
            logits = logits[:0, :0]
        return logits, top, left

    def bands(self, mask_logits: Tensor, *, others: int = 0) -> Iterator[tuple[int, Tensor]]:
        """Yield the result of `upsample` in bands of rows: the first row, and (N, rows, W) logits.

        Args:
            mask_logits: (N, h, w).
            others: maps of the same size that the caller makes of each band; they count as its memory.
        """
        height, width = self.image_hw
        count = max(1, len(mask_logits) + others)
        rows, columns = self.axes(mask_logits)
        wide = mask_logits.float() @ columns.matrix.T  # (N, h, W)
        step = max(1, BAND_BYTES // (count * width * 4))
        for top in range(0, height, step):
            yield top, rows.resize(wide, top, min(top + step, height))

    def axes(self, mask_logits: Tensor) -> tuple[Axis, Axis]:
        """Return the interpolation along the rows and the columns of (…, h, w) logits."""
        rows, columns = (
            _axis(cells, self.side, scaled, pixels, mask_logits.device)
            for cells, scaled, pixels in zip(
                mask_logits.shape[-2:], self.scaled_hw, self.image_hw, strict=True
            )
        )
        return rows, columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Interpolation from decoder cells to image pixels along one axis."""

    matrix: Tensor  # (pixels, cells) float32, on the device of the logits
    first: NDArray[np.int64]  # (pixels,) first and last cell that a pixel depends on; nondecreasing
    last: NDArray[np.int64]

    def reach(self, first_cell: int, last_cell: int) -> tuple[int, int]:
        """Return the range of pixels, end exclusive, that depend on any of these cells."""
        start = int(np.searchsorted(self.last, first_cell, side="left"))
        end = int(np.searchsorted(self.first, last_cell, side="right"))
        return start, end

    def resize(self, cells: Tensor, start: int, end: int) -> Tensor:
        """Interpolate (…, cells, M) to (…, end − start, M)."""
        span = self.cells(slice(start, end))
        return self.matrix[start:end, span] @ cells[..., span, :]

    def cells(self, pixels: slice) -> slice:
        """Return the cells that a range of pixels depends on."""
        return slice(int(self.first[pixels.start]), int(self.last[pixels.stop - 1]) + 1)


@functools.lru_cache(maxsize=32)
def _axis(cells: int, side: int, scaled: int, pixels: int, device: torch.device) -> Axis:
    with torch.inference_mode(False), torch.no_grad():
        square = F.interpolate(torch.eye(cells)[None], size=side, mode="linear", align_corners=False)
        resized = F.interpolate(square[..., :scaled], size=pixels, mode="linear", align_corners=False)[0]
    taken = resized.numpy() != 0
    return Axis(
        matrix=resized.T.contiguous().to(device),
        first=taken.argmax(axis=0).astype(np.int64),
        last=(cells - 1 - taken[::-1].argmax(axis=0)).astype(np.int64),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """The camera image in tiles, with bounds of the logits inside each; T tiles, row by row."""

    mask_logits: Tensor  # (Q, h, w)
    rows: Axis
    columns: Axis
    spans: tuple[tuple[slice, ...], tuple[slice, ...]]  # pixels of each row of tiles, and of each column
    lowest: Tensor  # (Q, T)
    highest: Tensor

    @classmethod
    def of(cls, geometry: MaskGeometry, mask_logits: Tensor) -> Tiles:
        """Divide an image: up to `MAX_TILES` tiles along a side, each of at least `MIN_TILE_PX` pixels."""
        rows, columns = geometry.axes(mask_logits)
        logits = mask_logits.float()
        spans = []
        for pixels in geometry.image_hw:
            step = max(MIN_TILE_PX, -(-pixels // MAX_TILES))
            spans.append(tuple(slice(at, min(at + step, pixels)) for at in range(0, pixels, step)))
        bounds = []
        for extreme in (Tensor.amin, Tensor.amax):  # interpolation stays between the cells that it reads
            lines = torch.stack([extreme(logits[:, rows.cells(s)], dim=1) for s in spans[0]], dim=1)
            cells = torch.stack([extreme(lines[:, :, columns.cells(s)], dim=2) for s in spans[1]], dim=2)
            bounds.append(cells.flatten(1))
        return cls(
            mask_logits=logits,
            rows=rows,
            columns=columns,
            spans=(spans[0], spans[1]),
            lowest=bounds[0],
            highest=bounds[1],
        )

    def window(self, tile: int) -> tuple[slice, slice]:
        """Return the rows and columns of a tile."""
        row, column = divmod(tile, len(self.spans[1]))
        return self.spans[0][row], self.spans[1][column]

    def logits(self, tile: int) -> Tensor:
        """Return the part of `MaskGeometry.upsample` inside a tile, (Q, rows, columns)."""
        vertical, horizontal = self.window(tile)
        part = self.mask_logits[..., self.columns.cells(horizontal)]
        part = self.rows.resize(part, vertical.start, vertical.stop)
        across = self.columns.matrix[horizontal, self.columns.cells(horizontal)]
        return part @ across.T
