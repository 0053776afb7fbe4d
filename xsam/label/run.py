"""Label the frames of a source, and apply what a reviewer decided."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from xsam.label.data_set import DataSetCounts, read_manifest, write_data_set
from xsam.label.decisions import check_items, keep, kept_decisions, merged, read_decisions, run_id
from xsam.label.distinct import DistinctFrames
from xsam.label.options import LabelOptions
from xsam.media.frames import Source
from xsam.media.journal import Journal
from xsam.media.run import Summary, segment_frames
from xsam.media.sinks.images import FrameSink
from xsam.media.sinks.labels import is_answered
from xsam.segmenter import Engine
from xsam.types.requests import Frame, Query, SegmentationResult
from xsam.video.propagation import PropagationOptions
from xsam.video.session import open_propagation


@dataclass(frozen=True, slots=True, kw_only=True)
class Labeled:
    """What `label_frames` and `apply_decisions` have done."""

    frames: Summary | None  # None: no frame was looked at
    counts: DataSetCounts
    complete: bool
    duplicates: int


def is_restart(entry: Mapping[str, Any]) -> bool:
    """Tell whether a line of the journal is of a keyframe: what follows depends on nothing before it."""
    return "results" in entry and is_answered(dict(entry)) and "carried" not in entry["results"][0]


def open_run(
    folder: Path, options: LabelOptions, *, model: str, sources: Sequence[str], resume: bool = False
) -> Journal:
    """Create the folder of a run, or go on with the run in it.

    Args:
        folder: of the data set.
        options: of the run.
        model: as the user named it.
        sources: as the user named them.
        resume: go on from the last keyframe in the folder, if there is one.

    Raises:
        SourceError: see `Journal`.
    """
    run = options.as_run(model, sources)
    return Journal(folder, run, resume=resume, restart=is_restart if resume else None)


def label_frames(
    source: Source,
    engine: Engine,
    journal: Journal,
    *,
    stopped: Callable[[], bool] = lambda: False,
) -> Labeled:
    """Label the frames of a source, and write the data set, also if it was stopped.

    Args:
        source: all its frames; the options of the run say which of them are used.
        engine: segments keyframes.
        journal: of the run, from `open_run`.
        stopped: asked before every frame; True ends the run.

    Raises:
        SourceError: the source cannot be opened, or is not the one of the journal.
        XSamError: see `segment_frames`.
        OSError: a file cannot be written. The journal holds what was finished until then.
    """
    options, folder = LabelOptions.of_run(journal.run), journal.path.parent
    distinct = DistinctFrames(source, every=options.every, tolerance=options.duplicates)
    query = options.query(own_threshold(engine))
    session = open_propagation(engine, query, PropagationOptions(every=options.propagate))

    def ask(frame: Frame, _: Sequence[Query]) -> list[SegmentationResult]:
        result = session.step(frame)
        # They are not in the journal: tracks would be others after a kill.
        nothing = np.zeros((0, 0), np.float32)
        return [replace(result, segments=replace(result.segments, embeddings=nothing))]

    summary = segment_frames(
        distinct,
        [query],
        ask,
        journal=journal,
        sinks=[FrameSink(folder)],
        track=True,
        on_sequence=session.reset,
        stopped=stopped,
    )
    run = run_id(journal.run, journal.entries())
    decisions = kept_decisions(folder, run, journal.entries)
    complete = not summary.interrupted
    counts = write_data_set(
        folder,
        journal,
        decisions,
        threshold=query.score_threshold,
        complete=complete,
        duplicates=distinct.dropped,
    )
    return Labeled(frames=summary, counts=counts, complete=complete, duplicates=distinct.dropped)


def own_threshold(engine: Engine) -> float | None:
    """Return the `instance_threshold` of a model; None = it does not say."""
    least = getattr(getattr(engine, "config", None), "instance_threshold", None)
    return None if least is None else float(least)


def apply_decisions(folder: Path, path: Path) -> Labeled:
    """Add decisions to those of a run, and write its data set with them; again, this changes nothing.

    Raises:
        SourceError: there is no data set in the folder, or the decisions are not about it; nothing has
            changed then.
        OSError: a file cannot be written; applied again, it goes on.
    """
    with closing(Journal.reopen(folder)) as journal:
        LabelOptions.of_run(journal.run)
        manifest = read_manifest(folder)
        run = run_id(journal.run, journal.entries())
        new = read_decisions(path, run)
        check_items(path, new, journal.entries())
        decisions = merged(kept_decisions(folder, run, journal.entries), new)
        keep(folder, run, decisions)
        complete, duplicates = manifest["complete"], manifest["duplicates"]
        counts = write_data_set(
            folder,
            journal,
            decisions,
            threshold=manifest["threshold"],
            complete=complete,
            duplicates=duplicates,
        )
    return Labeled(frames=None, counts=counts, complete=complete, duplicates=duplicates)
