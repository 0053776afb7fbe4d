"""Assignment of images to batches: balanced sources, one source per batch, reproducible by batch number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedBatch:
    """A batch of images from one source; `seed` draws their prompts."""

    source: int
    indices: tuple[int, ...]
    seed: tuple[int, ...]


def repeat_factors(sizes: Sequence[int], balance: float) -> list[float]:
    """Compute how often each source is repeated: `max(1, sqrt(t / f))` with f its share of all images.

    Source: section 4 of the paper, after LVIS (arXiv 1908.03195).
    """
    total = sum(sizes)
    if total == 0 or min(sizes) < 1:
        raise ValueError(f"every source needs at least one image, got sizes {list(sizes)}")
    return [max(1.0, math.sqrt(balance * total / size)) for size in sizes]


class BatchPlan:
    """An endless, reproducible sequence of batches; batch n depends only on n and the seed.

    In an epoch, every image of a source appears `floor(r)` or `ceil(r)` times, where r is the source's repeat
    factor. The last batch of a source is padded with images from its beginning.
    """

    def __init__(self, sizes: Sequence[int], *, batch_size: int, balance: float, seed: int) -> None:
        self.sizes = list(sizes)
        self.batch_size = batch_size
        self.factors = repeat_factors(sizes, balance)
        self.seed = seed
        self.batches_per_epoch = sum(
            math.ceil(round(size * factor) / batch_size)
            for size, factor in zip(self.sizes, self.factors, strict=True)
        )
        self._epoch = -1
        self._order: list[tuple[int, tuple[int, ...]]] = []

    def __getitem__(self, number: int) -> PlannedBatch:
        epoch, position = divmod(number, self.batches_per_epoch)
        if epoch != self._epoch:
            self._order = self._shuffled(epoch)
            self._epoch = epoch
        source, indices = self._order[position]
        return PlannedBatch(source=source, indices=indices, seed=(self.seed, number))

    def _shuffled(self, epoch: int) -> list[tuple[int, tuple[int, ...]]]:
        rng = np.random.default_rng([self.seed, epoch, 17])
        batches = []
        for source, (size, factor) in enumerate(zip(self.sizes, self.factors, strict=True)):
            whole, total = int(factor), round(size * factor)
            rounds = [rng.permutation(size) for _ in range(whole)]
            rounds.append(rng.permutation(size)[: total - whole * size])
            indices = np.concatenate(rounds)
            missing = -len(indices) % self.batch_size
            indices = np.concatenate([indices, np.resize(indices, missing)])
            batches += [
                (source, tuple(int(i) for i in indices[k : k + self.batch_size]))
                for k in range(0, len(indices), self.batch_size)
            ]
        return [batches[i] for i in rng.permutation(len(batches))]
