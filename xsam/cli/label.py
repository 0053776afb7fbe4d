"""`xsam label`: a data set that trains a detector, from recordings."""

from __future__ import annotations

import json
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xsam.cli import frames, loading
from xsam.console import EXIT_CODES, print_lines
from xsam.errors import InvalidOptionError
from xsam.media.options import DEFAULT_PICTURES_HZ, BagTopics, SourceOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from xsam.engine import XSam
    from xsam.label.options import LabelOptions
    from xsam.label.run import Labeled

_DATA = "Data set"

EPILOG = (
    "Sources are those of xsam segment: pictures, folders, patterns, lists of files (.txt), videos, bags of "
    "ROS 2, cameras. Open review.html in the folder, decide by keyboard, save, and apply what was saved:\n\n"
    "xsam label clip.mp4 --classes mug,plate --out mugs\n\n"
    "xsam label --apply decisions.json --out mugs\n\n"
    "Exit codes: 0 labeled, or applied; 1 failed, 2 refused or used wrongly, 3 nothing found, 4 only "
    "doubtful ones, 130 stopped by Ctrl-C."
)


def label(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SOURCE]…", help="What to label: clip.mp4, bag.mcap, photos/.", show_default=False
        ),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option("--classes", "--class", help="What to label there: --classes mug,plate; repeatable."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the data set: --out mugs.", show_default=False)
    ] = None,
    apply: Annotated[
        Path | None,
        typer.Option(
            help="Decisions that review.html saved, about the data set in --out: --apply decisions.json."
        ),
    ] = None,
    model: loading.Model = "tiny",
    device: loading.Device = "auto",
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Lowest score of a label: --threshold 0.4.")
    ] = None,
    trust: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Use a label in doubt before it is reviewed if the model is right so often with such; "
            "others are regions to ignore; 0.2 by default, 1 = never: --trust 0.8.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    every: frames.EveryFrame = "1",
    propagate: Annotated[
        int,
        typer.Option(
            min=1,
            max=1000,
            metavar="N",
            help="Let the model see one frame in N, more when something changes, and carry its masks to "
            "the frames between; 1 = it sees every frame: --propagate 5.",
            rich_help_panel=frames.RECORDINGS,
        ),
    ] = 10,
    duplicates: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=255,
            metavar="LEVELS",
            help="Leave out frames that differ from an earlier one by at most so many gray levels in each of "
            "16×16 parts; 6 by default, 0 = none: --duplicates 10.",
            rich_help_panel=frames.RECORDINGS,
        ),
    ] = None,
    fps: frames.PicturesHz = DEFAULT_PICTURES_HZ,
    network: frames.Network = False,
    val: Annotated[
        float,
        typer.Option(
            min=0,
            max=0.9,
            help="Share for validation, by whole files: --val 0.1; 0 = none.",
            rich_help_panel=_DATA,
        ),
    ] = 0.2,
    gray: Annotated[
        bool,
        typer.Option(
            "--gray",
            help="For YOLO, use images in which regions to ignore are gray: --gray.",
            rich_help_panel=_DATA,
        ),
    ] = False,
    review: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=5000,
            metavar="N",
            help="Labels on the contact sheet, most doubtful first; 300 by default: --review 1000.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    resume: frames.Resume = False,
    topic: frames.Topic = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as one line of JSON.")] = False,
    llm_device: loading.LlmDevice = None,
    llm_weights: loading.LlmWeightsFormat = loading.LlmWeights.AS_LOADED,
    compiled: loading.Compiled = False,
    threads: loading.Threads = None,
    frame_cache_mib: loading.FrameCacheMib = None,
) -> None:
    """Label recordings: a data set in the form of COCO and YOLO, and a list of what to review."""
    if out is None:
        raise InvalidOptionError(
            "--out is missing: the folder of the data set", hint="for example --out mugs"
        )
    if out.exists() and not out.is_dir():
        raise InvalidOptionError(f"--out {out} is a file; it must be the folder of the data set")
    if apply is not None:
        if sources or classes or resume:
            raise InvalidOptionError(
                "--apply takes no sources, classes or --resume: it is about the data set in --out",
                hint="xsam label --apply decisions.json --out DIR",
            )
        from xsam.label.run import apply_decisions

        _report(apply_decisions(out, apply), as_json)
        return
    if not sources:
        raise InvalidOptionError("there is nothing to label", hint="name files: clip.mp4 --classes mug,plate")

    from xsam.label.distinct import DEFAULT_TOLERANCE
    from xsam.label.options import DEFAULT_REVIEWED, DEFAULT_TRUST, LabelOptions
    from xsam.media.frames import Every

    options = LabelOptions(
        classes=parse_classes(classes or []),
        threshold=threshold,
        trust=DEFAULT_TRUST if trust is None else trust,
        every=Every.parse(every),
        propagate=propagate,
        duplicates=DEFAULT_TOLERANCE if duplicates is None else duplicates,
        val=val,
        gray=gray,
        reviewed=DEFAULT_REVIEWED if review is None else review,
    )
    load = partial(
        loading.load_model,
        model,
        device=device,
        llm_device=llm_device,
        llm_weights=llm_weights,
        compiled=compiled,
        threads=threads,
        frame_cache_mib=frame_cache_mib,
    )
    about = SourceOptions(rate_hz=fps, allow_network=network, bag=BagTopics(color=topic or ""))
    _label(sources, load, options, about, folder=out, model=model, resume=resume, as_json=as_json)


