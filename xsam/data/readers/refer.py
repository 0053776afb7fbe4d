"""The layout of REFER: phrases for objects of COCO, as in RefCOCO, RefCOCO+, RefCOCOg, and gRefCOCO.

What is wrong with a file is handled as in `annotations`: malformed phrases ("refs") and objects, and refs of
unknown objects, are skipped and counted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xsam.data.readers.annotations import Identity, image_records, skip, take_flag, take_id
from xsam.data.readers.categories import read_categories
from xsam.data.readers.files import Layout, read_json, require_file, take
from xsam.data.readers.plain_pickle import read_plain_pickle
from xsam.data.readers.source import count_if
from xsam.errors import DatasetError, InvalidOptionError, RecordError
from xsam.inference.prompts import clean_text

REFER_URL = "https://github.com/lichengunc/refer"
_NO_TARGET = -1
_MALFORMED = "malformed refs"


def find_refs(folder: Path, name: str, layout: Layout) -> Path:
    """Return the file `name` with the refs, as JSON if there is one, or else as a pickle.

    Raises:
        MissingDataError: there is neither.
    """
    path = folder / f"{name}.json"
    return path if path.is_file() else require_file(folder / f"{name}.p", layout)


class ReferFiles:
    """The refs of one split, by image.

    Args:
        refs: JSON file or pickle, a list of `{ref_id, ann_id, image_id, split, sentences: [{sent}]}`.
        instances: `instances.json`, in COCO's format.
        split: such as "val" or "testA".
        skipped: counts what is skipped.
        generalized: `ann_id` may be a list of ids, or [-1] if nothing in the image matches, as in gRefCOCO.

    Raises:
        DatasetError: a file is malformed, or has no such split.
    """

    def __init__(
        self, refs: Path, instances: Path, split: str, skipped: Counter[str], *, generalized: bool = False
    ) -> None:
        self._path = refs
        self._instances = instances
        self._split = split
        self._skipped = skipped
        self._generalized = generalized
        self._data = read_json(instances)
        self.names, self._class_of = read_categories(self._data, str(instances))

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the images of the split that have refs, in the order of `instances.json`.

        Yields:
            What `image_records` yields; `objects`: id and segmentation of each object that a ref of the split
            refers to; `classes`: their categories; `refs`: each the indices of its objects, and its texts;
            and `categories`: all that the image contains.
        """
        objects, categories_in = self._objects()
        refs: dict[Identity, list[tuple[list[Identity], list[str]]]] = defaultdict(list)
        for ref, where in self._refs():
            try:
                image_id = take_id(ref, "image_id", where)
                ids = self._targets(ref, where)
                sentences = take(ref, "sentences", list, where)
                texts = [clean_text(take(item, "sent", str, where)) for item in sentences]
                for identity in ids:
                    if identity not in objects or objects[identity]["image"] != image_id:
                        raise RecordError(
                            f"{where}: {self._instances.name} has no annotation {identity} in its image"
                        )
            except RecordError as error:
                skip(self._skipped, _MALFORMED, error)
                continue
            texts = [text for text in texts if text]
            if not count_if(self._skipped, "refs without text", not texts):
                refs[image_id].append((ids, texts))
        for image in image_records(self._data, self._instances, self._skipped):
            found = refs.pop(image["id"], [])
            if not found:
                continue  # in another split
            used = list(dict.fromkeys(identity for ids, _ in found for identity in ids))
            index_of = {identity: index for index, identity in enumerate(used)}
            yield {
                **image,
                "objects": [(identity, objects[identity]["segmentation"]) for identity in used],
                "classes": [objects[identity]["class"] for identity in used],
                "refs": [([index_of[identity] for identity in ids], texts) for ids, texts in found],
                "categories": sorted(categories_in[image["id"]]),
            }
        for image_id, lost in refs.items():
            for _ in lost:
                skip(self._skipped, "refs of unlisted images", f"{self._path}, image {image_id}")

    def _refs(self) -> Iterator[tuple[Any, str]]:
        refs = read_json(self._path) if self._path.suffix == ".json" else read_plain_pickle(self._path)
        if not isinstance(refs, list):
            raise DatasetError(f"{self._path} must hold a list of refs")
        splits: Counter[str] = Counter()
        for number, ref in enumerate(refs):
            try:
                where = f"{self._path}, ref {take_id(ref, 'ref_id', f'{self._path}, ref number {number}')}"
                splits[take(ref, "split", str, where)] += 1
            except RecordError as error:
                skip(self._skipped, _MALFORMED, error)
                continue
            if ref["split"] == self._split:
                yield ref, where
        if self._split not in splits:
            raise InvalidOptionError(
                f"{self._path} has no split {self._split!r}", hint=f"it has {', '.join(sorted(splits))}"
            )

    def _targets(self, ref: Any, where: str) -> list[Identity]:
        """Return the ids of the objects that a ref refers to."""
        if not self._generalized:
            return [take_id(ref, "ann_id", where)]
        ids = take(ref, "ann_id", object, where)
        ids = [take_id({"ann_id": i}, "ann_id", where) for i in (ids if isinstance(ids, list) else [ids])]
        targets = [identity for identity in dict.fromkeys(ids) if identity != _NO_TARGET]
        if len(targets) < len(ids) and targets:
            raise RecordError(f"{where}: 'ann_id' is {ids}: {_NO_TARGET} stands for no object")
        if take_flag(ref, "no_target", where) and targets:
            raise RecordError(f"{where}: 'no_target' is set, and 'ann_id' is {ids}")
        return targets

    def _objects(self) -> tuple[dict[Identity, dict[str, Any]], dict[Identity, set[int]]]:
        """Parse the annotations: by id, and the categories in each image."""
        objects: dict[Identity, dict[str, Any]] = {}
        ambiguous: set[Identity] = set()
        categories_in: dict[Identity, set[int]] = defaultdict(set)
        for number, entry in enumerate(take(self._data, "annotations", list, str(self._instances))):
            where = f"{self._instances}, annotation number {number}"
            try:
                identity, category = take_id(entry, "id", where), take_id(entry, "category_id", where)
                if category not in self._class_of:
                    raise RecordError(f"{where}: category {category} is not in 'categories'")
                parsed = {
                    "image": take_id(entry, "image_id", where),
                    "class": self._class_of[category],
                    "segmentation": take(entry, "segmentation", (list, dict), where),
                }
            except RecordError as error:
                skip(self._skipped, "malformed annotations", error)
                continue
            categories_in[parsed["image"]].add(parsed["class"])
            if objects.setdefault(identity, parsed) != parsed:
                ambiguous.add(identity)
        for identity in ambiguous:
            skip(self._skipped, "annotations with the id of another", f"{self._instances}, id {identity}")
            del objects[identity]
        return objects, categories_in
