"""Training curves of the stages as one picture, from the logs that the runs leave.

python -m xsam.train.curves runs/tiny --out curves.png
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

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
            "false_alarm",
        ),
    ),
)


def read_log(run: Path) -> list[dict[str, Any]]:
    """All records of a run's `log.jsonl`.

    Raises:
        TrainingConfigError: the run has no log.
    """
    file = run / "log.jsonl"
    if not file.is_file():
        raise TrainingConfigError(f"no log.jsonl in {run}")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def plot(runs: Sequence[Path], out: Path) -> None:
    """Draw the logs of consecutive runs over their summed training minutes, a panel for what they hold."""
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m xsam.train.curves`."""
    parser = argparse.ArgumentParser(prog="xsam.train.curves", description="Draw training curves.")
    parser.add_argument(
        "runs", type=Path, help="folder with stage1, stage2, stage3, continued, as far as there are"
    )
    parser.add_argument("--out", type=Path, required=True, help="PNG or SVG file")
    options = parser.parse_args(arguments)
    stages = finished_runs(options.runs)
    if not stages:
        raise TrainingConfigError(f"no stage1, stage2 or stage3 with a log in {options.runs}")
    plot(stages, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
