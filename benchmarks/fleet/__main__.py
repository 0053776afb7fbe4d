"""Measure and simulate a fleet on Ray Serve.

    python -m benchmarks.fleet                       # 10 min on 2 cores
    python -m benchmarks.fleet --only sizing         # simulation alone: 1 min, needs no Ray

affinity: how many prompts by a frame's id find the frame, with 4 replicas and 16 robots: in peace, without
affinity, when a replica is killed, and while the fleet grows from 2 to 4.
scaling: the fleet grows from one replica to two under load, and shrinks again while few ask.
validation: two replicas at several loads, and the simulation, fed with the service times of the same run.
sizing: robots for each GPU, simulated. The times of the full model on a GPU are assumptions (--gpu-first-s,
--gpu-next-s), not measurements: see docs/fleet.md. The last line is JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from benchmarks.fleet.load import Outcomes, RobotLoad
from benchmarks.fleet.simulation import SimulatedFleet, simulate

if TYPE_CHECKING:
    from support.fleet import RunningFleet

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


class FleetPart(str, Enum):
    """Parts of the measurement."""

    AFFINITY = "affinity"
    SCALING = "scaling"
    VALIDATION = "validation"
    SIZING = "sizing"


GOOD = 0.99
"""Share of the prompts that must be answered in time for a fleet to count as large enough."""


@app.command(help=__doc__)
def main(
    only: Annotated[list[FleetPart] | None, typer.Option(help="Parts to measure; all by default.")] = None,
    seconds: Annotated[float, typer.Option(min=2, help="Of each load on a real fleet.")] = 30.0,
    new_s: Annotated[float, typer.Option(min=0.01, help="Stand-in's time for a new frame.")] = 0.4,
    same_s: Annotated[float, typer.Option(min=0.01, help="Stand-in's time for a known frame.")] = 0.1,
    tiny: Annotated[bool, typer.Option("--tiny", help="Validate and scale the tiny model instead.")] = False,
    load: Annotated[
        list[float] | None,
        typer.Option(help="Of validation: share of what two replicas keep up; 0.6, 1 and 1.5 by default."),
    ] = None,
    gpu_first_s: Annotated[float, typer.Option(help="Full model, first prompt on a frame.")] = 0.16,
    gpu_next_s: Annotated[float, typer.Option(help="Full model, further prompt on a frame.")] = 0.04,
) -> None:
    """Run the measurement."""
    parts = set(only or FleetPart)
    report: dict[str, Any] = {}
    if parts & {FleetPart.AFFINITY, FleetPart.SCALING, FleetPart.VALIDATION}:
        from support.fleet import running_ray

        with running_ray(), tempfile.TemporaryDirectory() as folder:
            if FleetPart.AFFINITY in parts:
                report["affinity"] = measure_affinity(Path(folder), seconds)
            if FleetPart.SCALING in parts:
                report["scaling"] = measure_scaling(Path(folder), seconds, new_s, same_s, tiny=tiny)
            if FleetPart.VALIDATION in parts:
                report["validation"] = validate(
                    Path(folder), seconds, new_s, same_s, tiny=tiny, shares=load or (0.6, 1.0, 1.5)
                )
    if FleetPart.SIZING in parts:
        report["sizing"] = size(gpu_first_s, gpu_next_s)
    typer.echo(json.dumps(report))


def measure_affinity(folder: Path, seconds: float) -> dict[str, Any]:
    """Return hit rates of 16 robots that ask three times about a frame every 10 s."""
    from benchmarks.fleet.real import RobotsAtWork, sleeping_fleet

    load = RobotLoad(robots=16, hz=0.1, prompts=3, deadline_s=20.0, seconds=seconds)
    found: dict[str, Any] = {}

    def kill() -> None:
        pids = [int(path.name.split("-")[1]) for path in folder.glob("replica-*")]
        alive = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
        os.kill(random.Random(0).choice(alive), signal.SIGKILL)

    calls = {"new_s": 0.02, "same_s": 0.01}
    with sleeping_fleet(folder, min_replicas=4, **calls) as fleet:
        found["affinity"] = _told("affinity", RobotsAtWork(fleet, load).run().outcomes)
        found["a replica is killed"] = _told("killed", RobotsAtWork(fleet, load).run(kill).outcomes)
    with sleeping_fleet(folder, min_replicas=4, affinity=False, **calls) as fleet:
        found["without affinity"] = _told("without", RobotsAtWork(fleet, load).run().outcomes)
    growing = {"min_replicas": 2, "max_replicas": 4, "target_ongoing_requests": 0.05, "upscale_delay_s": 0}
    with sleeping_fleet(folder, **growing, **calls) as fleet:
        found["grows from 2 to 4"] = _told("grows", RobotsAtWork(fleet, load).run().outcomes)
    return found


def measure_scaling(
    folder: Path, seconds: float, new_s: float, same_s: float, *, tiny: bool
) -> dict[str, Any]:
    """Let many robots ask until there are two replicas, then few until there is one again."""
    from benchmarks.fleet.real import RobotsAtWork

    scaled = {"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 1.0}
    delays = {"upscale_delay_s": 0.0, "downscale_delay_s": 5.0}
    found: dict[str, Any] = {}
    with _fleet_of(folder, new_s, same_s, tiny=tiny)(**scaled, **delays) as fleet:
        for name, robots, hz, replicas in (("grows", 8, 0.5, 2), ("shrinks", 2, 0.25, 1)):
            load = RobotLoad(robots=robots, hz=hz, prompts=3, deadline_s=20.0, seconds=seconds)
            with ThreadPoolExecutor(1) as thread:
                work = thread.submit(RobotsAtWork(fleet, load).run)
                took_s = _seconds_until_replicas(replicas, work)
                found[name] = {"after_s": took_s, **_told(name, work.result().outcomes)}
    return found


def _seconds_until_replicas(count: int, work: Future[Any]) -> float | None:
    """Watch a fleet while somebody works; return when it had this many replicas and no others, if it had."""
    from support.fleet import replica_states

    began_s = time.monotonic()
    while not work.done():
        if replica_states() == {"RUNNING": count}:
            return round(time.monotonic() - began_s, 1)
        time.sleep(0.2)
    return None


def _fleet_of(
    folder: Path, new_s: float, same_s: float, *, tiny: bool
) -> Callable[..., AbstractContextManager[RunningFleet]]:
    from benchmarks.fleet.real import sleeping_fleet
    from benchmarks.server.program import load_timed_tiny
    from support.fleet import running_fleet

    if tiny:
        return partial(running_fleet, load_timed_tiny, threads=1)
    return partial(sleeping_fleet, folder, new_s=new_s, same_s=same_s)


def validate(
    folder: Path, seconds: float, new_s: float, same_s: float, *, tiny: bool, shares: Sequence[float]
) -> dict[str, Any]:
    """Compare two real replicas with two simulated ones, at shares of what they keep up."""
    from benchmarks.fleet.real import RobotsAtWork

    prompts, replicas = 2, 2
    found: dict[str, Any] = {}
    with _fleet_of(folder, new_s, same_s, tiny=tiny)(min_replicas=replicas) as fleet:
        hz = 0.3 / (new_s + prompts * same_s)
        alone = RobotLoad(robots=1, hz=hz, prompts=prompts, deadline_s=60.0, seconds=max(20.0, seconds / 2))
        quiet = RobotsAtWork(fleet, alone).run()
        frame_s = float(np.mean(quiet.engine_s["new"]) + (prompts - 1) * np.mean(quiet.engine_s["same"]))
        for share in shares:
            robots = 12
            load = RobotLoad(
                robots=robots,
                hz=share * replicas / frame_s / robots,
                prompts=prompts,
                deadline_s=4 * frame_s + 1.0,
                seconds=seconds,
            )
            real = RobotsAtWork(fleet, load).run()
            if not all(real.engine_s.values()):  # nothing to feed the simulation with
                found[f"load {share:.0%}"] = {"measured": _told(f"load {share:.0%}", real.outcomes)}
                continue
            model = SimulatedFleet(
                replicas=replicas,
                new_s=real.engine_s["new"],
                same_s=real.engine_s["same"],
                overhead_s=float(np.median(quiet.outside_s)),
            )
            simulated = simulate(model, load)
            measured, predicted = real.outcomes.report(), simulated.report()
            found[f"load {share:.0%}"] = {
                "measured": measured,
                "simulated": predicted,
                "difference": round(abs(predicted["goodput"] / measured["goodput"] - 1), 3),
                "engine_new_ms": round(1000 * float(np.mean(real.engine_s["new"])), 1),
                "engine_same_ms": round(1000 * float(np.mean(real.engine_s["same"])), 1),
                "overhead_ms": round(1000 * model.overhead_s, 1),
            }
            typer.echo(f"load {share:.0%}: {json.dumps(found[f'load {share:.0%}'])}", err=True)
    return found


def size(first_s: float, next_s: float) -> list[dict[str, Any]]:
    """Return how many robots one GPU and four GPUs keep up, simulated; deadline 1 s for each prompt."""
    rows = []
    ways: dict[str, dict[str, Any]] = {
        "affinity": {},
        "affinity, batches of 4 with 1.3 times the frames": {"batch": 4, "batch_gain": 1.3},
        "no affinity": {"affinity": False},
    }
    for replicas in (1, 4):
        for hz in (1.0, 5.0):
            for prompts in (1, 2, 3):
                for way, options in ways.items():
                    if replicas == 1 and way == "no affinity":
                        continue
                    fleet = SimulatedFleet(
                        replicas=replicas,
                        new_s=_spread(first_s),
                        same_s=_spread(next_s),
                        overhead_s=0.02,
                        **options,
                    )
                    robots, outcomes = _most_robots(fleet, hz, prompts)
                    rows.append(
                        {
                            "gpus": replicas,
                            "hz": hz,
                            "prompts": prompts,
                            "way": way,
                            "robots": robots,
                            "robots_per_gpu": round(robots / replicas, 2),
                            **{key: outcomes[key] for key in ("goodput", "p50_ms", "p99_ms", "hit_rate")},
                        }
                    )
                    typer.echo(json.dumps(rows[-1]), err=True)
    return rows


def _most_robots(fleet: SimulatedFleet, hz: float, prompts: int) -> tuple[int, dict[str, Any]]:
    """Return the most robots for which nearly all prompts are answered in time, and how it goes with them."""

    def outcomes(robots: int) -> dict[str, Any]:
        load = RobotLoad(robots=robots, hz=hz, prompts=prompts, deadline_s=1.0, seconds=120.0 / hz)
        return simulate(fleet, load).report()

    low, high = 0, 1
    while outcomes(high)["goodput"] >= GOOD:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if outcomes(middle)["goodput"] >= GOOD else (low, middle)
    return low, outcomes(max(1, low))


def _spread(seconds: float) -> list[float]:
    """Return service times that differ by 10 %."""
    return [seconds * factor for factor in (0.9, 0.95, 1.0, 1.05, 1.1)]


def _told(part: str, outcomes: Outcomes) -> dict[str, Any]:
    report = outcomes.report()
    typer.echo(f"{part}: {json.dumps(report)}", err=True)
    return report


if __name__ == "__main__":
    app()
