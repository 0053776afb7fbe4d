"""Categories of a closed set, and prompts that list a subset of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.data.readers.annotations import Identity, take_flag, take_id
from xsam.data.readers.files import take
from xsam.data.readers.source import check_probability, record_conversation
from xsam.data.samples import NO_CONDITION, TrainPrompt
from xsam.errors import InvalidOptionError, RecordError
from xsam.inference.prompts import category_name
from xsam.types.requests import Query, Task


def read_categories(data: Any, where: str) -> tuple[tuple[str, ...], dict[Identity, int]]:
    """Read the field `categories` of a COCO file.

    Returns:
        names in file order, and category id → index.

    Raises:
        RecordError: there are no categories, or one has no name or a duplicate id.
    """
    names: list[str] = []
    index_of: dict[Identity, int] = {}
    for index, category in enumerate(take(data, "categories", list, where)):
        entry = f"{where}, category number {index}"
        name, identity = take(category, "name", str, entry), take_id(category, "id", entry)
        if identity in index_of:
            other = names[index_of[identity]]
            raise RecordError(f"{entry}: {name!r} is a duplicate of {other!r}: both have the id {identity}")
        if not category_name(name):
            raise RecordError(f"{entry}: {name!r} is not a valid name")
        index_of[identity] = index
        names.append(name)
    if not names:
        raise RecordError(f"{where}: 'categories' is empty")
    return tuple(names), index_of


def read_things(data: Any, names: Sequence[str], where: str) -> tuple[bool, ...]:
    """Read for each category of a panoptic file whether it is a thing (True) or stuff.

    Raises:
        RecordError: a category does not say, or one name is used for both.
    """
    things = []
    for index, category in enumerate(data["categories"]):
        entry = f"{where}, category number {index}"
        take(category, "isthing", object, entry)
        things.append(take_flag(category, "isthing", entry))
    both = {n for n, thing in zip(names, things, strict=True) if thing} & {
        n for n, thing in zip(names, things, strict=True) if not thing
    }
    if both:
        raise RecordError(f"{where}: {min(both)!r} is the name of a thing and of stuff")
    return tuple(things)


class CategoryPrompts:
    """Draws prompts that list the categories in an image, mixed with some that are absent.

    Categories that are identical once COCO's suffixes are removed ("wall-other", "wall") form one condition.

    Args:
        names: the closed set.
        absent_categories: maximum number of categories that are not in the image; None means as many as fit.
            The number is drawn uniformly, so short and long lists occur.
        all_absent_share: how often the maximum number of absent categories is listed; for COCO and the
            defaults this is the full list, as in evaluation.
        max_categories: maximum number of categories in a prompt. If the image has more, some of its
            categories are not asked for.

    Source: X-SAM asks half of the time for all categories, and otherwise for the present ones and a random
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
            raise InvalidOptionError(
                "absent_categories must not be negative, max_categories must be positive"
            )
        self._texts = list(dict.fromkeys(category_name(name) for name in names))
        self._text_of = np.array([self._texts.index(category_name(name)) for name in names], np.int64)
        self._absent = absent_categories
        self._all_absent_share = check_probability("all_absent_share", all_absent_share)
        self._max = max_categories

    def draw(self, classes: NDArray[np.int64], rng: np.random.Generator, where: str) -> TrainPrompt:
        """Draw a prompt for an image.

        Args:
            classes: (N,) index of each mask in the closed set. If there are no masks, at least one absent
                category is listed, regardless of the options.
            rng: draws the absent categories and the order.
            where: file and record, for error messages.
        """
        texts = self._text_of[classes]
        present = rng.permutation(np.unique(texts))[: self._max]
        others = np.setdiff1d(np.arange(len(self._texts)), texts)
        max_count = min(len(others), self._max - len(present))
        if self._absent is not None:
            max_count = min(max_count, self._absent)
        count = max_count if rng.random() < self._all_absent_share else int(rng.integers(max_count + 1))
        if len(present) == 0:
            count = max(1, count)
        listed = rng.permutation(np.concatenate([present, rng.choice(others, count, replace=False)]))
        condition = np.full(len(self._texts), NO_CONDITION, np.int64)
        condition[listed] = np.arange(len(listed))
        # One list for things and stuff: the text does not distinguish them, and their order must be mixed.
        query = Query(task=Task.GENERIC, thing_classes=tuple(self._texts[i] for i in listed))
        conversation = record_conversation(query, where)
        return TrainPrompt(kind="generic", conversation=conversation, labels=condition[texts])
