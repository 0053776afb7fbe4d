"""`xsam segment`: find something in pictures, videos and recordings."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from xsam.cli import frames, loading
from xsam.errors import InvalidOptionError
from xsam.media.options import DEFAULT_PICTURES_HZ, BagTopics, SourceOptions
from xsam.types.kinds import Task

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
            help="What to write: png (overlays), labels (label PNGs), video (overlay.mp4), coco, yolo, mcap, "
            "rrd (Rerun); results.jsonl always is: --save video,coco.",
            rich_help_panel=frames.RECORDINGS,
        ),
    ] = None,
    every: frames.EveryFrame = "1",
    track: Annotated[
        bool,
        typer.Option(
            "--track",
            help="Number objects, the same from frame to frame: --track.",
            rich_help_panel=frames.RECORDINGS,
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
            rich_help_panel=frames.RECORDINGS,
        ),
    ] = None,
    resume: frames.Resume = False,
    fps: frames.PicturesHz = DEFAULT_PICTURES_HZ,
    network: frames.Network = False,
    topic: frames.Topic = None,
    depth_topic: Annotated[
        str | None,
        typer.Option(
            help="Of a bag: depth, for locations: --depth-topic /camera/depth/image_raw.",
            rich_help_panel=frames.BAGS,
        ),
    ] = None,
    info_topic: Annotated[
        str | None,
        typer.Option(
            help="Of a bag: camera info, if not beside the images: --info-topic /camera/camera_info.",
            rich_help_panel=frames.BAGS,
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
    from xsam.cli.arguments import parse_boxes, parse_names, parse_points, parse_queries, split_arguments
    from xsam.cli.pictures import segment_picture
    from xsam.cli.recordings import RunOptions, parse_save, segment_recording
    from xsam.media.frames import Every
    from xsam.media.sources import PICTURE_SUFFIXES, VIDEO_SUFFIXES, single_picture

    names, texts = split_arguments(arguments)
    queries = parse_queries(
        texts,
        task=task,
        thing_classes=parse_names(classes or []),
        stuff_classes=parse_names(stuff or []),
        prompts=(*parse_boxes(box or []), *parse_points(point or [])),
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
        segment_picture(picture, queries[0], load, out, as_json)
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
