"""Readers of the datasets that X-SAM is trained on (arXiv 2508.04655), in their published formats.

`open_source` opens a dataset by its kind::

    source = open_source("coco_panoptic", annotations="…/panoptic_train2017.json", masks="…", images="…")
    sample = source.sample(0, np.random.default_rng(0))

Annotations are indexed when a source is opened; for the largest datasets this takes about a minute and
temporarily a few GB of memory, a tenth of which stays in use. Images are read one by one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from xsam.data.readers.coco import CocoInstances, CocoPanoptic
from xsam.data.readers.gcg import GroundedCaptions
from xsam.data.readers.grefcoco import GRefCoco
from xsam.data.readers.llava import LlavaChat
from xsam.data.readers.reason_seg import ReasonSeg
from xsam.data.readers.refcoco import RefCoco
from xsam.data.readers.regions import CocoRegions
from xsam.data.readers.source import FileSource
from xsam.errors import DatasetError, InvalidOptionError, MissingDataError, RecordError
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
        DatasetError: a file is damaged.
        InvalidOptionError: the kind or an option is unknown, or a value is not allowed.
    """
    if kind not in READERS:
        raise InvalidOptionError(f"unknown dataset kind {kind!r}", hint=f"known: {', '.join(READERS)}")
    reader = READERS[kind]
    signature = inspect.signature(reader, eval_str=True)
    try:
        signature.bind(**options)
    except TypeError as error:
        raise InvalidOptionError(
            f"{kind}: {error}", hint=f"options: {', '.join(signature.parameters)}"
        ) from error
    for name, value in options.items():
        expected = signature.parameters[name].annotation
        if not _fits(value, expected):
            raise InvalidOptionError(f"{kind}: {name} must be {_in_words(expected)}, got {value!r:.80}")
    return reader(**options)


def _fits(value: Any, expected: Any) -> bool:
    """Tell whether a value from a recipe or a command line has the type that a reader declares."""
    if isinstance(expected, UnionType):
        return any(_fits(value, one) for one in get_args(expected))
    if get_origin(expected) is Sequence:
        return isinstance(value, (list, tuple)) and all(_fits(item, get_args(expected)[0]) for item in value)
    if expected in (int, float):
        return isinstance(value, (int, expected)) and not isinstance(value, bool)
    return isinstance(value, expected)


def _in_words(expected: Any) -> str:
    if isinstance(expected, UnionType):
        return " or ".join(dict.fromkeys(map(_in_words, get_args(expected))))
    if get_origin(expected) is Sequence:
        return "a list"
    known = {str: "text", Path: "text", int: "a whole number", float: "a number", bool: "true or false"}
    return known.get(expected, "null")
