"""Measure the model server: what it adds, what it sends, what it keeps up under load, and what it loses.

    python -m benchmarks.server                   # 8 min on 2 cores
    python -m benchmarks.server --only losses --requests 10000

All with the tiny model on loopback and one PyTorch thread; `losses` has a stand-in for it that takes 5 ms.
`plain` is what one would write first: FastAPI, the image as base64 in JSON, the model called in the handler.
`ray` is Ray Serve with two replicas and without affinity: left out where Ray is not installed.
The last line is JSON.
"""

from __future__ import annotations

import json
import tempfile
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.server import batching, latency, load
from benchmarks.server.losses import Losses
from benchmarks.server.processes import camera_frames, server_process

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


class Measurement(str, Enum):
    """Parts of the measurement."""

    LATENCY = "latency"
    LOAD = "load"
    LOSSES = "losses"
    BATCHING = "batching"


@app.command(help=__doc__)
def main(
    only: Annotated[list[Measurement] | None, typer.Option(help="Parts to measure; all by default.")] = None,
    frames: Annotated[int, typer.Option(min=3, help="Frames of latency.")] = 100,
    seconds: Annotated[float, typer.Option(min=1, help="Of each load.")] = 20.0,
    requests: Annotated[int, typer.Option(min=100, help="Requests of losses.")] = 10_000,
) -> None:
    """Run the measurement."""
    parts = set(only or Measurement)
    pictures = camera_frames(frames)
    report: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    ray: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, target in (("tiny", report), ("plain", plain), ("ray", ray)):
            if kind == "ray" and find_spec("ray") is None:
                _progress("no Ray", ray)
            elif parts & {Measurement.LATENCY, Measurement.LOAD}:
                with server_process(kind, folder) as server:
                    if Measurement.LATENCY in parts:
                        way = latency.measure_plain if kind == "plain" else latency.measure_xsam
                        target |= way(server, pictures)
                        _progress(f"latency of {kind}", target)
                    if Measurement.LOAD in parts:
                        target |= load.measure(server, pictures, seconds=seconds, loads=(0.8, 2.0))
                        _progress(f"load of {kind}", target)
        if Measurement.LOSSES in parts:
            with server_process("color", folder) as server:
                report |= Losses(server, requests).run()
                _progress("losses", report)
    if Measurement.BATCHING in parts:
        report |= batching.measure(pictures)
    typer.echo(json.dumps({**report, "plain": plain, "ray_without_affinity": ray}))


def _progress(part: str, report: dict[str, Any]) -> None:
    typer.echo(f"{part}: {json.dumps(report)}", err=True)


if __name__ == "__main__":
    app()
