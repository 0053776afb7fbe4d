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
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.writelines(self._parts(entries))
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(draft, 0o644)
            os.replace(draft, self._path)
        except BaseException:
            with suppress(OSError):
                os.unlink(draft)
            raise
        return [self._path]

    def notes(self) -> list[str]:
        if not self._left_out:
            return []
        return [f"{self._left_out} frames are not in COCO's annotations: not all queries were answered"]

    def _parts(self, entries: Callable[[], Iterable[dict[str, Any]]]) -> Iterator[str]:
        """Yield the file piece by piece: it may be larger than memory."""
        categories = [{"id": number + 1, "name": name} for number, name in enumerate(self._labels.names)]
        yield '{"info": {"description": "results of xsam segment"},\n'
        yield f'"categories": {json.dumps(categories)},\n'
        yield '"images": ['
        yield from _joined(_image(number, entry) for number, entry in _used(entries()))
        yield '],\n"annotations": ['
        yield from _joined(self._annotations(entries()))
        yield "]}\n"

    def _annotations(self, entries: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        identity = 0
        for image_id, entry in _used(entries):
            for segment in (segment for result in entry["results"] for segment in result["segments"]):
                identity += 1
                x_min, y_min, x_max, y_max = segment["box_xyxy"]
                yield {
                    "id": identity,
                    "image_id": image_id,
                    "category_id": self._labels.number(segment["label"]) + 1,
                    "segmentation": segment["mask"],
                    "area": segment["area_px"],
                    "bbox": [x_min, y_min, x_max - x_min, y_max - y_min],
                    "iscrowd": 0,
                    "score": segment["score"],
                    **{key: segment[key] for key in ("track_id", "doubt") if key in segment},
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
