"""A run that takes its time, to be killed: `python -m … SOURCE FOLDER SECONDS [resume]`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.unit.media.clips import ask_colors
from tests.unit.media.test_run import QUERIES, RUN, sinks_for
from xsam import Query, SegmentationResult
from xsam.media.journal import Journal
from xsam.media.options import SourceOptions
from xsam.media.run import segment_frames
from xsam.media.sources import open_sources
from xsam.types.requests import Frame


def main(source: str, folder: str, seconds: str, *resume: str) -> None:
    def ask(frame: Frame, queries: Sequence[Query]) -> list[SegmentationResult]:
        time.sleep(float(seconds))
        return ask_colors(frame, queries)

    journal = Journal(Path(folder), RUN, resume=bool(resume))
    segment_frames(
        open_sources([source], SourceOptions()),
        QUERIES,
        ask,
        journal=journal,
        sinks=sinks_for(Path(folder)),
        track=True,
    )
    journal.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
