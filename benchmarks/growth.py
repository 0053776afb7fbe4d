"""How the time after the network grows: with pixels, classes, instances, and the whole request with prompts.

python -m benchmarks growth                                  # figures as JSON
python -m benchmarks.growth report.json --out growth.png     # plots them
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from xsam.config.square import Square
from xsam.engine import XSam
from xsam.inference.postprocess import best_first, instances, panoptic, to_segments
from xsam.inference.regions import stuff_regions
from xsam.inference.upsample import MaskGeometry
from xsam.sim import render, sample_scene
from xsam.types.requests import Query

REPETITIONS = 3
QUERIES, CELLS, FOUND = 200, 64, 8
SIDES = (512, 1024, 2048, 4096)
CLASSES = (10, 40, 150, 256)
INSTANCES = (2, 8, 32, 128)
PROMPTS = (1, 2, 4, 8, 16)


def measure_growth(log: Callable[[str], None]) -> dict[str, Any]:
    """Return processor seconds by size of one thing at a time, and the steepest power of each curve.

    A power of 1 is linear: the time doubles with the size. It is fitted to the larger half of a curve, where
    what does not grow counts least.
    """
    curves: dict[str, dict[str, list[float]]] = {}

    def curve(name: str, sizes: Sequence[int], work: Callable[[int], Callable[[], object]]) -> None:
        took = [_seconds(work(size)) for size in sizes]
        curves[name] = {"size": list(map(float, sizes)), "seconds": [round(s, 5) for s in took]}
        log(f"{name}: " + ", ".join(f"{size}: {s:.3f} s" for size, s in zip(sizes, took, strict=True)))

    pixels = [side * side for side in SIDES]
    curve("pixels, stuff", pixels, lambda n: _stuff(math.isqrt(n), 150))
    curve("pixels, panoptic", pixels, lambda n: _panoptic(math.isqrt(n), 150))
    curve("pixels, instances", pixels, lambda n: _instances(math.isqrt(n), FOUND))
    curve("classes, stuff", CLASSES, lambda n: _stuff(1024, n))
    curve("classes, panoptic", CLASSES, lambda n: _panoptic(1024, n))
    curve("instances", INSTANCES, lambda n: _instances(1024, n))
    curve("prompts", PROMPTS, _prompts())
    powers = {name: round(_power(c["size"], c["seconds"]), 2) for name, c in curves.items()}
    return {"curves": curves, "powers": powers, "steepest": max(powers.values())}


def _power(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    middle = (len(sizes) - 1) // 2
    return math.log(seconds[-1] / seconds[middle]) / math.log(sizes[-1] / sizes[middle])


def _seconds(work: Callable[[], object]) -> float:
    work()
    times = []
    for _ in range(REPETITIONS):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return median(times)


def _blobs(classes: int, found: int) -> tuple[Tensor, Tensor]:
    """Return class logits (Q, K + 1) with `found` confident queries, and masks (Q, h, w) of round blobs."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.rand((2, QUERIES, 1, 1), generator=generator) * CELLS
    radii = 2 + 8 * torch.rand((QUERIES, 1, 1), generator=generator)
    cells = torch.arange(float(CELLS))
    distances = ((cells[:, None] - centers[0]) ** 2 + (cells - centers[1]) ** 2).sqrt()
    logits = torch.randn((QUERIES, classes + 1), generator=generator)
    logits[:, -1] += 8
    queries = torch.arange(found)
    logits[queries, queries * 7 % classes] += 16
    return logits, 2 * (radii - distances)


def _geometry(side: int) -> MaskGeometry:
    return MaskGeometry.for_image((side, side), Square(side=4 * CELLS))


def _stuff(side: int, classes: int) -> Callable[[], object]:
    logits = _blobs(classes, FOUND)
    return lambda: stuff_regions(*logits, _geometry(side), threshold=0.3)


def _panoptic(side: int, classes: int) -> Callable[[], object]:
    logits, stuff = _blobs(classes, FOUND), range(classes // 2, classes)
    return lambda: panoptic(*logits, _geometry(side), stuff=stuff, threshold=0.3, weigh_own=False)


def _instances(side: int, found: int) -> Callable[[], object]:
    logits, names = _blobs(256, found), [str(index) for index in range(256)]
    return lambda: to_segments(
        best_first(instances(*logits, _geometry(side), threshold=0.3), max_instances=QUERIES), names
    )


def _prompts() -> Callable[[int], Callable[[], object]]:
    engine = XSam.load("tiny", threads=1)
    rgb = render(sample_scene(0), image_hw=(480, 640)).rgb
    return lambda count: (
        lambda: engine.segment(rgb, [Query(text=f"object {index}") for index in range(count)])
    )


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(help=__doc__)
def main(
    report: Annotated[Path, typer.Argument(help="JSON file of `python -m benchmarks growth`.")],
    out: Annotated[Path, typer.Option(help="PNG or SVG file.")],
) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    curves = json.loads(report.read_text(encoding="utf-8"))["growth"]["curves"]
    kinds = list(dict.fromkeys(name.partition(",")[0] for name in curves))
    figure, panels = plt.subplots(1, len(kinds), figsize=(3.4 * len(kinds), 3.2), squeeze=False)
    for panel, kind in zip(panels[0], kinds, strict=True):
        for name, values in curves.items():
            if name.partition(",")[0] == kind:
                panel.plot(values["size"], values["seconds"], marker="o", label=name.partition(", ")[2])
        sizes, longest = values["size"], max(values["seconds"])
        panel.plot(sizes, [longest * s / sizes[-1] for s in sizes], ":", color="#9aa5b1", label="linear")
        panel.set(xscale="log", yscale="log", xlabel=kind)
        panel.legend(fontsize=7, frameon=False)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("processor seconds")
    figure.tight_layout()
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    app()
