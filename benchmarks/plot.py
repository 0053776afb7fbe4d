"""Plot seconds by stage: `python -m benchmarks.plot report.json … --out docs/images/performance.png`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import typer

mpl.use("Agg")
import matplotlib.pyplot as plt

STAGES = ("preprocess", "encode", "language", "decode", "postprocess")
COLORS = ("#9aa5b1", "#2f6db5", "#e08a1e", "#3a9d5d", "#b5443c")
BARS = (
    ("plain", "plain,\nevery prompt"),
    ("first", "first prompt\non a frame"),
    ("next", "next prompt,\nsame frame"),
    ("eight", "eight prompts,\nnew frame"),
)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(help=__doc__)
def main(
    reports: Annotated[list[Path], typer.Argument(help="JSON files of `python -m benchmarks`.")],
    out: Annotated[Path, typer.Option(help="PNG or SVG file.")],
) -> None:
    report: dict[str, Any] = {}
    for path in reports:
        report.update(json.loads(path.read_text(encoding="utf-8")))
    sizes = [name for name in ("tiny", "mid", "full") if name in report]
    figure, panels = plt.subplots(1, len(sizes), figsize=(4.6 * len(sizes), 3.9), squeeze=False)
    for panel, name in zip(panels[0], sizes, strict=True):
        _draw(panel, name, report[name])
    panels[0][0].set_ylabel("seconds")
    machine = report["machine"]
    figure.suptitle(
        f"Time by stage, 640×480 image, {machine['cpu']}, {machine['threads']} thread(s)", fontsize=11
    )
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=len(STAGES), fontsize=9, frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(out, dpi=110)


def _draw(panel: Any, name: str, figures: dict[str, Any]) -> None:
    bottoms = [0.0] * len(BARS)
    for stage, color in zip(STAGES, COLORS, strict=True):
        heights = [figures["stages"][kind].get(stage, 0.0) for kind, _ in BARS]
        panel.bar(range(len(BARS)), heights, bottom=bottoms, color=color, width=0.68, label=stage)
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    ratios = {"first": "first_ratio", "next": "next_ratio", "eight": "eight_ratio"}
    for index, (kind, _) in enumerate(BARS):
        text = f"{bottoms[index]:.3g} s"
        if kind in ratios:
            text += f"\n{figures[ratios[kind]]:.1f}×"
        panel.text(index, bottoms[index], text, ha="center", va="bottom", fontsize=9)
    panel.set_ylim(0, max(bottoms) * 1.2)
    panel.set_xticks(range(len(BARS)), [label for _, label in BARS], fontsize=8)
    panel.set_title(f"{name}: {figures['parameters_m']:.0f} M parameters, {figures['dtype']}", fontsize=10)
    panel.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    app()
