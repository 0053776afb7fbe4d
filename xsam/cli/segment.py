"""`xsam segment`: find something in a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from xsam.cli.console import EXIT_CODES, exit_code, say
from xsam.cli.images import check_suffix, read_image, write_image
from xsam.errors import InvalidQueryError, RequestRefusedError, XSamError
from xsam.types.requests import Query, SegmentationResult, Status, Task, VisualPrompt

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_COLOURS = {Status.FOUND: "green", Status.NOT_FOUND: "yellow", Status.REFUSED: "red", Status.FAILED: "red"}


def segment(
    image: Annotated[Path, typer.Argument(help="Picture file (PNG, JPEG, …).")],
    text: Annotated[str, typer.Argument(help='What to find: "the red mug", "what can hold coffee?".')] = "",
    model: Annotated[str, typer.Option(help="A shipped model, or a folder from `xsam convert`.")] = "tiny",
    device: Annotated[str, typer.Option(help='"auto", "cpu", "cuda", "cuda:1", …')] = "auto",
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="Category of objects; repeatable.")
    ] = None,
    stuff: Annotated[list[str] | None, typer.Option(help="Category of surfaces (wall); repeatable.")] = None,
    box: Annotated[list[str] | None, typer.Option(help="x0,y0,x1,y1 in pixels; repeatable.")] = None,
    point: Annotated[list[str] | None, typer.Option(help="x,y in pixels; repeatable.")] = None,
    task: Annotated[Task, typer.Option(help="What is asked; auto picks it from what is given.")] = Task.AUTO,
    explain: Annotated[bool, typer.Option("--explain", help="Explain the answer to a question.")] = False,
    threshold: Annotated[float | None, typer.Option(min=0, max=1, help="Least score to answer with.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the picture with the masks here.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, masks as COCO run-length codes.")
    ] = False,
) -> None:
    """Find something in a picture."""
    try:
        prompts = (*_boxes(box or []), *_points(point or []))
        if task is Task.AUTO and sum(map(bool, (text, classes or stuff, prompts))) > 1:
            raise InvalidQueryError(
                "a text, categories and regions are three different questions",
                hint="ask one at a time, or say with --task which one is meant",
            )
        query = Query(
            text=text,
            task=task,
            thing_classes=tuple(classes or ()),
            stuff_classes=tuple(stuff or ()),
            prompts=prompts,
            score_threshold=threshold,
            explain=explain,
        )
        rgb = read_image(image)
        query.validate((rgb.shape[0], rgb.shape[1]))
        if out is not None:
            check_suffix(out)
        result = _answer(rgb, query, model=model, device=device)
        if out is not None:
            write_image(out, _overlay(rgb, result))
    except XSamError as error:
        if not as_json:
            raise
        status = Status.REFUSED if isinstance(error, RequestRefusedError) else Status.FAILED
        failure = {"status": status.value, "code": error.code, "message": error.message, "hint": error.hint}
        typer.echo(json.dumps(failure))
        raise typer.Exit(exit_code(error)) from error
    if as_json:
        typer.echo(json.dumps(_as_json(result)))
    else:
        _print_result(result, out)
    raise typer.Exit(EXIT_CODES[result.status])


def _numbers(option: str, value: str, count: int) -> list[float]:
    try:
        numbers = [float(part) for part in value.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise InvalidQueryError(f"{option} takes {count} numbers with commas between them, got {value!r}")
    return numbers


def _boxes(values: list[str]) -> list[VisualPrompt]:
    return [VisualPrompt.box(*_numbers("--box", value, 4)) for value in values]


def _points(values: list[str]) -> list[VisualPrompt]:
    return [VisualPrompt.point(*_numbers("--point", value, 2)) for value in values]


def _answer(rgb: NDArray[np.uint8], query: Query, *, model: str, device: str) -> SegmentationResult:
    from xsam.engine import XSam

    with Console(stderr=True).status("loading the model …") as status:
        engine = XSam.load(model, device=device)
        return engine.segment(rgb, query, on_stage=lambda stage: status.update(f"{stage} …"))


def _overlay(rgb: NDArray[np.uint8], result: SegmentationResult) -> NDArray[np.uint8]:
    from xsam.draw.overlay import draw_overlay, draw_prompts

    query = result.query
    title = query.text or ", ".join(query.thing_classes + query.stuff_classes) or "region"
    picture = draw_overlay(rgb, result.segments, title=title)
    return draw_prompts(picture, query.prompts)


def _as_json(result: SegmentationResult) -> dict[str, Any]:
    segments = result.segments
    height, width = segments.image_hw
    columns = (segments.labels, segments.scores, segments.boxes_xyxy, segments.masks)
    return {
        "status": result.status.value,
        "message": result.message,
        "code": result.code,
        "hint": result.hint,
        "model": result.model_id,
        "task": result.query.resolved_task().value,
        "text": result.text,
        "image": {"width": width, "height": height},
        "segments": [
            {
                "label": label,
                "score": round(float(score), 4),
                "box_xyxy": [float(v) for v in box],
                "area_px": mask.area,
                "mask": {"size": [height, width], "counts": mask.counts.decode("ascii")},
            }
            for label, score, box, mask in zip(*columns, strict=True)
        ],
        "timing_s": {name: round(seconds, 4) for name, seconds in result.timing.stages_s.items()},
    }


def _print_result(result: SegmentationResult, out: Path | None) -> None:
    word = (result.status.value.replace("_", " "), f"bold {_COLOURS[result.status]}")
    detail = result.message or f"in {result.timing.total_s:.2f} s with {result.model_id}"
    Console().print(Text.assemble(word, f": {detail}"), soft_wrap=True)
    say(*filter(None, (result.text, result.hint)))
    segments = result.segments
    if len(segments):
        table = Table("label", "score", "box x0 y0 x1 y1", "area px")
        columns = (segments.labels, segments.scores, segments.boxes_xyxy, segments.masks)
        for label, score, box, mask in zip(*columns, strict=True):
            table.add_row(Text(label), f"{score:.2f}", " ".join(f"{v:.0f}" for v in box), str(mask.area))
        Console().print(table)
    if out is not None:
        say(f"wrote {out}")
