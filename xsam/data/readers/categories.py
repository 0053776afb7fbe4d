"""Categories of a closed set, and prompts that list some of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.data.readers.errors import DatasetError, RecordError
from xsam.data.readers.files import take
from xsam.data.readers.source import ask, check_share
from xsam.data.samples import NO_CONDITION, TrainPrompt
from xsam.inference.prompts import category_name
from xsam.types.requests import Query, Task


def read_categories(data: Any, where: str) -> tuple[tuple[str, ...], dict[int, int]]:
    """The field `categories` of a COCO file.

    Returns:
        names in the order of the file, and category id → index.

    Raises:
        RecordError: there is none, or one without a name or with the id of another.
    """
    names: list[str] = []
    index: dict[int, int] = {}
    for number, category in enumerate(take(data, "categories", list, where)):
        place = f"{where}, category number {number}"
        name, identity = take(category, "name", str, place), take(category, "id", int, place)
        if identity in index or not category_name(name):
            raise RecordError(f"{place}: {name!r} has no name, or the id {identity} of another")
        index[identity] = number
        names.append(name)
    if not names:
        raise RecordError(f"{where}: 'categories' is empty")
    return tuple(names), index


class CategoryPrompts:
    """Draws prompts that list categories: those in the picture among some that are not.

    Categories that read the same once COCO's suffixes are dropped ("wall-other", "wall") are one
    condition.

    Args:
        names: the closed set.
        absent_categories: at most so many that are not in the picture; None = as many as fit. How many
            is drawn evenly, so short and long lists occur.
        all_absent_share: how often as many absent ones as allowed are listed, which for COCO and the
            defaults is the full list, as at evaluation.
        max_categories: at most so many categories in a prompt. Is this less than what is in the
            picture, some of that goes unasked.

    Source: X-SAM asks half of the time for all categories and else for the present ones and a random
    number of others, in random order.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        absent_categories: int | None = None,
        all_absent_share: float = 0.5,
        max_categories: int = 150,
    ) -> None:
        if (absent_categories or 0) < 0 or max_categories < 1:
            raise DatasetError("absent_categories must not be negative, max_categories must be positive")
        self._texts = list(dict.fromkeys(category_name(name) for name in names))
        self._text_of = np.array([self._texts.index(category_name(name)) for name in names], np.int64)
        self._absent = absent_categories
        self._all_absent_share = check_share("all_absent_share", all_absent_share)
        self._max = max_categories

    def draw(self, classes: NDArray[np.int64], rng: np.random.Generator, where: str) -> TrainPrompt:
        """A prompt for a picture.

        Args:
            classes: (N,) index of each mask in the closed set. If there is no mask, at least one absent
                category is asked for whatever the options say.
            rng: draws the absent categories and the order.
            where: file and record, for messages.
        """
        texts = self._text_of[classes]
        present = rng.permutation(np.unique(texts))[: self._max]
        others = np.setdiff1d(np.arange(len(self._texts)), texts)
        limit = min(len(others), self._max - len(present))
        if self._absent is not None:
            limit = min(limit, self._absent)
        count = limit if rng.random() < self._all_absent_share else int(rng.integers(limit + 1))
        if len(present) == 0:
            count = max(1, count)
        listed = rng.permutation(np.concatenate([present, rng.choice(others, count, replace=False)]))
        condition = np.full(len(self._texts), NO_CONDITION, np.int64)
        condition[listed] = np.arange(len(listed))
        # One list for things and stuff: the text does not tell them apart, and their order is to be mixed.
        query = Query(task=Task.GENERIC, thing_classes=tuple(self._texts[i] for i in listed))
        return TrainPrompt(kind="generic", conversation=ask(query, where), labels=condition[texts])
