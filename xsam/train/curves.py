"""Plot the training curves of all stages from the logs of their runs.

python -m xsam.train.curves runs/tiny --out curves.png
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from xsam.console import ErrorCommand
from xsam.errors import TrainingConfigError
from xsam.train.stages import finished_runs

PANELS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    # title, group of the log, names
    ("losses", "train", ("loss_llm", "loss_cls", "loss_mask", "loss_dice", "loss_grounding")),
    ("stage 1: segmentor", "val", ("iou_oracle", "iou_class", "class_of_best_query")),
    (
        "stage 2: answers right",
        "val",
        (
            "text_dialogue_locate",
            "text_dialogue_compare",
            "text_dialogue_color",
            "text_dialogue_presence",
            "text_dialogue_describe_cell",
        ),
    ),
    (
        "mixed: validation",
        "val",
        (
            "referring_miou",
            "relation_miou",
            "iou_reasoning",
            "iou_interactive",
            "absent_rejected",
            "present_rejected",
        ),
    ),
)


def read_log(run: Path) -> list[dict[str, Any]]:
    """Read all records of a run's `log.jsonl`.

    Raises:
        TrainingConfigError: the run has no log.
    """
    file = run / "log.jsonl"
    if not file.is_file():
        raise TrainingConfigError(f"no log.jsonl in {run}")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def plot(runs: Sequence[Path], out: Path) -> None:
    """Plot the logs of consecutive runs over cumulative training time, with a panel per group of curves."""
    start = 0.0
    records: list[dict[str, Any]] = []
    for run in runs:
        log = read_log(run)
        records += [{**record, "hours": (start + record["minutes"]) / 60} for record in log]
        start += log[-1]["minutes"]
    panels = [
        (title, group, curves)
        for title, group, names in PANELS
        if (curves := {name: points for name in names if (points := _points(records, group, name))})
    ]
    rows, columns = max(1, math.ceil(len(panels) / 2)), min(2, max(1, len(panels)))
    figure = Figure(figsize=(5.5 * columns, 3.5 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis, (title, group, curves) in zip(axes, panels, strict=False):
        for name, points in curves.items():
            marker = "." if group == "val" else None
            axis.plot(*zip(*points, strict=True), marker=marker, label=name.removeprefix("text_dialogue_"))
        axis.set_title(title)
        axis.set_xlabel("hours of training")
        axis.grid(alpha=0.3)
        if group == "train":
            axis.set_yscale("log")
        axis.legend(fontsize=8)
    for axis in axes[len(panels) :]:
        axis.remove()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=80)


def _points(records: Sequence[dict[str, Any]], group: str, name: str) -> list[tuple[float, float]]:
    return [(record["hours"], record[group][name]) for record in records if name in record.get(group, {})]


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(cls=ErrorCommand)
def main(
    runs: Annotated[Path, typer.Argument(help="Folder with any of stage1, stage2, stage3, continued.")],
    out: Annotated[Path, typer.Option(help="PNG or SVG file.")],
) -> None:
    """Plot training curves."""
    stages = finished_runs(runs)
    if not stages:
        raise TrainingConfigError(f"no stage1, stage2, or stage3 with a log in {runs}")
    plot(stages, out)


if __name__ == "__main__":
    app()
