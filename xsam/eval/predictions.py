"""Results of an evaluation on disk, so that they can be scored again and an interrupted run can go on.

A folder holds `predictions.jsonl`, one line per image that is written as soon as the image is done, and
`scores.json`. The first line describes the evaluation: with another model or other data, it is not continued.
While several processes evaluate together, each of the others has a file `predictions.<number>.jsonl`, of
which the first process makes a part of its own.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.errors import DatasetError, InvalidOptionError, XSamError
from xsam.eval.processes import Processes
from xsam.eval.questions import Question
from xsam.types.masks import MaskRle
from xsam.types.requests import Query, SegmentationResult, Segments, Status

PREDICTIONS, SCORES = "predictions.jsonl", "scores.json"
_OTHERS = "predictions.*.jsonl"
_TEXT_FIELDS = ("text", "message", "code", "hint", "model_id")
_ANSWERED = (Status.FOUND.value, Status.UNSURE.value, Status.NOT_FOUND.value)


class PredictionFile:
    """The predictions of one evaluation, by image.

    Args:
        folder: created if it does not exist.
        evaluation: what identifies the evaluation, as JSON: model, data, seed, …
        resume: use the results that the folder holds, and add the missing ones.
        processes: the processes that share the folder; all of them must open it.

    Raises:
        InvalidOptionError: the folder holds predictions and `resume` is False, or another evaluation's.
        DatasetError: they are damaged, or cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        evaluation: Mapping[str, Any],
        *,
        resume: bool = False,
        processes: Processes | None = None,
    ) -> None:
        processes = processes or Processes()
        self._folder = folder
        self._header = {"evaluation": json.loads(json.dumps(evaluation))}
        self._saved: dict[str, list[Any]] = {}
        self._failed: dict[str, list[Any]] = {}  # of this run: the next one asks again
        self._is_main = processes.is_main
        if self._is_main:
            self.path = folder / PREDICTIONS
            self._file = self._open(resume)
            try:
                self._gather(keep_failed=False)  # of a run that ended early
            except DatasetError:
                self.close()
                raise
        processes.wait()  # the first process has checked the folder
        if not self._is_main:
            self._saved.update(self._entries(folder / PREDICTIONS))
            self.path = folder / f"predictions.{processes.index}.jsonl"
            self._file = io.FileIO(self.path, "w")
            self._write(self._header)

    def saved(
        self, key: str, questions: Sequence[Question], rgb: NDArray[np.uint8]
    ) -> list[SegmentationResult] | None:
        """Return the saved results for an image (H, W, 3).

        Returns:
            One result per question; None if there are none for exactly these questions and pixels.

        Raises:
            DatasetError: the results are damaged.
        """
        image_hw, pixels = (int(rgb.shape[0]), int(rgb.shape[1])), _checksum(rgb)
        records = self._saved.get(key, self._failed.get(key))
        if records is None:
            return None
        try:
            if [record["query"] for record in records] != [_digest(q.query, pixels) for q in questions]:
                return None
            pairs = zip(records, questions, strict=True)
            return [_from_record(record, question.query, image_hw) for record, question in pairs]
        except (AttributeError, LookupError, OverflowError, TypeError, ValueError, XSamError) as error:
            raise DatasetError(
                f"{self.path}: the results for image {key} are damaged: {error}",
                hint="remove the line, or choose another folder",
            ) from error

    def add(self, key: str, results: Sequence[SegmentationResult], rgb: NDArray[np.uint8]) -> None:
        """Save the results for an image (H, W, 3); they survive a crash of this process.

        If one of them is refused or failed, they are kept for this run only.
        """
        pixels = _checksum(rgb)
        records = [_to_record(result, pixels) for result in results]
        answered = _answered(records)
        if not answered:
            self._failed[key] = records
        if answered or not self._is_main:  # the first process counts what failed
            self._write({"image": key, "results": records})

    def gather(self) -> None:
        """Take over the results that all processes have saved in this run, and remove the others' files."""
        self._gather(keep_failed=True)

    def write_scores(self, scores: Mapping[str, Any]) -> Path:
        """Write the scores so far, and return the path of the file."""
        path = self.path.with_name(SCORES)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(scores, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(temporary, path)
        return path

    def close(self) -> None:
        self._file.close()

    def _open(self, resume: bool) -> io.FileIO:
        """Open the file for appending after its last complete line."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self.path.open("a").close()
        except OSError as error:
            raise DatasetError(f"cannot write {self.path}: {error.strerror or error}") from error
        length = 0
        if self.path.stat().st_size:
            if not resume:
                raise InvalidOptionError(
                    f"{self.path} exists", hint="continue it with --resume, or choose another folder"
                )
            for _ in self._entries(self.path):
                pass  # all lines are checked before the first is written
            length = self.path.read_bytes().rfind(b"\n") + 1
        file = io.FileIO(self.path, "r+" if length else "w")
        if length:
            file.truncate(length)  # without a line that was cut off by the end of the run
            file.seek(length)
        if not length:
            self._file = file
            self._write(self._header)
        return file

    def _entries(self, path: Path) -> Iterator[tuple[str, list[Any]]]:
        """Yield the complete lines of a file: keys and records."""
        with path.open("rb") as file:
            for number, line in enumerate(file):
                if not line.endswith(b"\n"):
                    return
                try:
                    entry = json.loads(line)
                    key, records = (entry["image"], entry["results"]) if number else ("", [])
                except (ValueError, KeyError, TypeError) as error:
                    raise DatasetError(f"{path}, line {number + 1} is damaged: {error}") from error
                if number:
                    yield key, records
                elif entry != self._header:
                    found = entry.get("evaluation") if isinstance(entry, dict) else entry
                    raise InvalidOptionError(
                        f"{path} is of another evaluation: {found}",
                        hint=f"this one is {self._header['evaluation']}; choose another folder",
                    )

    def _gather(self, *, keep_failed: bool) -> None:
        self._saved = dict(self._entries(self.path))
        for path in sorted(self._folder.glob(_OTHERS)):
            for key, records in self._entries(path):
                if not _answered(records):
                    self._failed.update({key: records} if keep_failed else {})
                elif key not in self._saved:
                    self._saved[key] = records
                    self._write({"image": key, "results": records})
            path.unlink()

    def _write(self, entry: Mapping[str, Any]) -> None:
        rest = memoryview(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self.close()
            raise DatasetError(
                f"cannot write {self.path}: {error.strerror or error}",
                hint="make room, and go on with --resume: the images until here are saved",
            ) from error


def _answered(records: list[Any]) -> bool:
    return all(record["status"] in _ANSWERED for record in records)


def _to_record(result: SegmentationResult, pixels: int) -> dict[str, Any]:
    segments = result.segments
    return {
        "query": _digest(result.query, pixels),
        "status": result.status.value,
        **{name: getattr(result, name) for name in _TEXT_FIELDS},
        "phrases": list(result.phrases),
        "size": list(segments.image_hw),
        "labels": list(segments.labels),
        "label_indices": segments.label_indices.tolist(),
        "scores": segments.scores.tolist(),
        "boxes_xyxy": segments.boxes_xyxy.tolist(),
        "doubts": list(segments.doubts),
        "counts": [mask.counts.decode("ascii") for mask in segments.masks],
    }


def _from_record(record: Mapping[str, Any], query: Query, image_hw: tuple[int, int]) -> SegmentationResult:
    if tuple(record["size"]) != image_hw:
        raise ValueError(f"masks are for an image of {record['size']}, it has {list(image_hw)}")
    return SegmentationResult(
        status=Status(record["status"]),
        query=query,
        **{name: record[name] for name in _TEXT_FIELDS},
        phrases=tuple(record["phrases"]),
        segments=Segments(
            image_hw=image_hw,
            masks=tuple(MaskRle.from_counts(*image_hw, counts.encode()) for counts in record["counts"]),
            labels=tuple(record["labels"]),
            doubts=tuple(record.get("doubts", ())),
            label_indices=np.array(record["label_indices"], np.int32),
            scores=np.array(record["scores"], np.float32),
            boxes_xyxy=np.array(record["boxes_xyxy"], np.float32).reshape(-1, 4),
        ),
    )


def _checksum(rgb: NDArray[np.uint8]) -> int:
    """Return a number that identifies pixels: the data may change between two runs."""
    return zlib.crc32(np.ascontiguousarray(rgb))


def _digest(query: Query, pixels: int) -> str:
    """Identify a question: all fields of the query, and the image's checksum."""
    parts: list[Any] = [
        pixels,
        (query.task.value, query.text, query.thing_classes, query.stuff_classes),
        (query.score_threshold, query.max_instances, query.explain),
    ]
    for prompt in query.prompts:
        parts.append((prompt.kind.value, prompt.positive, prompt.box_xyxy))
        parts += [array.tobytes() for array in (prompt.points_xy, prompt.mask) if array is not None]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
