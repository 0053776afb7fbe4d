"""Run the benchmarks: `python -m benchmarks --size tiny mid node`; without sizes, most of them.

Progress goes to stderr; the last line on stdout is JSON.
"""

from __future__ import annotations

import json
import sys
import time
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.contention import measure_contention
from benchmarks.growth import measure_growth
from benchmarks.machine import describe
from benchmarks.sizes import model_size
from benchmarks.speed import measure
from benchmarks.starting import measure_starting


class Size(str, Enum):
    """What to measure: the engine with a checkpoint of this size, or something else."""

    TINY = "tiny"
    MID = "mid"
    X2SAM_MID = "x2sam-mid"
    FULL = "full"
    X2SAM_FULL = "x2sam-full"
    NODE = "node"
    CONTENTION = "contention"
    GROWTH = "growth"
    STARTING = "starting"


class Clock(str, Enum):
    """Which seconds to count."""

    WALL = "wall"
    CPU = "cpu"


DEFAULT_SIZES = ("tiny", "mid", "contention", "growth", "starting", "node")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(help=__doc__)
def main(
    more: Annotated[list[Size] | None, typer.Argument(metavar="[SIZE]...", help="More sizes.")] = None,
    size: Annotated[
        list[Size] | None, typer.Option(help=f"Repeatable; default: {' '.join(DEFAULT_SIZES)}.")
    ] = None,
    cache: Annotated[Path, typer.Option(help="Folder for generated checkpoints.")] = Path("runs/bench"),
    threads: Annotated[int | None, typer.Option(min=1, help="PyTorch threads; default: all cores.")] = None,
    clock: Annotated[
        Clock, typer.Option(help="cpu: processor time, for a shared machine; needs --threads 1.")
    ] = Clock.WALL,
    once: Annotated[
        bool,
        typer.Option(
            "--once",
            help="One repetition without warm-up; eight plain prompts are estimated as eight times one.",
        ),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON to this file.")] = None,
) -> None:
    if clock is Clock.CPU and (threads or torch.get_num_threads()) != 1:
        raise typer.BadParameter("--clock cpu adds up the threads: give --threads 1")
    if threads:
        torch.set_num_threads(threads)
    seconds = time.process_time if clock is Clock.CPU else time.perf_counter
    began = time.perf_counter()

    def log(message: str) -> None:
        print(f"[bench {time.perf_counter() - began:6.1f} s] {message}", file=sys.stderr, flush=True)

    report: dict[str, Any] = {"machine": {**describe(seconds), "clock": clock.value}}
    for name in [chosen.value for chosen in (*(size or ()), *(more or ()))] or DEFAULT_SIZES:
        if name == "node":
            from benchmarks.node import measure_node

            report[name] = measure_node(log)
        elif name == "contention":
            report[name] = measure_contention(log)
        elif name == "growth":
            report[name] = measure_growth(log)
        elif name == "starting":
            report[name] = measure_starting(log)
        elif name == "x2sam-full":
            from benchmarks.full_x2sam import measure_full_x2sam

            report[name] = measure_full_x2sam(cache / name, seconds, log)
        else:
            report[name] = measure(model_size(name, cache, once=once), seconds, log)
            for line in roofline(report[name]):
                log(f"{name}: {line}")
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report))


def roofline(figures: dict[str, Any]) -> list[str]:
    """Compare each stage's speed with that of a large matrix product."""
    limit = figures["matrix_gflop_per_s"]
    lines = []
    for kind in ("first", "next"):
        for stage, gflop in figures["gflop"].get(kind, {}).items():
            seconds = figures["stages"][kind].get(stage, figures[f"{kind}_prompt_s"])
            if gflop >= 0.01:
                share = gflop / limit / seconds
                lines.append(
                    f"{kind} {stage}: {gflop:.1f} GFLOP in {seconds:.3f} s = {gflop / seconds:.1f} GFLOP/s, "
                    f"{share:.0%} of {limit:.0f}"
                )
    return lines


if __name__ == "__main__":
    app()