def parse_classes(values: Sequence[str]) -> tuple[str, ...]:
    """Split at commas, and drop repetitions.

    Raises:
        InvalidOptionError: a name cannot be printed in one line.
    """
    from xsam.cli.arguments import parse_names

    names = parse_names(values)
    if bad := [name for name in names if not name.isprintable()]:
        raise InvalidOptionError(f"the class {bad[0]!r:.80} has characters that cannot be printed")
    return tuple(name for name in names if name)


def _label(
    names: Sequence[str],
    load: Callable[[], XSam],
    options: LabelOptions,
    about: SourceOptions,
    *,
    folder: Path,
    model: str,
    resume: bool,
    as_json: bool,
) -> None:
    """Label the sources, and end the command with the exit code of the run."""
    from rich.console import Console

    from xsam.cli.recordings import CANCELLED, CountedSource, progress_bar
    from xsam.label.run import label_frames, open_run
    from xsam.media.live import without_password
    from xsam.media.sources import open_sources
    from xsam.media.stopping import stop_requests

    source = open_sources(names, about)
    console = Console(stderr=True, quiet=as_json and not Console(stderr=True).is_terminal)
    shown = [without_password(name) for name in names]
    with closing(open_run(folder, options, model=model, sources=shown, resume=resume)) as journal:
        with console.status("loading the model …"):
            engine = load()
        with progress_bar(console) as progress, stop_requests() as stopped:
            done = label_frames(CountedSource(source, progress), engine, journal, stopped=stopped)
    _report(done, as_json)
    assert done.frames is not None
    raise typer.Exit(EXIT_CODES[done.frames.status] if done.complete else CANCELLED)


def _report(done: Labeled, as_json: bool) -> None:
    """Print what was done."""
    counts, summary = done.counts, done.frames
    if as_json:
        content: dict[str, Any] = {"status": "applied"} if summary is None else summary.as_json()
        notes = [*content.get("notes", []), *counts.notes]
        outputs = [*content.get("outputs", []), *map(str, counts.outputs)]
        content |= {"complete": done.complete, "notes": notes, "outputs": outputs}
        typer.echo(json.dumps({**content, "duplicates": done.duplicates, "data": counts.as_json()}))
        return
    if summary is not None:
        known = f" ({summary.known} of them were there already)" if summary.known else ""
        print_lines(f"{summary.frames} frames{known}; {done.duplicates} near-duplicates were left out")
        if summary.damaged:
            print_lines(f"{summary.damaged} frames are damaged:", *(f"  {text}" for text in summary.problems))
        if summary.first_failure:
            print_lines(f"the first frame without an answer, which is left out: {summary.first_failure}")
        print_lines(*(f"note: {note}" for note in summary.as_json()["notes"]))
    between = f", {counts.gap} between" if counts.gap else ""
    print_lines(
        f"{counts.frames} frames in the data set ({counts.train} train, {counts.val} val{between}): "
        f"{counts.labels} labels, {counts.ignored} regions to ignore, {counts.negatives} empty frames"
    )
    print_lines(*(f"note: {note}" for note in counts.notes))
    if not done.complete:
        print_lines("stopped: --resume goes on with the rest")
    left = f", {counts.review_left} more come after these" if counts.review_left else ""
    print_lines(
        f"{counts.doubtful} doubtful objects to decide about, {counts.review} on the contact sheet{left}",
        *(f"wrote {path}" for path in counts.outputs),
    )
