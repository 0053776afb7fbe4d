"""`xsam segment` for more than one picture: sources, outputs, progress, and what is printed at the end."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from xsam.console import EXIT_CODES, print_lines
from xsam.errors import InvalidOptionError
from xsam.media.frames import Every, Source, SourceFrame
from xsam.media.options import SourceOptions
from xsam.media.sources import open_sources
from xsam.types.requests import Frame, Query, SegmentationResult

if TYPE_CHECKING:
    from xsam.engine import XSam
    from xsam.media.run import Summary
    from xsam.media.sinks.base import Sink
    from xsam.segmenter import Session

SAVE_KINDS = ("png", "labels", "video", "coco", "yolo", "jsonl", "mcap", "rrd")
CANCELLED = 130  # the exit code of a command that Ctrl-C ended


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a source is segmented, and what is written."""

    folder: Path | None
    save: tuple[str, ...]
    sources: SourceOptions
    every: Every
    track: bool
    propagate: int | None  # frames from one keyframe to the next; None = the model sees every frame
    resume: bool
    as_json: bool
    model: str
    single: bool = False  # one picture and one query: --json prints the result


def parse_save(values: Sequence[str]) -> tuple[str, ...]:
    """Split "png,coco" at commas.

    Raises:
        InvalidOptionError: an unknown kind of output.
    """
    kinds = tuple(
        dict.fromkeys(kind.strip() for value in values for kind in value.split(",") if kind.strip())
    )
    if unknown := [kind for kind in kinds if kind not in SAVE_KINDS]:
        raise InvalidOptionError(
            f"--save does not know {unknown[0]!r:.40}", hint=f"known: {', '.join(SAVE_KINDS)}"
        )
    return kinds


def segment_recording(
    names: Sequence[str], queries: Sequence[Query], load: Callable[[], XSam], options: RunOptions
) -> None:
    """Segment all frames of a source, and end the command with the exit code of the run."""
    from xsam.media.journal import Journal
    from xsam.media.live import without_password
    from xsam.media.run import segment_frames
    from xsam.media.stopping import stop_requests
    from xsam.wire.conversion import query_to_body

    source = open_sources(names, options.sources)
    folder = options.folder or Path("runs") / "segment" / _folder_name(names[0])
    run = {
        "model": options.model,
        "sources": [without_password(name) for name in names],
        "queries": [query_to_body(query).model_dump(mode="json") for query in queries],
        "every": {"frames": options.every.frames, "seconds": options.every.seconds},
        "track": options.track,
        **({} if options.propagate is None else {"propagate": options.propagate}),
    }
    console = Console(stderr=True, quiet=options.as_json and not Console(stderr=True).is_terminal)
    with closing(Journal(folder, run, resume=options.resume)) as journal:
        sinks = open_sinks(options.save, folder, queries)
        with console.status("loading the model …"):
            engine = load()
        sessions = _open_sessions(engine, queries, options)

        def ask(frame: Frame, asked: Sequence[Query]) -> list[SegmentationResult]:
            if options.propagate is not None:
                return [session.step(frame) for session in sessions]
            remembering: Any = sessions or asked  # the sessions are the engine's own
            results: list[SegmentationResult] = engine.segment(frame, remembering, keep_frame=False)
            return results

        def forget() -> None:
            for session in sessions:
                session.reset()

        with progress_bar(console) as progress, stop_requests() as stopped:
            summary = segment_frames(
                CountedSource(source, progress),
                queries,
                ask,
                journal=journal,
                sinks=sinks,
                every=options.every,
                track=options.track,
                on_sequence=forget,
                stopped=stopped,
            )
        entry = next(journal.entries(), {}) if options.single else {}
    if sessions and summary.known:
        summary.notes["what was remembered of earlier frames began anew where the run was resumed"] += 1
    if options.as_json and "results" in entry:
        typer.echo(json.dumps(entry["results"][0]))
    else:
        report(summary, as_json=options.as_json)
    raise typer.Exit(CANCELLED if summary.interrupted else EXIT_CODES[summary.status])


