"""`xsam segment`: find something in a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from xsam.cli import loading
from xsam.cli.images import check_output, write_image
from xsam.console import EXIT_CODES, print_lines
from xsam.errors import InvalidQueryError
from xsam.inference.images import read_image
from xsam.types.requests import Query, SegmentationResult, Status, Task, VisualPrompt

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


_STATUS_COLORS = {
    Status.FOUND: "green",
    Status.UNSURE: "yellow",
    Status.NOT_FOUND: "yellow",
    Status.REFUSED: "red",
    Status.FAILED: "red",
}


def segment(
    image: Annotated[Path, typer.Argument(help="Image file (PNG, JPEG, …).")],
    text: Annotated[str, typer.Argument(help='What to find: "the red mug", "what can hold coffee?".')] = "",
    model: loading.Model = "tiny",
    device: loading.Device = "auto",
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", help="Category of objects; repeatable, or several with commas."),
    ] = None,
    stuff: Annotated[
        list[str] | None, typer.Option(help="Category of surfaces (wall); like --class.")
    ] = None,
    box: Annotated[list[str] | None, typer.Option(help="x0,y0,x1,y1 in pixels; repeatable.")] = None,
    point: Annotated[list[str] | None, typer.Option(help="x,y in pixels; repeatable.")] = None,
    task: Annotated[Task, typer.Option(help="Kind of request; auto derives it from the rest.")] = Task.AUTO,
    explain: Annotated[bool, typer.Option("--explain", help="Explain the answer to a question.")] = False,
    threshold: Annotated[float | None, typer.Option(min=0, max=1, help="Lowest score of a result.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the image with the masks to this file.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, masks as COCO run-length codes.")
    ] = False,
    llm_device: loading.LlmDevice = None,
    llm_weights: loading.LlmWeightsFormat = loading.LlmWeights.AS_LOADED,
    compiled: loading.Compiled = False,
    threads: loading.Threads = None,
    frame_cache_mib: loading.FrameCacheMib = None,
) -> None:
    """Find something in a picture."""
    prompts = (*_parse_boxes(box or []), *_parse_points(point or []))
    if task is Task.AUTO and sum(map(bool, (text, classes or stuff, prompts))) > 1:
        raise InvalidQueryError(
            "text, categories and regions are three different requests",
            hint="give one of them, or choose the kind of request with --task",
        )
    query = Query(
        text=text,
        task=task,
        thing_classes=_parse_names(classes or []),
        stuff_classes=_parse_names(stuff or []),
        prompts=prompts,
        score_threshold=threshold,
        explain=explain,
    )
    notes: list[str] = []
    rgb = read_image(image, notes)
    query.validate((rgb.shape[0], rgb.shape[1]))
    if out is not None:
        check_output(out, image)
    with Console(stderr=True).status("loading the model …") as progress:
        engine = loading.load_model(
            model,
            device=device,
            llm_device=llm_device,
            llm_weights=llm_weights,
            compiled=compiled,
            threads=threads,
            frame_cache_mib=frame_cache_mib,
        )
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
