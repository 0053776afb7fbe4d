"""Base of the readers: packed records that name pictures in a folder."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.data.readers.errors import DatasetError, Layout, RecordError
from xsam.data.readers.files import PackedRecords, find_image, read_rgb
from xsam.data.samples import PromptedImage
from xsam.errors import InvalidQueryError
from xsam.inference.prompts import Conversation, conversation_for
from xsam.types.requests import Query

_log = logging.getLogger(__name__)


class FileSource:
    """A `Source` of pictures in a folder, with annotations that are indexed when it is opened.

    Pictures are read when they are asked for; only the first is looked for at once, so that a wrong
    folder is noticed before training.

    Args:
        name: for logs and the mixture.
        annotations: the file, or folder of files, that holds the records; for messages.
        images: the folder of the pictures.
        layout: what to tell the user when something is missing.
        records: mappings with at least `id` and `file_name`; `height` and `width` are compared with
            the picture when they are there.
        skipped: why records were left out, and how many, as known when `records` has been consumed.
        class_names: the closed set, empty when there is none.

    Raises:
        MissingDataError: the first picture is not there.
        DatasetError: there is no record.
    """

    def __init__(
        self,
        *,
        name: str,
        annotations: Path,
        images: Path,
        layout: Layout,
        records: Iterable[Mapping[str, Any]],
        skipped: Mapping[str, int],
        class_names: tuple[str, ...] = (),
    ) -> None:
        self._name = name
        self._annotations = annotations
        self._images = images
        self._layout = layout
        self._class_names = class_names
        self._records = PackedRecords(records)
        self._skipped = dict(skipped)
        left_out = ", ".join(f"{count} {reason}" for reason, count in self._skipped.items()) or "none"
        if not len(self):
            raise DatasetError(f"{annotations} holds no usable picture", hint=f"left out: {left_out}")
        find_image(images, self._records[0]["file_name"], layout)
        _log.info("%s: %d pictures, left out: %s", name, len(self), left_out)

    @property
    def name(self) -> str:
        return self._name

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._class_names

    @property
    def skipped(self) -> dict[str, int]:
        """Records that were left out when the files were read: reason → number."""
        return dict(self._skipped)

    def __len__(self) -> int:
        return len(self._records)

    def sample(self, index: int, rng: np.random.Generator, *, prompts: int = 1) -> PromptedImage:
        """See `xsam.data.samples.Source`.

        Raises:
            IndexError: there is no such picture.
            MissingDataError: a file of the picture is not there.
            RecordError: the record or a file of the picture is malformed.
        """
        if prompts < 1:
            raise ValueError(f"prompts must be positive, got {prompts}")
        record = self._records[index]
        where = f"{self._annotations}, picture {record['id']}"
        rgb = read_rgb(find_image(self._images, record["file_name"], self._layout), where)
        stated = (record.get("height", rgb.shape[0]), record.get("width", rgb.shape[1]))
        if stated != rgb.shape[:2]:
            raise RecordError(
                f"{where}: {record['file_name']} has {rgb.shape[0]}×{rgb.shape[1]} pixels (height × width), "
                f"the annotations are for {stated[0]}×{stated[1]}"
            )
        return self._prompted(record, rgb, rng, prompts, where)

    def _prompted(
        self,
        record: dict[str, Any],
        rgb: NDArray[np.uint8],
        rng: np.random.Generator,
        prompts: int,
        where: str,
    ) -> PromptedImage:
        raise NotImplementedError


def ask(query: Query, where: str) -> Conversation:
    """`conversation_for`, with the record named when its text cannot be asked."""
    try:
        return conversation_for(query)
    except InvalidQueryError as error:
        raise RecordError(f"{where}: {error.message}") from error


def check_share(name: str, value: float) -> float:
    """An option that is a probability."""
    if not 0.0 <= value <= 1.0:
        raise DatasetError(f"{name} must be between 0 and 1, got {value}")
    return value


def count_if(skipped: Counter[str], reason: str, condition: bool) -> bool:
    """The condition, counted when it holds."""
    skipped[reason] += int(condition)
    return condition
