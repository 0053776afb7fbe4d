"""`xsam eval --clips`: masks over time, on simulated clips."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from xsam.eval.clips import Sheet
    from xsam.segmenter import Engine
    from xsam.types.requests import Frame, SegmentationResult

_ROWS = {
    "jf_every_frame": "J&F, every frame segmented",
    "jf_keyframe_5": "J&F, keyframes every 5 frames",
    "jf_keyframe_10": "J&F, keyframes every 10 frames",
    "truth_jf_keyframe_5": "J&F of true masks, keyframes every 5 frames",
    "truth_jf_keyframe_10": "J&F of true masks, keyframes every 10 frames",
    "truth_jf_eager": "J&F of true masks, also keyframes when something changes",
    "truth_keyframe_share": "… share of frames that are keyframes then",
    "id_switches_per_100_every_frame": "identity switches per object and 100 frames, every frame segmented",
    "id_switches_per_100": "… keyframes every 10 frames",
    "ms_per_model_frame": "ms per frame with the model (CPU time)",
    "ms_per_propagated_frame": "ms per frame without (CPU time)",
}
_SHEET_FRAMES = 12


def evaluate_on_clips(
    load: Callable[[], Engine], seeds: range, *, pictures: Path | None, as_json: bool
) -> None:
    """Score a model on the clips of some seeds, print the scores, and end the command.

    Args:
        load: loads the model.
        seeds: of the clips.
        pictures: folder for a contact sheet of each clip; None = no pictures.
        as_json: print a line of JSON.
    """
    from xsam.eval.clips import evaluate_clips

    model = load()
    sheet = None if pictures is None else _sheet_writer(pictures)
    scores = evaluate_clips(model, seeds, show_progress=True, sheet=sheet)
    if as_json:
        typer.echo(json.dumps(scores, allow_nan=False))
    else:
        Console().print(_table(scores))
    raise typer.Exit(1 if scores["failed"] == scores["frames"] else 0)


def _table(scores: Mapping[str, Any]) -> Table:
    table = Table("score", "value", title=f"{scores['n']} clips, {scores['frames']} frames")
    for name, description in _ROWS.items():
        if scores[name] is not None:
            table.add_row(description, f"{scores[name]:.3f}")
    return table


def _sheet_writer(folder: Path) -> Sheet:
    import numpy as np

    from xsam.draw.overlay import draw_overlay
    from xsam.media.image_files import write_image

    def write(seed: int, frames: Sequence[tuple[Frame, SegmentationResult]]) -> None:
        last = len(frames) - 1
        tiles = []
        for index in range(_SHEET_FRAMES):
            frame, result = frames[index * last // (_SHEET_FRAMES - 1)]
            carried = result.carried
            title = "keyframe" if carried is None else f"{carried.frames} after, {carried.confidence:.2f}"
            ids = result.segments.track_ids.tolist()
            tiles.append(draw_overlay(frame.rgb, result.segments, title=title, numbers=ids))
        rows = [np.hstack(tiles[start : start + 4]) for start in range(0, _SHEET_FRAMES, 4)]
        write_image(folder / f"clip_{seed}.jpg", np.vstack(rows))

    return write
