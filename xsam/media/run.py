"""Take the frames of a source through a segmenter into sinks, in constant memory; go on after a kill."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from xsam.errors import InvalidImageError, SourceError, XSamError, error_for_code
from xsam.media.frames import Every, Source, SourceFrame
from xsam.media.journal import Journal, identity
from xsam.media.sinks.base import SegmentedFrame, Sink
from xsam.spatial.tracking import InstanceTracker
from xsam.types.requests import Frame, Query, SegmentationResult, Status
from xsam.weights.files import remove_drafts
from xsam.wire.conversion import result_from_body, result_to_body
from xsam.wire.models import ResultBody

MAX_NAMED = 20
"""Damaged frames that a summary names; all of them are in the journal."""

_MAX_FAILURES = 5  # frames in a row without one answer, until a run is given up
_ORDER = (Status.FOUND, Status.UNSURE, Status.NOT_FOUND, Status.FAILED, Status.REFUSED)

Ask = Callable[[Frame, Sequence[Query]], "list[SegmentationResult]"]
"""Segments one frame; what it raises of `XSamError` belongs to this frame."""


class FrameHook(Protocol):
    """Receives what a run has done."""

    def __call__(
        self, frame: SourceFrame, results: Sequence[SegmentationResult], problem: str, known: bool
    ) -> None:
        """Take note of a frame.

        Args:
            frame: that is finished.
            results: one per query; empty for a damaged frame.
            problem: why the frame is damaged; "" = it is not.
            known: the results are from an earlier part of the run.
        """
        ...


@dataclass(slots=True, kw_only=True)
class Summary:
    """What a run has done."""

    frames: int = 0  # used, damaged ones included
    known: int = 0  # of them, from an earlier part of the run
    damaged: int = 0
    statuses: Counter[Status] = field(default_factory=Counter)  # of results
    segments: int = 0
    problems: list[str] = field(default_factory=list)  # of the first damaged frames
    notes: Counter[str] = field(default_factory=Counter)
    first_failure: str = ""
    outputs: list[Path] = field(default_factory=list)
    interrupted: bool = False

    @property
    def status(self) -> Status:
        """The best status of any result; FAILED if no frame could be used."""
        return next((status for status in _ORDER if self.statuses[status]), Status.FAILED)

    def count(self, results: Sequence[SegmentationResult]) -> None:
        for result in results:
            self.statuses[result.status] += 1
            self.segments += len(result.segments)
            self.notes.update(result.notes)
            if not result.answered and not self.first_failure:
                self.first_failure = result.message

    def as_json(self) -> dict[str, Any]:
        return {
            "status": self.status.value,
            "complete": not self.interrupted,
            "frames": self.frames,
            "resumed": self.known,
            "damaged": self.damaged,
            "results": {status.value: self.statuses[status] for status in Status},
            "segments": self.segments,
            "problems": self.problems,
            "notes": [f"{text} ({count} times)" if count > 1 else text for text, count in self.notes.items()],
            "outputs": [str(path) for path in self.outputs],
        }


def segment_frames(
    source: Source,
    queries: Sequence[Query],
    ask: Ask,
    *,
    journal: Journal,
    sinks: Sequence[Sink] = (),
    every: Every | None = None,
    track: bool = False,
    on_sequence: Callable[[], None] = lambda: None,
    on_frame: FrameHook | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Summary:
    """Segment the frames of a source.

    A frame that is damaged, or that a query fails for, does not end the run. If it is stopped, the outputs
    are completed with what there is.

    Args:
        source: frames.
        queries: asked about every frame.
        ask: the segmenter.
        journal: receives the results; what it has already is not asked again.
        sinks: receive frames and results.
        every: which frames to use; None = all.
        track: give objects ids that stay the same from frame to frame.
        on_sequence: called before the first frame of each video, bag or folder is segmented.
        on_frame: see `FrameHook`.
        stopped: asked before every frame; True ends the run.

    Raises:
        SourceError: the source cannot be opened, or is not the one that the journal is about.
        XSamError: several frames in a row were refused, or failed, for the same reason.
        OSError: an output cannot be written. The journal holds what was finished until then.
    """
    summary = Summary()
    trackers = _Trackers(len(queries)) if track else None
    earlier = journal.earlier()
    remove_drafts(journal.path.parent)
    for sink in sinks:
        sink.begin(journal.earlier())
    failures, sequence = 0, ""
    try:
        for frame in (every or Every()).choose(source.frames()):
            if stopped():
                raise KeyboardInterrupt
            if frame.sequence != sequence:
                sequence = frame.sequence
                on_sequence()
            entry = next(earlier, None)
            if entry is not None:
                results, problem = _known(frame, entry, queries, sinks, trackers, summary)
            else:
                results, problem = _segment(frame, queries, ask, journal, sinks, trackers, summary)
                failures = failures + 1 if results and not any(result.answered for result in results) else 0
                if failures >= _MAX_FAILURES:
                    raise error_for_code(results[0].code, results[0].message, hint=results[0].hint)
            summary.frames += 1
            if on_frame is not None:
                on_frame(frame, results, problem, entry is not None)
        if (left := next(earlier, None)) is not None:
            raise SourceError(
                f"{journal.path} goes on with {left['name']}, which the source does not have any more",
                hint="give the sources of that run, or choose another folder",
            )
    except KeyboardInterrupt:
        summary.interrupted = True
    except BaseException:
        for sink in sinks:
            sink.abandon()
        raise
    summary.outputs.append(journal.path)
    for sink in sinks:
        summary.outputs += sink.finish(journal.entries)
        summary.notes.update(sink.notes())
    return summary


def _segment(
    source: SourceFrame,
    queries: Sequence[Query],
    ask: Ask,
    journal: Journal,
    sinks: Sequence[Sink],
    trackers: _Trackers | None,
    summary: Summary,
) -> tuple[list[SegmentationResult], str]:
    """Segment a new frame; its line is written last, when everything else is on the disk."""
    notes: list[str] = []
    try:
        frame = source.load(notes)
    except InvalidImageError as error:
        _damaged(source, error.message, summary)
        journal.add(source, {"problem": error.message})
        return [], error.message
    try:
        results = ask(frame, queries)
    except XSamError as error:
        results = [SegmentationResult.from_error(error, query, frame) for query in queries]
    results = [result.with_notes(notes) for result in results]
    if source.locate is not None:
        results = [replace(result, segments=source.locate(frame, result.segments)) for result in results]
    if trackers is not None:
        results = trackers.update(source, results)
    item = SegmentedFrame(source=source, frame=frame, results=tuple(results))
    for sink in sinks:
        sink.add(item)
    journal.add(source, {"results": [result_to_body(result).model_dump(mode="json") for result in results]})
    summary.count(results)
    return results, ""


def _known(
    source: SourceFrame,
    entry: dict[str, Any],
    queries: Sequence[Query],
    sinks: Sequence[Sink],
    trackers: _Trackers | None,
    summary: Summary,
) -> tuple[list[SegmentationResult], str]:
    """Take the results of a frame from the journal."""
    if {key: entry.get(key) for key in identity(source)} != identity(source):
        raise SourceError(
            f"the results in the folder are about {entry['name']} where the source has {source.name}",
            hint="the source has changed since: choose another folder",
        )
    summary.known += 1
    if "problem" in entry:
        _damaged(source, entry["problem"], summary)
        return [], str(entry["problem"])
    try:
        results = [
            result_from_body(ResultBody.model_validate_json(json.dumps(record)), query=query)
            for record, query in zip(entry["results"], queries, strict=True)
        ]
    except (ValueError, TypeError, InvalidImageError) as error:  # pydantic's errors are ValueErrors
        raise SourceError(
            f"the results of {source.name} in the folder are damaged: {str(error).splitlines()[0]}",
            hint="remove results.jsonl to start again",
        ) from error
    if trackers is not None:
        trackers.resume(source, results)
    needing = [sink for sink in sinks if sink.needs_all_frames]
    if needing:
        item = SegmentedFrame(source=source, frame=source.load([]), results=tuple(results))
        for sink in needing:
            sink.add(item)
    summary.count(results)
    return results, ""


def _damaged(source: SourceFrame, problem: str, summary: Summary) -> None:
    summary.damaged += 1
    if len(summary.problems) < MAX_NAMED:
        summary.problems.append(problem if source.source in problem else f"{source.source}: {problem}")


class _Trackers:
    """One tracker per query. Their ids interleave: no two objects of a run have the same."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._sequence: str | None = None
        self._trackers = [InstanceTracker() for _ in range(count)]

    def update(self, source: SourceFrame, results: Sequence[SegmentationResult]) -> list[SegmentationResult]:
        """Return the results with track ids; a new sequence starts without objects."""
        self._begin(source.sequence)
        stamp_s = source.stamp_ns * 1e-9
        tracked = []
        for number, (result, tracker) in enumerate(zip(results, self._trackers, strict=True)):
            ids = tracker.update(result.segments, stamp_s=stamp_s, keyframe_ns=result.keyframe_ns)
            ids = np.where(ids, (ids - 1) * self._count + number + 1, 0).astype(np.uint32)
            tracked.append(replace(result, segments=replace(result.segments, track_ids=ids)))
        return tracked

    def resume(self, source: SourceFrame, results: Sequence[SegmentationResult]) -> None:
        """Go through the results of an earlier run, so that objects keep the ids that they have there."""
        self._begin(source.sequence)
        for number, (result, tracker) in enumerate(zip(results, self._trackers, strict=True)):
            ids = result.segments.track_ids.astype(np.int64)
            own = np.where(ids, (ids - 1 - number) // self._count + 1, 0).astype(np.uint32)
            tracker.update(result.segments, stamp_s=source.stamp_ns * 1e-9, known_ids=own)

    def _begin(self, sequence: str) -> None:
        if sequence != self._sequence:
            self._sequence = sequence
            for tracker in self._trackers:
                tracker.reset()
