"""COCO instances in `annotations/instances_results.json`, for `images/`, as `xsam eval --coco` reads them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from xsam.media.sinks.base import Sink
from xsam.media.sinks.labels import LabelNumbers, is_answered
from xsam.types.requests import Query

ANNOTATIONS = Path("annotations") / "instances_results.json"
_EXTRA = (
    "track_id",
    "doubt",
    "chance",
    "ignore",
    "model",
    "prompt",
    "threshold",
    "carried",
    "item",
    "decision",
)


class CocoSink(Sink):
    """Everything that the journal holds, written when the run ends.

    Masks are compressed run-length codes, exact to the pixel. Each annotation has its `score`, `track_id` if
    objects are tracked, and `doubt` if something speaks against it. A frame with a query that was not
    answered is left out:
    what has no annotation in it may be there.
    """

    def __init__(self, folder: Path, queries: Sequence[Query]) -> None:
        self._path = folder / ANNOTATIONS
        self._labels = LabelNumbers(queries)
        self._left_out = 0

    def finish(self, entries: Callable[[], Iterable[dict[str, Any]]]) -> list[Path]:
        self._labels.read(entries())
        self._left_out = sum(not is_answered(entry) for entry in entries() if "results" in entry)
        write_coco(self._path, entries, self._labels, description="results of xsam segment")
        return [self._path]

    def notes(self) -> list[str]:
        if not self._left_out:
            return []
        return [f"{self._left_out} frames are not in COCO's annotations: not all queries were answered"]


def write_coco(
    path: Path, entries: Callable[[], Iterable[dict[str, Any]]], labels: LabelNumbers, *, description: str
) -> None:
    """Write a file of instances; it appears whole or not at all.

    Args:
        path: of the file.
        entries: returns the lines of a journal, as often as it is called. A segment with `ignore` becomes a
            region in which detections are neither right nor wrong (`iscrowd`).
        labels: the number of each category.
        description: of the data.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.writelines(_parts(entries, labels, description))
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(draft, 0o644)
        os.replace(draft, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(draft)
        raise


def _parts(
    entries: Callable[[], Iterable[dict[str, Any]]], labels: LabelNumbers, description: str
) -> Iterator[str]:
    """Yield the file piece by piece: it may be larger than memory."""
    categories = [{"id": number + 1, "name": name} for number, name in enumerate(labels.names)]
    yield f'{{"info": {{"description": {json.dumps(description)}}},\n'
    yield f'"categories": {json.dumps(categories)},\n'
    yield '"images": ['
    yield from _joined(_image(number, entry) for number, entry in _used(entries()))
    yield '],\n"annotations": ['
    yield from _joined(_annotations(entries(), labels))
    yield "]}\n"


def _annotations(entries: Iterable[dict[str, Any]], labels: LabelNumbers) -> Iterator[dict[str, Any]]:
    identity = 0
    for image_id, entry in _used(entries):
        for segment in (segment for result in entry["results"] for segment in result["segments"]):
            identity += 1
            x_min, y_min, x_max, y_max = segment["box_xyxy"]
            yield {
                "id": identity,
                "image_id": image_id,
                "category_id": labels.number(segment["label"]) + 1,
                "segmentation": segment["mask"],
                "area": segment["area_px"],
                "bbox": [x_min, y_min, x_max - x_min, y_max - y_min],
                "iscrowd": int(segment.get("ignore", 0)),
                "score": segment["score"],
                **{key: segment[key] for key in _EXTRA if key in segment},
            }


def _used(entries: Iterable[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    return enumerate((entry for entry in entries if is_answered(entry)), start=1)


def _image(identity: int, entry: dict[str, Any]) -> dict[str, Any]:
    size = entry["results"][0]["image"]
    return {
        "id": identity,
        "file_name": f"{entry['name']}.jpg",
        "width": size["width"],
        "height": size["height"],
        "source": entry["source"],
        "frame": entry["frame"],
        "stamp_ns": entry["stamp_ns"],
    }


def _joined(items: Iterable[dict[str, Any]]) -> Iterator[str]:
    separator = "\n"
    for item in items:
        yield separator + json.dumps(item, separators=(",", ":"))
        separator = ",\n"
