"""The batches of a run, built on demand: planned images, with prompts drawn by batch number."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from xsam.data.samples import PromptedImage, SampleSource
from xsam.errors import DatasetError
from xsam.train.collate import Collator, TrainBatch
from xsam.train.mixture import BatchPlan
from xsam.train.stages import StageConfig

_log = logging.getLogger(__name__)


class PlannedBatches(IterableDataset[TrainBatch]):
    """This process's share of every planned batch, from batch `first` on."""

    def __init__(
        self, sources: Sequence[SampleSource], plan: BatchPlan, collate: Collator, config: StageConfig
    ) -> None:
        self.sources, self.plan, self.collate, self.config = sources, plan, collate, config
        self.first, self.rank, self.processes = 0, 0, 1
        self.unreadable: set[tuple[str, int]] = set()

    def __iter__(self) -> Any:
        worker = torch.utils.data.get_worker_info()
        number = self.first + (worker.id if worker else 0)
        stride = worker.num_workers if worker else 1
        while True:
            yield self.make(number)
            number += stride

    def make(self, number: int) -> TrainBatch:
        """Build this process's share of a batch; it depends only on the number and the plan."""
        planned = self.plan[number]
        source = self.sources[planned.source]
        samples = [
            self._sample(source, index, [*planned.seed, row])
            for row, index in enumerate(planned.indices)
            if row % self.processes == self.rank
        ]
        return self.collate(samples)

    def _sample(self, source: SampleSource, index: int, seed: Sequence[int]) -> PromptedImage:
        """Sample the image, or the next readable one: one bad file in a million must not end a run.

        Raises:
            DatasetError: more images than the recipe allows cannot be read, or all of a source.
        """
        problem = ""
        for _ in range(len(source)):
            if (source.name, index) not in self.unreadable:  # otherwise it is neither read nor logged again
                try:
                    return source.sample(
                        index, np.random.default_rng(seed), prompts=self.config.prompts_per_image
                    )
                except DatasetError as error:
                    problem = str(error)
                    self.unreadable.add((source.name, index))
                    if len(self.unreadable) > self.config.max_unreadable:
                        raise
                    _log.warning("skipped an image (%d so far): %s", len(self.unreadable), error)
            index = (index + 1) % len(source)
        raise DatasetError(
            f"none of the {len(source)} images of {source.name} can be read",
            hint=f"the last one: {problem}" if problem else "earlier warnings name them",
        )
