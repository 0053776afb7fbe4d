"""`xsam segment`: find something in pictures, videos and recordings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from xsam.cli import loading
from xsam.cli.recordings import RunOptions, parse_save, segment_recording
from xsam.console import EXIT_CODES, print_lines
from xsam.errors import InvalidOptionError, InvalidQueryError
from xsam.inference.images import read_image
from xsam.media.frames import Every
from xsam.media.image_files import check_output, write_image
from xsam.media.options import DEFAULT_PICTURES_HZ, BagTopics, SourceOptions
from xsam.media.sources import PICTURE_SUFFIXES, VIDEO_SUFFIXES, looks_like_source, single_picture
from xsam.types.requests import Query, SegmentationResult, Status, Task, VisualPrompt

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from xsam.engine import XSam

_RECORDINGS = "Several frames"
_BAGS = "Bags"
_STATUS_COLORS = {
    Status.FOUND: "green",
    Status.UNSURE: "yellow",
    Status.NOT_FOUND: "yellow",
    Status.REFUSED: "red",
    Status.FAILED: "red",
}


EPILOG = (
    "Sources are pictures, folders, patterns ('photos/*.jpg'), lists of files (.txt), videos, bags of ROS 2, "
    "and cameras (0). Queries follow them: the first argument that is no file is the first query. Results of "
    "more than one frame are written to results.jsonl in the run: runs/segment/NAME or --out.\n\n"
    "Exit codes: 0 found in some frame, 1 failed, 2 refused or used wrongly, 3 not found, 4 in doubt, 130 "
    "stopped by Ctrl-C."
)


def segment(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE… [QUERY]…",
            help='Where to look, and what to find: photo.jpg "the red mug", clip.mp4 "what holds coffee?".',
            show_default=False,
        ),
    ],
    model: loading.Model = "tiny",
    device: loading.Device = "auto",
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", help="Category of objects: --class mug,plate; repeatable."),
    ] = None,
    stuff: Annotated[
        list[str] | None, typer.Option(help="Category of surfaces, like --class: --stuff wall,table.")
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(help="x0,y0,x1,y1 in pixels of every frame: --box 40,30,200,180; repeatable."),
    ] = None,
    point: Annotated[
        list[str] | None, typer.Option(help="x,y in pixels of every frame: --point 320,240; repeatable.")
    ] = None,
    task: Annotated[
        Task, typer.Option(help="Kind of request, derived from the rest by auto: --task reasoning.")
    ] = Task.AUTO,
    explain: Annotated[
        bool, typer.Option("--explain", help='Explain the answer: "which cup is full?" --explain.')
    ] = False,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Lowest score of a result: --threshold 0.4.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="For one picture, the file to write it to with its masks: --out mug.png. Otherwise, or with "
            "--save, the folder of the run: --out results."
        ),
    ] = None,
    save: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KINDS",
            help="What to write: png (overlays), labels (label PNGs), video (overlay.mp4), coco, yolo, mcap; "
            "results.jsonl always is: --save video,coco.",
            rich_help_panel=_RECORDINGS,
        ),
    ] = None,
    every: Annotated[
        str,
        typer.Option(
            metavar="N|SECONDS",
            help="Use one frame in N, or in a time: --every 10, --every 0.5s.",
            rich_help_panel=_RECORDINGS,
        ),
    ] = "1",
    track: Annotated[
        bool,
        typer.Option(
            "--track",
            help="Number objects, the same from frame to frame: --track.",
            rich_help_panel=_RECORDINGS,
        ),
    ] = False,
    propagate: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1000,
            metavar="N",
            help="Let the model see one frame in N, more when something changes, and carry its masks to "
            "the frames between: --propagate 10.",
            rich_help_panel=_RECORDINGS,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the run in the folder, which was stopped: --resume.",
            rich_help_panel=_RECORDINGS,
        ),
    ] = False,
    fps: Annotated[
        float,
        typer.Option(
            min=0.001,
            max=10_000,
            help="Rate of pictures that follow each other, which have no stamps: --fps 30.",
            rich_help_panel=_RECORDINGS,
        ),
    ] = DEFAULT_PICTURES_HZ,
    network: Annotated[
        bool,
        typer.Option(
            "--network",
            help="Allow sources that are addresses: rtsp://camera/stream --network.",
            rich_help_panel=_RECORDINGS,
        ),
    ] = False,
    topic: Annotated[
        str | None,
        typer.Option(
            help="Of a bag: images to use, if it has several: --topic /camera/image_raw.",
            rich_help_panel=_BAGS,
        ),
    ] = None,
    depth_topic: Annotated[
        str | None,
        typer.Option(
            help="Of a bag: depth, for locations: --depth-topic /camera/depth/image_raw.",
            rich_help_panel=_BAGS,
        ),
    ] = None,
    info_topic: Annotated[
        str | None,
        typer.Option(
            help="Of a bag: camera info, if not beside the images: --info-topic /camera/camera_info.",
            rich_help_panel=_BAGS,
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print a line of JSON: the result of one picture, masks as COCO run-length codes; else a "
            "summary.",
        ),
    ] = False,
    llm_device: loading.LlmDevice = None,
    llm_weights: loading.LlmWeightsFormat = loading.LlmWeights.AS_LOADED,
    compiled: loading.Compiled = False,
    threads: loading.Threads = None,
    frame_cache_mib: loading.FrameCacheMib = None,
) -> None:
    """Find something in pictures, videos and recordings."""
    names, texts = split_arguments(arguments)
    queries = _queries(
        texts,
        task=task,
        thing_classes=_parse_names(classes or []),
        stuff_classes=_parse_names(stuff or []),
        prompts=(*_parse_boxes(box or []), *_parse_points(point or [])),
        score_threshold=threshold,
        explain=explain,
    )
    kinds = parse_save(save or [])
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
    picture = single_picture(names)
    if picture is not None and len(queries) == 1 and not (kinds or resume or track or propagate):
        _segment_picture(picture, queries[0], load, out, as_json)
        return
    for query in queries:
        query.validate()
    if out is not None and (out.is_file() or out.suffix.lower() in PICTURE_SUFFIXES | VIDEO_SUFFIXES):
        raise InvalidOptionError(
            f"--out {out} is a file; it must be the folder of the run",
            hint="give a folder, and say with --save what to write there",
        )
    options = RunOptions(
        folder=out,
        save=kinds,
        sources=SourceOptions(
            rate_hz=fps,
            allow_network=network,
            bag=BagTopics(color=topic or "", depth=depth_topic or "", info=info_topic or ""),
        ),
        every=Every.parse(every),
        track=track,
        propagate=propagate,
        resume=resume,
        as_json=as_json,
        model=model,
        single=picture is not None and len(queries) == 1,
    )
    segment_recording(names, queries, load, options)


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split into sources and queries. The first argument is a source, and so are those after it that look so.

    Raises:
        InvalidQueryError: something that looks like a source follows a query.
    """
    count = 1
    while count < len(arguments) and looks_like_source(arguments[count]):
        count += 1
    sources, texts = list(arguments[:count]), list(arguments[count:])
    for text in texts:
        if looks_like_source(text):
            raise InvalidQueryError(
                f"{text!r:.80} looks like a source, but follows the query {texts[0]!r:.80}",
                hint="give all sources first, then the queries",
            )
    return sources, texts