def _open_sessions(engine: XSam, queries: Sequence[Query], options: RunOptions) -> list[Session]:
    """Open a session for each query, if frames are not segmented one by one."""
    if options.propagate is not None:
        from xsam.video.motion import CameraMotion
        from xsam.video.propagation import PropagationOptions
        from xsam.video.session import open_propagation

        motion, keyframes = CameraMotion(), PropagationOptions(every=options.propagate)
        return [open_propagation(engine, query, keyframes, motion=motion) for query in queries]
    if options.track and engine.has_memory:
        return [engine.open_session(query) for query in queries]
    return []


def open_sinks(kinds: Sequence[str], folder: Path, queries: Sequence[Query]) -> list[Sink]:
    """Open the outputs that the user wants; the results themselves are always written."""
    sinks: list[Sink] = []
    if {"coco", "yolo"} & set(kinds):
        from xsam.media.sinks.images import FrameSink

        sinks.append(FrameSink(folder))
    for kind in kinds:
        if kind == "png":
            from xsam.media.sinks.images import OverlaySink

            sinks.append(OverlaySink(folder))
        elif kind == "labels":
            from xsam.media.sinks.images import LabelImageSink

            sinks.append(LabelImageSink(folder))
        elif kind == "coco":
            from xsam.media.sinks.coco import CocoSink

            sinks.append(CocoSink(folder, queries))
        elif kind == "yolo":
            from xsam.media.sinks.yolo import YoloSink

            sinks.append(YoloSink(folder, queries))
        elif kind == "video":
            import av  # noqa: F401  # before the work: it may not be installed

            from xsam.media.sinks.video import VideoSink

            sinks.append(VideoSink(folder))
        elif kind == "mcap":
            import mcap  # noqa: F401  # before the work: it may not be installed
            import rosbags  # noqa: F401

            from xsam.media.sinks.mcap import McapSink

            sinks.append(McapSink(folder))
        elif kind == "rrd":
            import rerun  # noqa: F401  # before the work: it may not be installed

            from xsam.media.sinks.rerun import RerunSink

            sinks.append(RerunSink(folder))
    return sinks


def report(summary: Summary, *, as_json: bool) -> None:
    """Print what a run has done."""
    if as_json:
        typer.echo(json.dumps(summary.as_json()))
        return
    counts = ", ".join(
        f"{summary.statuses[status]} {status.value.replace('_', ' ')}"
        for status in EXIT_CODES
        if summary.statuses[status]
    )
    known = f" ({summary.known} of them were there already)" if summary.known else ""
    print_lines(f"{summary.frames} frames{known}: {counts or 'no results'}; {summary.segments} masks")
    if summary.damaged:
        print_lines(
            f"{summary.damaged} frames are damaged:", *(f"  {problem}" for problem in summary.problems)
        )
    if summary.first_failure:
        print_lines(f"the first query without an answer: {summary.first_failure}")
    print_lines(*(f"note: {note}" for note in summary.as_json()["notes"]))
    if summary.interrupted:
        print_lines("stopped: --resume goes on with the rest")
    print_lines(*(f"wrote {path}" for path in summary.outputs))


class CountedSource:
    """A source that shows on a bar how far it was read."""

    def __init__(self, source: Source, progress: Progress) -> None:
        self._source, self._progress = source, progress
        self.name, self.count = source.name, source.count

    def frames(self) -> Iterator[SourceFrame]:
        task = self._progress.add_task("frames", total=self.count)
        for frame in self._source.frames():
            yield frame
            self._progress.advance(task)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f}/s")


def progress_bar(console: Console) -> Progress:
    """Return a bar with rate and remaining time."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        speed_estimate_period=60.0,
    )


def _folder_name(source: str) -> str:
    return re.sub(r"[^\w-]+", "_", Path(source).stem).strip("_")[:80] or "run"
