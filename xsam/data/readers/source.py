"""Base class of the readers: packed records that name images in a folder."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.data.readers.annotations import describe_skips
from xsam.data.readers.files import (
    Layout,
    PackedRecords,
    find_image,
    read_rgb,
    require_folder,
    require_some_image,
)
from xsam.data.samples import PromptedImage
from xsam.errors import DatasetError, InvalidOptionError, InvalidQueryError, RecordError
from xsam.inference.prompts import Conversation, conversation_for
from xsam.types.requests import Query

_log = logging.getLogger(__name__)


class FileSource:
    """A `SampleSource` of images in a folder, with annotations that are indexed when it is opened.

    Images are read on demand; only one is located right away, so that a wrong folder is noticed before
    training starts. Subclasses implement `_read_records` and `_make_sample`; they set what these need before
    they call this constructor.

    Args:
        name: name used in logs and in the mixture.
        annotations: existing file, or folder of files, that holds the records.
        images: folder of the images.
        layout: what to tell the user when something is missing.

    Raises:
        MissingDataError: the folder does not exist, or none of the first images.
        DatasetError: there are no records.
    """

    _upright = False  # True: masks are for the image as it is shown, turned by its orientation tag

    def __init__(self, *, name: str, annotations: Path, images: str | Path, layout: Layout) -> None:
        self._name = name
        self._annotations = annotations
        self._images = require_folder(images, layout)
        self._layout = layout
        self._class_names: tuple[str, ...] = ()
        self._skipped: Counter[str] = Counter()
        self._records = PackedRecords(self._read_records())
        skipped = describe_skips(self._skipped)
        if not len(self):
            raise DatasetError(f"{annotations} holds no usable images", hint=f"skipped: {skipped}")
        names = (self._records[index]["file_name"] for index in range(len(self)))
        require_some_image(self._images, names, layout)
        _log.info("%s: %d images, skipped: %s", name, len(self), skipped)

    @property
    def name(self) -> str:
        return self._name

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._class_names

    @property
    def skipped(self) -> dict[str, int]:
        """Records that were skipped when the files were read: reason → count."""
        return dict(self._skipped)

    def __len__(self) -> int:
        return len(self._records)

    def sample(self, index: int, rng: np.random.Generator, *, prompts: int = 1) -> PromptedImage:
        """Implement `xsam.data.samples.SampleSource.sample`.

        Raises:
            IndexError: there is no such image.
            MissingDataError: a file of the image does not exist.
            RecordError: the record or a file of the image is malformed.
        """
        if prompts < 1:
            raise ValueError(f"prompts must be positive, got {prompts}")
        record, rgb, where = self._load(index)
        return self._make_sample(record, rgb, rng, prompts, where)

    def whole(self, index: int) -> PromptedImage:
        """Return an image with all prompts that its annotations hold, in their order, for benchmarks.

        Nothing is drawn and nothing is added: no absent phrases, and no regions that are not in the file.

        Raises:
            IndexError: there is no such image.
            MissingDataError: a file of the image does not exist.
            RecordError: the record or a file of the image is malformed.
            NotImplementedError: the dataset is no benchmark.
        """
        record, rgb, where = self._load(index)
        return self._make_whole(record, rgb, where)

    def _load(self, index: int) -> tuple[dict[str, Any], NDArray[np.uint8], str]:
        """Return the record and the image (H, W, 3) at an index, and their name for error messages."""
        record = self._records[index]
        where = f"{self._annotations}, image {record['id']}"
        path = find_image(self._images, record["file_name"], self._layout)
        rgb = read_rgb(path, where, upright=self._upright)
        annotated_hw = (record.get("height", rgb.shape[0]), record.get("width", rgb.shape[1]))
        if annotated_hw != rgb.shape[:2]:
            raise RecordError(
                f"{where}: {record['file_name']} has {rgb.shape[0]}×{rgb.shape[1]} pixels (height × width), "
                f"the annotations are for {annotated_hw[0]}×{annotated_hw[1]}"
            )
        return record, rgb, where

    def _read_records(self) -> Iterable[Mapping[str, Any]]:
        """Read the annotations, count skipped ones in `_skipped`, and set `_class_names` for a closed set.

        Returns:
            Mappings with at least `id` and `file_name`; `height` and `width`, if present, are compared with
            the image.
        """
        raise NotImplementedError

    def _make_sample(
        self,
        record: dict[str, Any],
        rgb: NDArray[np.uint8],
        rng: np.random.Generator,
        prompts: int,
        where: str,
    ) -> PromptedImage:
        """Turn a record and its image into a sample with at most `prompts` prompts.

        `where` names the file and the record in error messages.
        """
        raise NotImplementedError

    def _make_whole(self, record: dict[str, Any], rgb: NDArray[np.uint8], where: str) -> PromptedImage:
        """Turn a record and its image into a sample with all prompts; see `whole`."""
        raise NotImplementedError(f"{type(self).__name__} is no benchmark")


def record_conversation(query: Query, where: str) -> Conversation:
    """Call `conversation_for`; if the query is invalid, name the record in the error."""
    try:
        return conversation_for(query)
    except InvalidQueryError as error:
        raise RecordError(f"{where}: {error.message}") from error


def check_probability(name: str, value: float) -> float:
    """Return an option that must be between 0 and 1."""
    if not 0.0 <= value <= 1.0:
        raise InvalidOptionError(f"{name} must be between 0 and 1, got {value}")
    return value


def count_if(skipped: Counter[str], reason: str, condition: bool) -> bool:
    """Return the condition, and count the reason if it holds."""
    if condition:
        skipped[reason] += 1
    return condition
