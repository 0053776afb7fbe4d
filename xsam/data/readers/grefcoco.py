"""gRefCOCO: phrases that refer to any number of objects, or to nothing in the image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.data.readers.files import Layout, require_file, require_folder
from xsam.data.readers.refcoco import all_phrases, decode_targets, phrase_prompt
from xsam.data.readers.refer import ReferFiles, find_refs
from xsam.data.readers.source import FileSource
from xsam.data.samples import PromptedImage

LAYOUT = Layout(
    dataset="gRefCOCO",
    folders=(
        "grefcoco/grefs(unc).json and grefcoco/instances.json in the root folder, and the images of COCO "
        "train2014"
    ),
    published="https://github.com/henghuiding/gRefCOCO",
)


class GRefCoco(FileSource):
    """Generalized referring expressions: each refers to no, one, or several objects.

    Args:
        root: folder that contains `grefcoco/`, with `grefs(unc).json` and `instances.json`.
        images: folder of COCO's `train2014` images.
        split: "train", "val", "testA", or "testB".
        name: name used in logs and in the mixture.

    Source: Liu et al. 2023 (GRES, arXiv 2306.00968).
    """

    def __init__(
        self, *, root: str | Path, images: str | Path, split: str = "train", name: str = "grefcoco"
    ) -> None:
        folder = require_folder(Path(root) / "grefcoco", LAYOUT)
        path = find_refs(folder, "grefs(unc)", LAYOUT)
        self._split = split
        self._instances = require_file(folder / "instances.json", LAYOUT)
        super().__init__(name=name, annotations=path, images=images, layout=LAYOUT)

    def _read_records(self) -> Iterator[dict[str, Any]]:
        files = ReferFiles(self._annotations, self._instances, self._split, self._skipped, generalized=True)
        yield from files.records()

    def _make_sample(
        self,
        record: dict[str, Any],
        rgb: NDArray[np.uint8],
        rng: np.random.Generator,
        prompts: int,
        where: str,
    ) -> PromptedImage:
        masks = decode_targets(record, rgb.shape[:2], where)
        drawn = []
        for pick in rng.permutation(len(record["refs"]))[:prompts]:
            indices, texts = record["refs"][pick]
            drawn.append(phrase_prompt(texts[rng.integers(len(texts))], indices, len(masks), where))
        return PromptedImage(rgb=rgb, masks=masks, prompts=tuple(drawn))

    def _make_whole(self, record: dict[str, Any], rgb: NDArray[np.uint8], where: str) -> PromptedImage:
        masks = decode_targets(record, rgb.shape[:2], where)
        return PromptedImage(rgb=rgb, masks=masks, prompts=all_phrases(record, len(masks), where))
