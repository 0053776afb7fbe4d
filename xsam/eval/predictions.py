"""Results of an evaluation on disk, so that they can be scored again and an interrupted run can go on.

A folder holds `predictions.jsonl`, one line per image that is written as soon as the image is done, and
`scores.json`. The first line describes the evaluation: with another model or other data, it is not continued.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from xsam.errors import DatasetError
from xsam.eval.questions import Question
from xsam.types.masks import MaskRle
from xsam.types.requests import Query, SegmentationResult, Segments, Status

PREDICTIONS, SCORES = "predictions.jsonl", "scores.json"
_TEXT_FIELDS = ("text", "message", "code", "hint", "model_id")


class PredictionFile:
    """The predictions of one evaluation, by image.

    Args:
        folder: created if it does not exist.
        evaluation: what identifies the evaluation, as JSON: model, data, seed, …
        resume: use the results that the folder holds, and add the missing ones.

    Raises:
        DatasetError: the folder holds predictions and `resume` is False, or they are of another evaluation.
    """

    def __init__(self, folder: Path, evaluation: Mapping[str, Any], *, resume: bool = False) -> None:
        self.path = folder / PREDICTIONS
        self._saved: dict[str, list[Any]] = {}
        header = {"evaluation": json.loads(json.dumps(evaluation))}
        complete_bytes = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.path.open("a").close()
        except OSError as error:
            raise DatasetError(f"cannot write {self.path}: {error.strerror or error}") from error
        if self.path.stat().st_size:
            if not resume:
                raise DatasetError(
                    f"{self.path} exists", hint="continue it with --resume, or choose another folder"
                )
            complete_bytes = self._read(header)
        self._file: TextIO = self.path.open("r+" if complete_bytes else "w", encoding="utf-8", newline="\n")
        self._file.truncate(complete_bytes)  # a line that was cut off by the end of the run
        self._file.seek(complete_bytes)
        if not complete_bytes:
            self._write(header)

    def saved(
        self, key: str, questions: Sequence[Question], image_hw: tuple[int, int]
    ) -> list[SegmentationResult] | None:
        """Return the saved results for an image; None if there are none for exactly these questions."""
        records = self._saved.get(key)
        if records is None or [record["query"] for record in records] != [
            _digest(q.query) for q in questions
        ]:
            return None
        pairs = zip(records, questions, strict=True)
        return [_from_record(record, question.query, image_hw) for record, question in pairs]

    def add(self, key: str, results: Sequence[SegmentationResult]) -> None:
        """Save the results for an image; they survive a crash of this process."""
        self._write({"image": key, "results": [_to_record(result) for result in results]})

    def write_scores(self, scores: Mapping[str, Any]) -> Path:
        """Write the scores so far, and return the path of the file."""
        path = self.path.with_name(SCORES)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(scores, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(temporary, path)
        return path

    def close(self) -> None:
        self._file.close()

    def _read(self, header: Mapping[str, Any]) -> int:
        """Read the complete lines of the file, and return their length in bytes."""
        content = self.path.read_bytes()
        content = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(content.splitlines()):
            try:
                entry = json.loads(line)
                if number:
                    self._saved[entry["image"]] = entry["results"]
            except (ValueError, KeyError, TypeError) as error:
                raise DatasetError(f"{self.path}, line {number + 1} is damaged: {error}") from error
            if not number and entry != header:
                raise DatasetError(
                    f"{self.path} is of another evaluation: {entry.get('evaluation')}",
                    hint=f"this one is {header['evaluation']}; choose another folder",
                )
        return len(content)

    def _write(self, entry: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(entry, separators=(",", ":")) + "\n")
        self._file.flush()


def _to_record(result: SegmentationResult) -> dict[str, Any]:
    segments = result.segments
    return {
        "query": _digest(result.query),
        "status": result.status.value,
        **{name: getattr(result, name) for name in _TEXT_FIELDS},
        "phrases": list(result.phrases),
        "size": list(segments.image_hw),
        "labels": list(segments.labels),
        "label_indices": segments.label_indices.tolist(),
        "scores": segments.scores.tolist(),
        "boxes_xyxy": segments.boxes_xyxy.tolist(),
        "counts": [mask.counts.decode("ascii") for mask in segments.masks],
    }


def _from_record(record: Mapping[str, Any], query: Query, image_hw: tuple[int, int]) -> SegmentationResult:
    if tuple(record["size"]) != image_hw:
        raise DatasetError(f"saved masks are for an image of {record['size']}, it has {list(image_hw)}")
    return SegmentationResult(
        status=Status(record["status"]),
        query=query,
        **{name: record[name] for name in _TEXT_FIELDS},
        phrases=tuple(record["phrases"]),
        segments=Segments(
            image_hw=image_hw,
            masks=tuple(MaskRle.from_counts(*image_hw, counts.encode()) for counts in record["counts"]),
            labels=tuple(record["labels"]),
            label_indices=np.array(record["label_indices"], np.int32),
            scores=np.array(record["scores"], np.float32),
            boxes_xyxy=np.array(record["boxes_xyxy"], np.float32).reshape(-1, 4),
        ),
    )


def _digest(query: Query) -> str:
    """Identify a query by all its fields."""
    parts: list[Any] = [
        (query.task.value, query.text, query.thing_classes, query.stuff_classes),
        (query.score_threshold, query.max_instances, query.explain),
    ]
    for prompt in query.prompts:
        parts.append((prompt.kind.value, prompt.positive, prompt.box_xyxy))
        parts += [array.tobytes() for array in (prompt.points_xy, prompt.mask) if array is not None]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
