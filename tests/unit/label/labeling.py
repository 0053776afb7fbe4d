"""Labeling with a segmenter that finds colors. To be killed: FOLDER SECONDS SOURCE… [--resume]."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.unit.media.clips import ask_colors
from xsam import Query, SegmentationResult
from xsam.label.options import LabelOptions
from xsam.label.run import Labeled, label_frames, open_run
from xsam.media.options import SourceOptions
from xsam.media.sources import open_sources
from xsam.types.requests import Frame

OPTIONS = LabelOptions(classes=("red", "blue"), propagate=5, duplicates=0)


class ColorEngine:
    """Finds red and blue; blue is in doubt."""

    model_id = "colors"

    def __init__(self, seconds: float = 0.0) -> None:
        self.asked = 0
        self._seconds = seconds

    def segment(self, source: Frame, queries: Sequence[Query], **_: Any) -> list[SegmentationResult]:
        self.asked += 1
        time.sleep(self._seconds)
        results = []
        for result in ask_colors(source, queries):
            segments = result.segments
            doubts = ["pale" if label.startswith("blue") else "" for label in segments.labels]
            results.append(result.with_doubts(doubts) if len(segments) else result)
        return results

    def warm_up(self) -> None: ...

    def close(self) -> None: ...


def label_colors(
    folder: Path,
    *sources: Path,
    options: LabelOptions = OPTIONS,
    resume: bool = False,
    engine: ColorEngine | None = None,
    **more: Any,
) -> Labeled:
    names = [str(source) for source in sources]
    with closing(open_run(folder, options, model="colors", sources=names, resume=resume)) as journal:
        return label_frames(open_sources(names, SourceOptions()), engine or ColorEngine(), journal, **more)


def coco(folder: Path, part: str = "train") -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / "annotations" / f"instances_{part}.json").read_text())
    return data


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the contents of a data set; the journal without the times that its frames took."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            if path.name == "results.jsonl":
                lines = [json.loads(line) for line in content.splitlines()]
                for result in (result for line in lines for result in line.get("results", ())):
                    result.pop("timing_s")
                content = json.dumps(lines).encode()
            found[path.relative_to(folder).as_posix()] = content
    return found


if __name__ == "__main__":
    resumed = sys.argv[-1] == "--resume"
    label_colors(
        Path(sys.argv[1]),
        *map(Path, sys.argv[3 : -1 if resumed else None]),
        options=replace(OPTIONS),
        resume=resumed,
        engine=ColorEngine(float(sys.argv[2])),
    )