def _queries(texts: Sequence[str], **fields: Any) -> list[Query]:
    """Return a query per text, or one without text."""
    given = (bool(texts), bool(fields["thing_classes"] or fields["stuff_classes"]), bool(fields["prompts"]))
    if fields["task"] is Task.AUTO and sum(given) > 1:
        raise InvalidQueryError(
            "text, categories and regions are three different requests",
            hint="give one of them, or choose the kind of request with --task",
        )
    return [Query(text=text, **fields) for text in (texts or [""])]


def _segment_picture(
    image: Path, query: Query, load: Callable[[], XSam], out: Path | None, as_json: bool
) -> None:
    notes: list[str] = []
    rgb = read_image(image, notes)
    query.validate((rgb.shape[0], rgb.shape[1]))
    if out is not None:
        check_output(out, image)
    with Console(stderr=True).status("loading the model …") as progress:
        engine = load()
        result = engine.segment(rgb, query, on_stage=lambda stage: progress.update(f"{stage} …"))
        result = result.with_notes(notes)
    if out is not None:
        write_image(out, _draw(rgb, result))
    if as_json:
        from xsam.wire.conversion import result_to_body

        typer.echo(result_to_body(result).model_dump_json())
    else:
        _print_result(result, out)
    raise typer.Exit(EXIT_CODES[result.status])


def _parse_names(values: list[str]) -> tuple[str, ...]:
    """Split at commas, and drop repetitions."""
    names = [" ".join(name.split()) for value in values for name in value.split(",")]
    return tuple(dict.fromkeys(names))


def _parse_numbers(option: str, value: str, count: int) -> list[float]:
    try:
        numbers = [float(part) for part in value.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise InvalidQueryError(f"{option} takes {count} numbers separated by commas, got {value!r}")
    return numbers


def _parse_boxes(values: list[str]) -> list[VisualPrompt]:
    return [VisualPrompt.box(*_parse_numbers("--box", value, 4)) for value in values]


def _parse_points(values: list[str]) -> list[VisualPrompt]:
    return [VisualPrompt.point(*_parse_numbers("--point", value, 2)) for value in values]


def _draw(rgb: NDArray[np.uint8], result: SegmentationResult) -> NDArray[np.uint8]:
    from xsam.draw.overlay import draw_overlay, draw_prompts

    query = result.query
    title = query.text or ", ".join(query.thing_classes + query.stuff_classes) or "region"
    overlay = draw_overlay(rgb, result.segments, title=title)
    return draw_prompts(overlay, query.prompts)


def _print_result(result: SegmentationResult, out: Path | None) -> None:
    status = (result.status.value.replace("_", " "), f"bold {_STATUS_COLORS[result.status]}")
    detail = result.message or f"in {result.timing.total_s:.2f} s with {result.model_id}"
    Console().print(Text.assemble(status, f": {detail}"), soft_wrap=True)
    print_lines(*filter(None, (result.text, result.hint)), *(f"note: {note}" for note in result.notes))
    segments = result.segments
    if len(segments):
        doubtful = any(segments.doubts)
        table = Table("label", "score", "box x0 y0 x1 y1", "area px", *(["unsure"] if doubtful else []))
        columns = (segments.labels, segments.scores, segments.boxes_xyxy, segments.masks, segments.doubts)
        for label, score, box, mask, doubt in zip(*columns, strict=True):
            row: list[Text | str] = [
                Text(label),
                f"{score:.2f}",
                " ".join(f"{v:.0f}" for v in box),
                str(mask.area),
            ]
            table.add_row(*row, *([Text(doubt)] if doubtful else []))
        Console().print(table)
    if out is not None:
        print_lines(f"wrote {out}")
