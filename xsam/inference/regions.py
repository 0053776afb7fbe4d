"""Regions of stuff: every pixel belongs to a class, and a class has its pixels where some query matches it.

Classes compete for pixels with sums over all queries. Computed for every pixel, they take minutes for a large
image and many classes. Therefore the image is divided into tiles, and the sums are bounded from both sides
with the decoder cells that a tile depends on. Where one class wins the whole tile, or nothing that could win
is covered by a query that matches it, no pixel is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xsam.inference.postprocess import (
    SEVERAL_QUERIES,
    Check,
    UnlabeledSegments,
    always_go_on,
    encode_labels,
    probabilities,
)
from xsam.inference.upsample import MaskGeometry, Tiles
from xsam.types.masks import MaskRle

_NONE = -1  # in a map of classes
_ROUNDING = 1e-5  # relative, of sums over queries


def semantic_bands(
    class_logits: Tensor, mask_logits: Tensor, geometry: MaskGeometry, *, check: Check = always_go_on
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Classify every pixel, band by band: argmax of the queries' class × mask probabilities.

    Yields:
        First row, mask logits (Q, rows, W), and class index of each pixel (rows, W) int64.
    """
    p = probabilities(class_logits)
    for top, logits in geometry.bands(mask_logits, others=p.shape[1]):
        check()
        classes = (p.T @ logits.sigmoid().flatten(1)).max(dim=0).indices  # argmax takes nine times longer
        yield top, logits, classes.reshape(logits.shape[1:])


def stuff_regions(
    class_logits: Tensor,
    mask_logits: Tensor,
    geometry: MaskGeometry,
    *,
    threshold: float,
    check: Check = always_go_on,
) -> UnlabeledSegments:
    """Build one region for each class that some query matches with p ≥ `threshold`.

    Semantic segmentation gives every pixel to some class, so a single class would get the whole image.
    Here a class gets a pixel only where a query that reaches the threshold covers it. With a threshold of 0
    there is nothing to reach: every pixel gets its likeliest class, as in semantic benchmarks.
    """
    p = probabilities(class_logits)
    scores = p.max(dim=0).values
    labels = (scores >= threshold).nonzero()[:, 0]
    if threshold <= 0:
        class_map = np.full(geometry.image_hw, _NONE, np.int32)
        for top, _, classes in semantic_bands(class_logits, mask_logits, geometry, check=check):
            class_map[top : top + len(classes)] = classes.cpu().numpy()
        masks = encode_labels(class_map, labels.tolist(), check)
    elif len(labels):
        masks = _covered_regions(p, mask_logits, geometry, labels, threshold, check)
    else:
        masks = ()
    return UnlabeledSegments(
        image_hw=geometry.image_hw,
        masks=masks,
        label_indices=labels,
        scores=scores[labels],
        firmness=torch.ones_like(scores[labels]),
        runners_up=torch.zeros_like(scores[labels]),
        queries=torch.full_like(labels, SEVERAL_QUERIES),
    )


def _covered_regions(
    p: Tensor, mask_logits: Tensor, geometry: MaskGeometry, labels: Tensor, threshold: float, check: Check
) -> tuple[MaskRle, ...]:
    """Encode, for each label, the pixels that it wins and that a query with p ≥ `threshold` covers."""
    matches = p >= threshold  # (Q, K)
    class_map = _winners(p, matches, mask_logits, geometry, check)
    masks = []
    for label in labels.tolist():
        crops = []
        for query in matches[:, label].nonzero()[:, 0].tolist():
            check()
            logits, top, left = geometry.crop(mask_logits[query])
            if logits.numel():
                crops.append(((logits > 0).cpu().numpy(), top, left))
        top, left, bottom, right = _around(crops)
        covered = np.zeros((bottom - top, right - left), np.bool_)
        for inside, row, column in crops:
            height, width = inside.shape
            covered[row - top : row - top + height, column - left : column - left + width] |= inside
        covered &= class_map[top:bottom, left:right] == label
        masks.append(MaskRle.encode_crop(covered, top=top, left=left, image_hw=geometry.image_hw))
    return tuple(masks)


def _around(crops: Sequence[tuple[NDArray[np.bool_], int, int]]) -> tuple[int, int, int, int]:
    """Return the box around crops: top, left, bottom, right."""
    if not crops:
        return 0, 0, 0, 0
    return (
        min(top for _, top, _ in crops),
        min(left for _, _, left in crops),
        max(top + inside.shape[0] for inside, top, _ in crops),
        max(left + inside.shape[1] for inside, _, left in crops),
    )


def _winners(
    p: Tensor, matches: Tensor, mask_logits: Tensor, geometry: MaskGeometry, check: Check
) -> NDArray[np.int32]:
    """Return the class of each pixel (H, W) as in `semantic_bands`, −1 where it does not matter.

    It matters where a class that may win is covered by a query that matches it.
    """
    tiles = Tiles.of(geometry, mask_logits)
    least, most = p.T @ tiles.lowest.sigmoid(), p.T @ tiles.highest.sigmoid()  # (K, T) sums over queries
    possible = most >= least.max(dim=0).values * (1 - _ROUNDING)
    covered = matches.T.float() @ (tiles.highest > 0).float() > 0  # (K, T) by a query that matches the class
    relevant = (possible & covered).any(dim=0)
    alone = possible.sum(dim=0) == 1
    only = possible.float().argmax(dim=0).to(torch.int32).cpu().numpy()
    class_map = np.full(geometry.image_hw, _NONE, np.int32)
    for tile in (relevant & alone).nonzero()[:, 0].tolist():
        class_map[tiles.window(tile)] = only[tile]
    for tile in (relevant & ~alone).nonzero()[:, 0].tolist():
        check()
        candidates = possible[:, tile].nonzero()[:, 0]
        chances = tiles.logits(tile).sigmoid()
        sums = p[:, candidates].T @ chances.flatten(1)
        winners = candidates[sums.max(dim=0).indices].reshape(chances.shape[1:])
        class_map[tiles.window(tile)] = winners.to(torch.int32).cpu().numpy()
    return class_map
