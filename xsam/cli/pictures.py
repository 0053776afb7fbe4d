"""`xsam segment` for one picture: what is printed, and the picture with its masks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from xsam.console import EXIT_CODES, print_lines
from xsam.inference.images import read_image
from xsam.media.image_files import check_output, write_image
from xsam.types.requests import Query, SegmentationResult, Status

if TYPE_CHECKING:
    from xsam.engine import XSam

_STATUS_COLORS = {
    Status.FOUND: "green",
    Status.UNSURE: "yellow",
    Status.NOT_FOUND: "yellow",
    Status.REFUSED: "red",
    Status.FAILED: "red",
}


def segment_picture(
    image: Path, query: Query, load: Callable[[], XSam], out: Path | None, as_json: bool
) -> None:
    """Segment one picture, print the result, and end the command with the exit code of its status."""
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
