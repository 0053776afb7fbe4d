"""Training curves of the stages as one picture, from the logs that the runs leave.

python -m xsam.train.curves runs/tiny --out curves.png
"""

from __future__ import annotations

import argparse
import json
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
        "stage 3: validation",
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
    """Draw the logs of consecutive runs over their summed training minutes."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2).flatten()
    start = 0.0
    logs = []
    for run in runs:
        records = read_log(run)
        logs.append([{**record, "hours": (start + record["minutes"]) / 60} for record in records])
        start += records[-1]["minutes"]
    for axis, (title, group, names) in zip(axes, PANELS, strict=True):
        for name in names:
            points = [
                (record["hours"], record[group][name])
                for records in logs
                for record in records
                if name in record.get(group, {})
            ]
            if points:
                marker = "." if group == "val" else None
                axis.plot(
                    *zip(*points, strict=True), marker=marker, label=name.removeprefix("text_dialogue_")
                )
        axis.set_title(title)
        axis.set_xlabel("hours of training")
        axis.grid(alpha=0.3)
        if group == "train":
            axis.set_yscale("log")
        if axis.has_data():
            axis.legend(fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=80)


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
