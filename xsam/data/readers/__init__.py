"""Readers of the datasets that X-SAM is trained on (arXiv 2508.04655), in their published formats.

`open_source` opens a dataset by its kind::

    source = open_source("coco_panoptic", annotations="…/panoptic_train2017.json", masks="…", images="…")
    sample = source.sample(0, np.random.default_rng(0))

Annotations are indexed when a source is opened; for the largest datasets this takes about a minute and
temporarily a few GB of memory, a tenth of which stays in use. Images are read one by one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from xsam.data.readers.coco import CocoInstances, CocoPanoptic
from xsam.data.readers.gcg import GroundedCaptions
from xsam.data.readers.grefcoco import GRefCoco
from xsam.data.readers.llava import LlavaChat
from xsam.data.readers.reason_seg import ReasonSeg
from xsam.data.readers.refcoco import RefCoco
from xsam.data.readers.regions import CocoRegions
from xsam.data.readers.source import FileSource
from xsam.errors import DatasetError, MissingDataError, RecordError
from xsam.types.requests import Task

__all__ = ["READERS", "DatasetError", "FileSource", "MissingDataError", "RecordError", "open_source"]

READERS: dict[str, Callable[..., FileSource]] = {
    "coco_panoptic": CocoPanoptic,
    "coco_instance": CocoInstances,
    "refcoco": partial(RefCoco, "refcoco"),
    "refcoco+": partial(RefCoco, "refcoco+"),
    "refcocog": partial(RefCoco, "refcocog"),
    "grefcoco": GRefCoco,
    "reason_seg": ReasonSeg,
    "gcg_grandf": partial(GroundedCaptions, "grandf"),
    "gcg_openpsg": partial(GroundedCaptions, "openpsg"),
    "gcg_refcocog": partial(GroundedCaptions, "refcocog"),
    "gcg_flickr": partial(GroundedCaptions, "flickr"),
    "coco_vgd": partial(CocoRegions, Task.VISUAL_GROUNDED.value),
    "coco_interactive": partial(CocoRegions, Task.INTERACTIVE.value),
    "llava": LlavaChat,
}


def open_source(kind: str, **options: Any) -> FileSource:
    """Open a dataset on disk.

    Args:
        kind: a key of `READERS`.
        options: arguments of the reader, in particular the paths of the files.

    Raises:
        MissingDataError: a file or folder does not exist; the hint describes the expected layout.
        RecordError: a record is malformed.
        DatasetError: the kind or an option is unknown, or a file is damaged.
    """
    if kind not in READERS:
        raise DatasetError(f"unknown dataset kind {kind!r}", hint=f"known: {', '.join(READERS)}")
    reader = READERS[kind]
    signature = inspect.signature(reader)
    try:
        signature.bind(**options)
    except TypeError as error:
        raise DatasetError(f"{kind}: {error}", hint=f"options: {', '.join(signature.parameters)}") from error
    return reader(**options)
