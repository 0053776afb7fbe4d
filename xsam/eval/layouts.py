"""Annotations of whole images in COCO's panoptic format, as panoptic and semantic questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.data.readers.annotations import Identity, id_order, panoptic_records
from xsam.data.readers.categories import read_categories, read_things
from xsam.data.readers.coco import read_segments
from xsam.data.readers.files import Layout, find_image, read_json, read_labels
from xsam.errors import DatasetError, InvalidQueryError, RecordError
from xsam.eval.questions import Question, layout_questions, semantic_question
from xsam.types.requests import Query, Task

_VOID = 255  # in maps of classes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Panoptic:
    """Panoptic annotations of a split.

    Attributes:
        masks: folder of the PNG files with the segments.
        things: names of the thing classes.
        stuff: names of the stuff classes.
        label_of: category id → index in `things` + `stuff`.
        records: image id → record; see `panoptic_records`.
        layout: what to tell the user when a file is missing.
        where: the file, for error messages.
        class_maps: folder of PNG files with the category id of each pixel, 255 = void, for the semantic
            questions; None = their classes are those of the segments.
        score_threshold: of all queries; None = that of the model.
    """

    masks: Path
    things: tuple[str, ...]
    stuff: tuple[str, ...]
    label_of: Mapping[Identity, int]
    records: Mapping[Identity, Mapping[str, Any]]
    layout: Layout
    where: str
    class_maps: Path | None = None
    score_threshold: float | None = None

    @classmethod
    def read(
        cls,
        path: Path,
        masks: Path,
        skipped: Counter[str],
        *,
        layout: Layout,
        class_maps: Path | None = None,
        score_threshold: float | None = None,
    ) -> Panoptic:
        """Read the JSON file; for the arguments see the attributes.

        Raises:
            DatasetError: see `xsam.data.readers.annotations`.
        """
        data = read_json(path)
        names, class_of = read_categories(data, str(path))
        is_thing = read_things(data, names, str(path))
        label_of, ordered = order_labels(names, class_of, first=is_thing)
        things = tuple(name for name in ordered if is_thing[names.index(name)])
        records = panoptic_records(data, label_of, path, skipped, keep_empty=True)
        found = cls(
            masks=masks,
            things=things,
            stuff=ordered[len(things) :],
            label_of=label_of,
            records={record["id"]: record for record in records},
            layout=layout,
            where=str(path),
            class_maps=class_maps,
            score_threshold=score_threshold,
        )
        check_query(Query(task=Task.GENERIC, thing_classes=found.things, stuff_classes=found.stuff), path)
        return found

    def questions(
        self, image_id: Identity, image_hw: tuple[int, int], tasks: Collection[str]
    ) -> Iterator[Question]:
        """Yield those of the panoptic and the semantic question about an image (H, W) that are in `tasks`.

        Raises:
            DatasetError: a file of the image is missing or does not match the annotations.
        """
        record = self.records[image_id]
        where = f"{self.where}, image {image_id}"
        if "panoptic" in tasks or ("semantic" in tasks and self.class_maps is None):
            path = find_image(self.masks, record["mask"], self.layout)
            ids = read_segments(path, record["segments"], image_hw, where)
            for question in layout_questions(
                ids.astype(np.int64),
                {segment: label for segment, label, _ in record["segments"]},
                things=self.things,
                stuff=self.stuff,
                crowd=frozenset(segment for segment, _, crowd in record["segments"] if crowd),
                score_threshold=self.score_threshold,
            ):
                if question.group in tasks and (question.group == "panoptic" or self.class_maps is None):
                    yield question
        if "semantic" in tasks and self.class_maps is not None:
            name = f"{Path(record['file_name']).stem}.png"
            classes = self._class_map(find_image(self.class_maps, name, self.layout), image_hw, where)
            yield semantic_question(
                classes, (*self.things, *self.stuff), score_threshold=self.score_threshold
            )

    def _class_map(self, path: Path, image_hw: tuple[int, int], where: str) -> NDArray[np.int64]:
        ids = read_labels(path, where)
        if ids.shape != image_hw:
            raise RecordError(f"{where}: {path.name} differs from the image in size")
        label_of = np.full(256, -2, np.int64)
        label_of[_VOID] = -1
        for identity, label in self.label_of.items():
            if isinstance(identity, int) and 0 <= identity < _VOID:
                label_of[identity] = label
        labels = label_of[ids]
        if (labels == -2).any():
            unknown = sorted(set(ids[labels == -2].tolist()))
            raise RecordError(f"{where}: {path.name} has values that are no category ids: {unknown[:5]}")
        return labels


def order_labels(
    names: Sequence[str], class_of: Mapping[Identity, int], first: Sequence[bool] = ()
) -> tuple[dict[Identity, int], tuple[str, ...]]:
    """Order categories by id, those of `first` before the others, and join those of one name.

    Returns:
        category id → label index, and the names by label index.
    """
    ids = sorted(class_of, key=lambda key: (len(first) > 0 and not first[class_of[key]], *id_order(key)))
    ordered = tuple(dict.fromkeys(names[class_of[key]] for key in ids))
    index_of = {name: index for index, name in enumerate(ordered)}
    return {key: index_of[names[index]] for key, index in class_of.items()}, ordered


def check_query(query: Query, path: Path) -> None:
    """Check the query that is asked about every image, before the model is loaded."""
    try:
        query.validate()
    except InvalidQueryError as error:
        raise DatasetError(
            f"{path}: its categories cannot be asked for in one query: {error.message}",
            hint="remove categories from the file, or split it",
        ) from error
